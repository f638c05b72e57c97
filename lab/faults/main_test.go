package faults

import (
	"path/filepath"
	"testing"

	"lockstep/lab/programs"
)

// Programs that the tests need, by path.
var lockstep, lockstepLab, load string

func TestMain(m *testing.M) {
	programs.Main(m, "the tests of a lab", find)
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
