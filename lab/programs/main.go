package programs

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"lockstep/internal/asroot"
)

// Main is the TestMain of packages whose tests need root and programs: it hands prepare a folder of the run's own, runs
// the tests, calls after, also where prepare has failed, removes the folder, looks for goroutines that stay, and exits.
// What they are, in the plural, is told where they are skipped for lack of root; see asroot.Main.
func Main(m *testing.M, what string, prepare func(dir string) error, after ...func(dir string) error) {
	asroot.Main(what)
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
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}
