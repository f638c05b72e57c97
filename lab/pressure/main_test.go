package pressure

import (
	"path/filepath"
	"testing"

	"lockstep/lab/programs"
)

// Programs that the test needs, by path.
var lockstep, lockstepLab, standin string

func TestMain(m *testing.M) {
	programs.Main(m, "the tests of a lab", find)
}

// find finds lockstep and lockstep-lab in $LOCKSTEP_BIN, or builds them; what runs in containers it always builds.
func find(dir string) error {
	bin, err := programs.Find(dir, map[string]string{"standin": "lockstep/lab/standin"})
	if err != nil {
		return err
	}
	lockstep, lockstepLab, standin = filepath.Join(bin, "lockstep"), filepath.Join(bin, "lockstep-lab"), filepath.Join(dir, "standin")
	return nil
}
