package canary

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	kubectl "k8s.io/kubectl/pkg/cmd"
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
	if os.Getuid() != 0 {
		fmt.Println("SKIPPED: a lab needs root")
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "canary-")
	if err == nil {
		err = programs(dir)
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

// programs finds lockstep and lockstep-lab in $LOCKSTEP_BIN, or builds them; what runs in containers it always builds.
func programs(dir string) error {
	bin := os.Getenv("LOCKSTEP_BIN")
	build := map[string]string{"standin": "lockstep/lab/standin"}
	if bin == "" {
		bin = dir
		build["lockstep"], build["lockstep-lab"] = "lockstep", "lockstep/lab/lockstep-lab"
	}
	for name, path := range build {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), path)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w: %s", path, err, out)
		}
	}
	lockstep, lockstepLab, standin = filepath.Join(bin, "lockstep"), filepath.Join(bin, "lockstep-lab"), filepath.Join(dir, "standin")
	return nil
}
