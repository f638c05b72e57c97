package eventually

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		looks := 0
		look := func(takes time.Duration, enough int) func() error {
			return func() error {
				time.Sleep(takes)
				if looks++; looks == enough {
					return nil
				}
				return fmt.Errorf("look %d", looks)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, c := range []struct {
			what   string
			check  func() error
			looks  int
			takes  time.Duration
			failed bool
		}{
			{"at once", look(0, 1), 1, 0, false},
			{"soon", look(0, 5), 5, 15 * time.Millisecond, false},
			{"looks that take long", look(time.Second, 3), 3, 5 * time.Second, false},
			// What is left of the ten seconds, and one look at their end.
			{"never", look(0, 0), 106, 4985 * time.Millisecond, true},
			{"after the end", look(0, 0), 1, 0, true},
		} {
			looks, began = 0, time.Now()
			err := Do(ctx, c.check)
			if took := time.Since(began); looks != c.looks || took != c.takes || (err != nil) != c.failed {
				t.Errorf("%s: %v after %d looks and %s, want %d and %s", c.what, err, looks, took, c.looks, c.takes)
			}
			if c.failed && err.Error() != fmt.Sprintf("look %d", looks) {
				t.Errorf("%s: %v is not the last error", c.what, err)
			}
		}
	})
}

// failing is a test that notes how it failed.
type failing struct {
	testing.TB
	told string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) { f.told = fmt.Sprintf(format, args...) }

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{}
		Nil(f, time.Second, "the pod", func() error { return errors.New("is pending") })
		if f.told != "not within 1s: the pod: is pending" {
			t.Errorf("told %q", f.told)
		}
		True(f, time.Minute, "silence", func() bool { return false })
		if f.told != "not within 1m0s: silence: it does not hold" {
			t.Errorf("told %q", f.told)
		}
	})
}
