// Package programs finds the programs that tests run as processes of their own, or builds them.
package programs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Find returns the folder that has lockstep and lockstep-lab: $LOCKSTEP_BIN where that is set, else dir, in which they are
// built. What also names, by the program's name, is a package that is built into dir in any case.
func Find(dir string, also map[string]string) (bin string, err error) {
	if err := Build(dir, also); err != nil {
		return "", err
	}
	if bin := os.Getenv("LOCKSTEP_BIN"); bin != "" {
		return bin, nil
	}
	return dir, Build(dir, map[string]string{"lockstep": "lockstep", "lockstep-lab": "lockstep/lab/lockstep-lab"})
}

// Build builds packages into dir, each under the program's name that it is given.
func Build(dir string, packages map[string]string) error {
	for name, path := range packages {
		if err := BuildIn(".", filepath.Join(dir, name), path); err != nil {
			return err
		}
	}
	return nil
}

// Runc builds the release of runc that lab/runc names, by the C compiler that it needs, without seccomp, which would need a
// library. module is that folder; file is absolute.
func Runc(module, file string) error {
	return BuildIn(module, file, "github.com/opencontainers/runc", "CGO_ENABLED=1")
}

// BuildIn builds a package as a module of its own has it, with that module's versions of what it needs. The module is where
// its go.mod is; file is absolute; env is what else is in the environment.
func BuildIn(module, file, path string, env ...string) error {
	cmd := exec.Command("go", "build", "-o", file, path)
	cmd.Dir = module
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w: %s", path, err, out)
	}
	return nil
}
