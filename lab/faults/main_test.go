package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"lockstep/lab/programs"
)

// Programs that the tests need, by path.
var lockstep, lockstepLab, load string

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("SKIPPED: a lab needs root")
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "faults-")
	if err == nil {
		err = find(dir)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Println(err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// find finds lockstep and lockstep-lab in $LOCKSTEP_BIN, or builds them; what runs in containers it always builds.
func find(dir string) error {
	bin, err := programs.Find(dir, map[string]string{"load": "lockstep/lab/faults/load"})
	if err != nil {
		return err
	}
	lockstep, lockstepLab, load = filepath.Join(bin, "lockstep"), filepath.Join(bin, "lockstep-lab"), filepath.Join(dir, "load")
	return nil
}
