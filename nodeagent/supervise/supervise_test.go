package supervise

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lockstep/nodeagent/process"
)

// TestKeep kills a service, which then fails to start once.
func TestKeep(t *testing.T) {
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

// TestHangs stops a service, which lives on and answers no more: it is killed after three questions and started again. One
// that misses an answer now and then is left alone.
func TestHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pids, hung := make(chan int, 2), make(chan string, 2)
	var questions atomic.Int64
	var stopped atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- Keep(ctx, Service{
			Start: func(context.Context) (int, error) {
				cmd := exec.Command("sleep", "1000")
				if err := cmd.Start(); err != nil {
					return 0, err
				}
				go func() { _ = cmd.Wait() }()
				pids <- cmd.Process.Pid
				return cmd.Process.Pid, nil
			},
			Every: 5 * time.Millisecond,
			Answers: func(ctx context.Context) error {
				if stopped.Load() {
					<-ctx.Done()
					return ctx.Err()
				}
				if questions.Add(1)%patience != 0 {
					return errors.New("busy")
				}
				return nil
			},
			Hangs: func(err error) {
				stopped.Store(false)
				hung <- err.Error()
			},
		})
	}()
	first := <-pids
	for deadline := time.Now().Add(20 * time.Second); questions.Load() < 30; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || len(hung) > 0 {
			t.Fatalf("%d questions, %d times found to hang", questions.Load(), len(hung))
		}
	}
	if err := syscall.Kill(first, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped.Store(true)
	if why := <-hung; why != context.DeadlineExceeded.Error() {
		t.Errorf("it hangs for %q", why)
	}
	second := <-pids
	if process.Alive(first) {
		t.Error("the one that hung lives")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Keep = %v", err)
	}
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Errorf("it did not outlive its keeper: %v", err)
	}
}
