// Package asroot keeps tests that need root from running without it, loudly.
package asroot

import (
	"fmt"
	"os"
	"testing"
)

// Main returns if the test program runs as root, and else ends it before any test: it says that what, in the plural, was
// skipped, which is a failure under CI=true. TestMain calls it first; so `make check` leaves its package to `make test`.
func Main(what string) {
	if os.Getuid() == 0 {
		return
	}
	fmt.Printf("SKIPPED: %s need root\n", what)
	if os.Getenv("CI") == "true" {
		os.Exit(1)
	}
	os.Exit(0)
}

// Test skips a test that does not run as root; under CI=true that is a failure. Under -short it is skipped in any case: the
// inner loop does the same whoever runs it.
func Test(t testing.TB) {
	t.Helper()
	if testing.Short() || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, and to be run as a whole")
		}
		t.Skip("SKIPPED: needs root")
	}
}
