package programs

import (
	"fmt"
	"os"
	"testing"
)

// Main is the TestMain of packages whose tests need root and programs: it hands prepare a folder of the run's own, runs
// the tests, calls after, also where prepare has failed, removes the folder and exits. Without root it says loudly that
// the tests were skipped, and why; under CI=true that is a failure.
func Main(m *testing.M, needsRoot string, prepare func(dir string) error, after ...func(dir string) error) {
	if os.Getuid() != 0 {
		fmt.Println("SKIPPED: " + needsRoot)
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "lockstep-test-")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	code := 1
	if err := prepare(dir); err != nil {
		fmt.Println(err)
	} else {
		code = m.Run()
	}
	for _, f := range append(after, os.RemoveAll) {
		if err := f(dir); err != nil {
			fmt.Println(err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}
