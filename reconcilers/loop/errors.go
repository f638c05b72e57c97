package loop

import (
	"errors"
	"time"
)

// stalled and waiting carry the retry policy of an error in its type; every other error is transient.
type stalled struct{ error }

func (e stalled) Unwrap() error { return e.error }

type waiting struct {
	error
	after time.Duration
}

func (e waiting) Unwrap() error { return e.error }

// Stall marks an error that only a change of what the loop reads can mend: it is not retried.
func Stall(err error) error { return stalled{err} }

// WaitFor marks an error that is worth a retry after d.
func WaitFor(d time.Duration, err error) error { return waiting{err, d} }

// IsStalled says whether the error was marked by Stall.
func IsStalled(err error) bool {
	var s stalled
	return errors.As(err, &s)
}

// IsWaiting returns how long to wait where the error was marked by WaitFor.
func IsWaiting(err error) (time.Duration, bool) {
	var w waiting
	if errors.As(err, &w) {
		return w.after, true
	}
	return 0, false
}
