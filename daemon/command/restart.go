package command

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// restart replaces this process by a new one of the same program, arguments and environment; it returns only an error. What
// it was doing is left as by a SIGKILL, which everything here is made for.
func restart() error {
	program, err := os.Executable()
	if err == nil {
		err = syscall.Exec(program, os.Args, os.Environ())
	}
	// The file may be gone, or another one by now that cannot be run.
	err = errors.Join(err, syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	return fmt.Errorf("cannot run this program again: %w", err)
}
