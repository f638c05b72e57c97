package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
	build := map[string]string{"load": "lockstep/lab/faults/load"}
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
	lockstep, lockstepLab, load = filepath.Join(bin, "lockstep"), filepath.Join(bin, "lockstep-lab"), filepath.Join(dir, "load")
	return nil
}
