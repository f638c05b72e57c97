// Package kubectl lets a test binary be kubectl, since a machine may have none.
package kubectl

import (
	"context"
	"os"
	"os/exec"

	"k8s.io/kubectl/pkg/cmd"
)

// Variable, set in its environment, makes a test binary kubectl.
const Variable = "LOCKSTEP_TEST_AS_KUBECTL"

// Main runs kubectl with the process's arguments and ends the process, where Variable is set; else it does nothing. It is
// the first thing in TestMain.
func Main() {
	if os.Getenv(Variable) == "" {
		return
	}
	if err := cmd.NewDefaultKubectlCommand().Execute(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// Command returns kubectl of a kubeconfig, not started. Home is where it keeps its cache, and what a refused edit leaves.
func Command(ctx context.Context, kubeconfig, home string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe", args...)
	c.Env = append(os.Environ(), Variable+"=1", "KUBECONFIG="+kubeconfig, "HOME="+home, "TMPDIR="+home)
	return c
}
