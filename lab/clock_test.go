package lab

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tellTime is set where the test's program is to print the time, a line of seconds for each line that it reads.
const tellTime = "LAB_TEST_TELLS_TIME"

// TestSkew puts the clock of a process that reads it all the time ahead, back, and right, and its monotonic clock goes on.
func TestSkew(t *testing.T) {
	if os.Getenv(tellTime) != "" {
		tell()
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSkew$")
	cmd.Env = append(os.Environ(), tellTime+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	answers := bufio.NewScanner(out)
	ask := func() (off, since time.Duration) {
		t.Helper()
		if _, err := fmt.Fprintln(in); err != nil || !answers.Scan() {
			t.Fatalf("it does not answer: %v %v", err, answers.Err())
		}
		numbers := strings.Fields(answers.Text())
		at, err := strconv.ParseInt(numbers[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		passed, err := strconv.ParseInt(numbers[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Unix(0, at).Sub(time.Now()), time.Duration(passed)
	}
	if off, _ := ask(); off.Abs() > time.Minute {
		t.Fatalf("before, its clock is off by %s", off)
	}
	p := newProcess(cmd.Process.Pid)
	for _, by := range []time.Duration{time.Hour, -24 * time.Hour, 0} {
		if err := skew(p, by); err != nil {
			t.Fatal(err)
		}
		off, since := ask()
		if (off - by).Abs() > time.Minute {
			t.Errorf("its clock is off by %s, want %s", off, by)
		}
		if since < 0 || since > time.Minute {
			t.Errorf("it has measured %s since it began", since)
		}
	}
	if err := skew(newProcess(1<<22+1), time.Second); err == nil {
		t.Error("the clock of a process that is not there was put off")
	}
}

// tell prints the time, and how much has passed since it began, while others read the clock all the time.
func tell() {
	began := time.Now()
	go func() {
		for time.Since(began) >= 0 {
			time.Sleep(10 * time.Microsecond)
		}
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		now := time.Now()
		fmt.Println(now.UnixNano(), now.Sub(began).Nanoseconds())
	}
	os.Exit(0)
}
