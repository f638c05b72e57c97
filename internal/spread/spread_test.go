package spread

import (
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOver(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 9, 10, 11, 1000} {
		calls := make([]atomic.Int32, n)
		Over(n, 10, func(i int) { calls[i].Add(1) })
		for i := range calls {
			if got := calls[i].Load(); got != 1 {
				t.Errorf("of %d, %d was called %d times", n, i, got)
			}
		}
	}
}
