package ingress

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain wants every goroutine that the tests have started to have ended.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
