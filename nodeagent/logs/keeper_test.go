package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/starved"
)

// printer prints numbered lines into a FIFO as a container does, at about 10 MB/s, and notes how long it had to wait.
type printer struct {
	fd      int
	line    int
	longest time.Duration // for which the pipe was full
	before  time.Duration // how long this process had waited for a processor at the beginning
}

// checkWait fails if the container had to wait for longer than its keepers, or this process, waited for a processor.
func (p *printer) checkWait(t *testing.T, keepers ...int) {
	t.Helper()
	busy := starved.Of(os.Getpid()) - p.before
	for _, pid := range keepers {
		busy += starved.Of(pid)
	}
	if p.longest-busy >= 100*time.Millisecond {
		t.Errorf("the container waited %v, and they %v for a processor", p.longest, busy)
	}
}

// newPrinter opens the FIFO as containerd's shim does: both directions, so that it survives the keeper.
func newPrinter(t *testing.T, path string) *printer {
	t.Helper()
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	return &printer{fd: fd, before: starved.Of(os.Getpid())}
}

// print prints lines of 100 bytes at 10 MB/s for the time given.
func (p *printer) print(ctx context.Context, d time.Duration) error {
	const every, perTick = 5 * time.Millisecond, 500 // 500 × 100 B every 5 ms
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		var text []byte
		for range perTick {
			text = fmt.Appendf(text, "line %08d %s\n", p.line, strings.Repeat("x", 85))
			p.line++
		}
		if err := p.write(ctx, text); err != nil {
			return err
		}
		<-ticks.C
	}
	return nil
}

func (p *printer) write(ctx context.Context, text []byte) error {
	var full time.Time
	for len(text) > 0 {
		n, err := syscall.Write(p.fd, text)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			if full.IsZero() {
				full = time.Now()
			}
			if ctx.Err() != nil {
				return errors.New("the pipe stays full")
			}
			time.Sleep(time.Millisecond)
		case err != nil && !errors.Is(err, syscall.EINTR):
			return err
		case n > 0:
			if !full.IsZero() {
				p.longest = max(p.longest, time.Since(full))
				full = time.Time{}
			}
			text = text[n:]
		}
	}
	return nil
}

