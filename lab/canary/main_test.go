package canary

import (
	"os"
	"path/filepath"
	"testing"

	kubectl "k8s.io/kubectl/pkg/cmd"

	"lockstep/lab/programs"
)

// asKubectl makes this test binary kubectl itself.
const asKubectl = "LOCKSTEP_TEST_AS_KUBECTL"

// Programs that the test needs, by path.
var lockstep, lockstepLab, standin string

func TestMain(m *testing.M) {
	if os.Getenv(asKubectl) != "" {
		if err := kubectl.NewDefaultKubectlCommand().Execute(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	programs.Main(m, "a lab needs root", find)
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
