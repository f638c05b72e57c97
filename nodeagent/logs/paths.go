package logs

import (
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/logs/keeper"
)

// Dir is a pod's log directory, `<root>/<ns>_<name>_<uid>`; the root is `/var/log/pods` on most nodes.
func Dir(root, namespace, name string, uid types.UID) string {
	return filepath.Join(root, fmt.Sprintf("%s_%s_%s", namespace, name, uid))
}

// Path is a container's log file in its pod's log directory; attempt is its restart count.
func Path(podDir, container string, attempt int) string {
	return filepath.Join(podDir, container, fmt.Sprintf("%d.log", attempt))
}

// Remove removes a container's log, with the files it was rotated to.
func Remove(path string) error { return keeper.Remove(path) }

// FIFOs returns the paths that a container's stdout and stderr should have under the run directory.
func FIFOs(runDir, id string) (stdout, stderr string) {
	dir := filepath.Join(runDir, "fifo")
	return filepath.Join(dir, id+".stdout"), filepath.Join(dir, id+".stderr")
}