// checkLines wants every line, once, in order.
func checkLines(t *testing.T, got []byte, lines int) {
	t.Helper()
	n := 0
	for line := range bytes.Lines(got) {
		if want := fmt.Sprintf("line %08d ", n); !bytes.HasPrefix(line, []byte(want)) || len(line) != 100 {
			t.Fatalf("line %d is %.40q…, %d bytes", n, line, len(line))
		}
		n++
	}
	if n != lines {
		t.Fatalf("%d lines of %d", n, lines)
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Read(testContext(t), path, nil, &out, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestNothingIsLost prints at 10 MB/s while clients come and go, keepers hand over, files rotate, and somebody follows.
func TestNothingIsLost(t *testing.T) {
	ctx, dir := testContext(t), testDir(t)
	c, err := Ensure(ctx, Options{RunDir: dir, Build: "0"})
	if err != nil {
		t.Fatal(err)
	}
	s := testStream(dir, "c")
	if err := c.Open(ctx, s); err != nil {
		t.Fatal(err)
	}
	for i := range 150 { // more descriptors than one message takes
		if err := c.Open(ctx, testStream(dir, fmt.Sprintf("other-%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	p := newPrinter(t, s.Stdout)
	var others sync.WaitGroup
	ended := make(chan struct{})
	var followed bytes.Buffer
	others.Go(func() {
		err := Read(ctx, s.Path, &corev1.PodLogOptions{Follow: true}, &followed, func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
		if err != nil && ctx.Err() == nil {
			t.Errorf("following: %v", err)
		}
	})
	printed := make(chan error, 1)
	go func() { printed <- p.print(ctx, 1500*time.Millisecond) }()
	pids := map[int]bool{}
	for i := range 5 {
		time.Sleep(200 * time.Millisecond)
		next, err := Ensure(ctx, Options{RunDir: dir, Build: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		stats, err := next.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		pids[stats.PID] = true
		if len(stats.Streams) != 151 {
			t.Fatalf("keeper %d has %d streams", i, len(stats.Streams))
		}
	}
	if err := <-printed; err != nil {
		t.Fatal(err)
	}
	if len(pids) != 5 {
		t.Errorf("there were %d keepers, want 5", len(pids))
	}
	stats, err := c.Stats(ctx) // a client of the first keeper asks the last
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats.Streams {
		if s.DroppedLines > 0 || s.Error != "" {
			t.Errorf("stream %s: %+v", s.Stream.ID, s)
		}
	}
	if err := c.Close(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	close(ended)
	others.Wait()
	checkLines(t, readAll(t, s.Path), p.line)
	checkLines(t, followed.Bytes(), p.line)
	if files, _ := filepath.Glob(s.Path + "*"); len(files) < p.line*100>>20 {
		t.Errorf("%d files for %d MiB", len(files), p.line*100>>20)
	}
	p.checkWait(t, slices.Collect(maps.Keys(pids))...)
	if _, err := os.Stat(s.Stdout); !os.IsNotExist(err) {
		t.Errorf("the fifo is still there: %v", err)
	}
}

// TestKeeperOutlivesItsAgent kills the process that started the keeper, with its whole process group.
func TestKeeperOutlivesItsAgent(t *testing.T) {
	ctx, dir := testContext(t), testDir(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LOGS_TEST=agent", "LOGS_DIR="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 5)
	if _, err := out.Read(line); err != nil {
		t.Fatal(err)
	}
	s := testStream(dir, "c")
	p := newPrinter(t, s.Stdout)
	printed := make(chan error, 1)
	go func() { printed <- p.print(ctx, 500*time.Millisecond) }()
	time.Sleep(200 * time.Millisecond)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
	if err := <-printed; err != nil {
		t.Fatal(err)
	}
	c, err := Ensure(ctx, Options{RunDir: dir, Build: "one"})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if sid, err := unix.Getsid(stats.PID); err != nil || sid != stats.PID {
		t.Errorf("the keeper's session is %d, its pid %d: %v", sid, stats.PID, err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", stats.PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		if !strings.Contains(line, "/lockstep-test-logs/"+filepath.Base(dir)) {
			t.Errorf("the keeper is in %s", line)
		}
	}
	if err := c.Close(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	checkLines(t, readAll(t, s.Path), p.line)
	p.checkWait(t, stats.PID)
}

// TestKilledKeeperIsReplaced kills the keeper itself: the container goes on, and does not wait.
func TestKilledKeeperIsReplaced(t *testing.T) {
	ctx, dir := testContext(t), testDir(t)
	told := make(chan string, 10)
	c, err := Ensure(ctx, Options{RunDir: dir, Build: "0", Ended: func() { told <- "ended" }, Started: func() { told <- "started" }})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { _ = c.Run(running) })
	defer watch.Wait()
	defer stop()
	s := testStream(dir, "c")
	if err := c.Open(ctx, s); err != nil {
		t.Fatal(err)
	}
	before, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := newPrinter(t, s.Stdout)
	text := func(n int) []byte { return fmt.Appendf(nil, "line %d\n", n) }
	if err := p.write(ctx, text(1)); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, s.Path, "line 1\n")
	awaitWatch(t) // an end that nobody watched yet is told by nobody
	kill(t, before.PID)
	if err := p.write(ctx, text(2)); err != nil { // no EPIPE: the other end is open
		t.Fatal(err)
	}
	awaitLog(t, s.Path, "line 1\nline 2\n") // by itself: nobody asked for anything
	after, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after.PID == before.PID || len(after.Streams) != 1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if err := p.print(ctx, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	kill(t, after.PID)
	if err := p.print(ctx, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	last, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p.checkWait(t, last.PID)
	for _, want := range []string{"ended", "started", "ended", "started"} {
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %s, want %s", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("not told that it %s", want)
		}
	}
}

// awaitWatch waits until a keeper's end is waited for.
func awaitWatch(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("supervise.Service.wait(")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody watches the keeper")
		}
	}
}

func awaitLog(t *testing.T, path, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		var out bytes.Buffer
		err := Read(context.Background(), path, nil, &out, nil)
		if err == nil && out.String() == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log is %q (%v), want %q", out.String(), err, want)
		}
	}
}

// TestFullDisk fills the disk of the logs: output is dropped, counted, and told; nobody waits; whole lines only.
func TestFullDisk(t *testing.T) {
	ctx, dir := testContext(t), testDir(t)
	pods := filepath.Join(dir, "pods")
	if err := os.Mkdir(pods, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", pods, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(pods, syscall.MNT_DETACH) })
	c, err := Ensure(ctx, Options{RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s := testStream(dir, "c")
	if err := c.Open(ctx, s); err != nil {
		t.Fatal(err)
	}
	p := newPrinter(t, s.Stdout)
	if err := p.print(ctx, 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	var got StreamStats
	// All of it is read, and what is queued is written or lost.
	deadline := time.Now().Add(10 * time.Second)
	for ; got.Bytes < int64(p.line*100) || got.Lines+got.DroppedLines < int64(p.line); time.Sleep(5 * time.Millisecond) {
		stats, err := c.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got = stats.Streams[0]
		if time.Now().After(deadline) {
			t.Fatalf("the keeper has stopped reading: %+v", got)
		}
	}
	if got.Lines == 0 || got.DroppedLines == 0 || got.Lines+got.DroppedLines != int64(p.line) {
		t.Errorf("of %d lines: %+v", p.line, got)
	}
	if want := "cannot write " + s.Path + ": no space left on device"; got.Error != want {
		t.Errorf("got error %q, want %q", got.Error, want)
	}
	p.checkWait(t)
	written := 0
	for line := range bytes.Lines(readAll(t, s.Path)) { // small pieces may have found room between lost ones
		if bytes.HasPrefix(line, []byte("[lockstep: ")) {
			continue // what was lost before a piece that found room
		}
		if written++; len(line) != 100 || !bytes.HasPrefix(line, []byte("line ")) {
			t.Fatalf("a torn line: %q", line)
		}
	}
	if written != int(got.Lines) {
		t.Errorf("%d lines in the file, %d counted", written, got.Lines)
	}

	if err := os.Truncate(s.Path, 0); err != nil { // there is room again
		t.Fatal(err)
	}
	if err := p.write(ctx, []byte("after\n")); err != nil {
		t.Fatal(err)
	}
	gap := "" // told before the file was cut, where a page of it had room
	if text := awaitGap(t, s.Path); strings.HasPrefix(text, "[lockstep: ") {
		gap = got.Gaps[0].String() + "\n"
	}
	awaitLog(t, s.Path, gap+"after\n")
	stats, err := c.Stats(ctx)
	if err != nil || stats.Streams[0].Error != "" || stats.Streams[0].Gaps[0].Lines != 0 {
		t.Errorf("got %+v, %v", stats, err)
	}
}

// awaitGap waits until the log has something, and returns it.
func awaitGap(t *testing.T, path string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var out bytes.Buffer
		if err := Read(context.Background(), path, nil, &out, nil); err == nil && out.Len() > 0 {
			return out.String()
		}
		if time.Now().After(deadline) {
			t.Fatal("the log tells nothing")
		}
	}
}

// TestReadOnlyDisk keeps a stream on a disk that can only be read, hands it over, and lets the disk be written again: each
// output tells what it lost, though the keeper that lost it is gone.
func TestReadOnlyDisk(t *testing.T) {
	ctx, dir := testContext(t), testDir(t)
	pods := filepath.Join(dir, "pods")
	if err := os.Mkdir(pods, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", pods, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(pods, syscall.MNT_DETACH) })
	c, err := Ensure(ctx, Options{RunDir: dir, Build: "one"})
	if err != nil {
		t.Fatal(err)
	}
	s := testStream(dir, "c")
	if err := c.Open(ctx, s); err != nil {
		t.Fatal(err)
	}
	for fifo, text := range map[string]string{s.Stdout: "one\ntwo\n", s.Stderr: "three\n"} {
		if err := newPrinter(t, fifo).write(ctx, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stats, err := c.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if stats.Streams[0].DroppedLines == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", stats.Streams[0])
		}
	}
	if err := c.Replace(ctx); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", pods, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	text := awaitGap(t, s.Path)
	for _, part := range []string{"[lockstep: 2 lines (", "[lockstep: 1 lines (", "read-only file system]\n"} {
		if !strings.Contains(text, part) {
			t.Errorf("the log lacks %q: %q", part, text)
		}
	}
}

func TestBothOutputsAndALineWithoutEnd(t *testing.T) {
	ctx, dir := testContext(t), testDir(t)
	c, err := Ensure(ctx, Options{RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s := testStream(dir, "c")
	for range 2 { // opening and closing twice is the same as once
		if err := c.Open(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	out, errs := newPrinter(t, s.Stdout), newPrinter(t, s.Stderr)
	if err := errs.write(ctx, []byte("oh\n")); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, s.Path, "oh\n")
	if err := out.write(ctx, []byte("no end")); err != nil {
		t.Fatal(err)
	}
	if err := c.Replace(ctx); err != nil { // what is not a line yet goes along
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(ctx, "c"); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(readAll(t, s.Path)); got != "oh\nno end" {
		t.Errorf("got %q", got)
	}
	if err := c.Open(ctx, Stream{ID: "x"}); err == nil || !strings.HasPrefix(err.Error(), `cannot open log stream "x": `) {
		t.Errorf("got %v", err)
	}
}
