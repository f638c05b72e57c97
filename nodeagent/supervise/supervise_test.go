package supervise

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestKeep kills a service, which then fails to start once.
func TestKeep(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pids, told, starts := make(chan int), make(chan string, 10), 0
	done := make(chan error, 1)
	go func() {
		done <- Keep(ctx, Service{
			Start: func(context.Context) (int, error) {
				if starts++; starts == 2 {
					return 0, errors.New("not now")
				}
				cmd := exec.Command("sleep", "1000")
				if err := cmd.Start(); err != nil {
					return 0, err
				}
				go func() { _ = cmd.Wait() }()
				pids <- cmd.Process.Pid
				return cmd.Process.Pid, nil
			},
			Ended:   func() { told <- "ended" },
			Started: func() { told <- "started" },
			Failed:  func(err error, again time.Duration) { told <- err.Error() + " for " + again.String() },
		})
	}()
	if err := syscall.Kill(<-pids, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := <-pids
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Keep = %v", err)
	}
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Errorf("it did not outlive its keeper: %v", err)
	}
	close(told)
	var got []string
	for text := range told {
		got = append(got, text)
	}
	if got, want := strings.Join(got, ", "), "ended, not now for 100ms"; !strings.HasPrefix(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}
