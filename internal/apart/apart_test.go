package apart

import (
	"os"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"lockstep/internal/asroot"
)

var outside = namespace()

func namespace() string {
	name, _ := os.Readlink("/proc/self/ns/uts")
	return name
}

func TestMain(m *testing.M) {
	asroot.Main("the tests of internal/apart")
	if os.Getenv("APART_OUTSIDE") == "" {
		os.Setenv("APART_OUTSIDE", outside)
	}
	Main(syscall.CLONE_NEWUTS)
	goleak.VerifyTestMain(m)
}

func TestMainIsApart(t *testing.T) {
	if was := os.Getenv("APART_OUTSIDE"); was == "" || namespace() == was {
		t.Errorf("the namespace is %s, outside it is %s", namespace(), was)
	}
}
