package thread

import (
	"errors"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOwn changes the threads it is given, and looks whether one of them is ever given again.
func TestOwn(t *testing.T) {
	failed := errors.New("failed")
	const mark = 18 // of niceness, which is each thread's own; anybody may raise it
	for range 100 {
		if err := Own(func() error {
			me := unix.Gettid()
			before, err := unix.Getpriority(unix.PRIO_PROCESS, me)
			if err != nil {
				return err
			}
			if before == 20-mark { // as the system call has it
				t.Error("a thread was used again")
			}
			return errors.Join(failed, unix.Setpriority(unix.PRIO_PROCESS, me, mark))
		}); !errors.Is(err, failed) {
			t.Fatalf("got %v, want %v", err, failed)
		}
	}
	if now, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid()); err != nil || now == 20-mark {
		t.Errorf("this thread was used: %d, %v", now, err)
	}
}
