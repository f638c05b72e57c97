// Package apart runs tests in namespaces of their own.
package apart

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// variable has the flags of the namespaces that a program runs in.
const variable = "LOCKSTEP_TEST_APART"

// Main returns in a test program that runs in namespaces of its own. Elsewhere it runs the program again in new ones, of the
// kinds that unshare has as CLONE_NEW… of clone(2), and ends with what that came to; it needs root. TestMain calls it, before
// anything is started.
func Main(unshare uintptr) {
	flags := fmt.Sprintf("%#x", unshare)
	if os.Getenv(variable) == flags {
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), variable+"="+flags)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unshare} // mounts are private then
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(max(exit.ExitCode(), 1)) // a signal is no code
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
