package logs

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/cio"
	"k8s.io/apimachinery/pkg/types"
)

// Dir is a pod's log directory, `<root>/<ns>_<name>_<uid>`; the root is `/var/log/pods` on most nodes.
func Dir(root, namespace, name string, uid types.UID) string {
	return filepath.Join(root, fmt.Sprintf("%s_%s_%s", namespace, name, uid))
}

// Path is a container's log file in its pod's log directory; attempt is its restart count.
func Path(podDir, container string, attempt int) string {
	return filepath.Join(podDir, container, fmt.Sprintf("%d.log", attempt))
}

// FIFOs returns the paths that a container's stdout and stderr should have under the run directory.
func FIFOs(runDir, id string) (stdout, stderr string) {
	dir := filepath.Join(runDir, "fifo")
	return filepath.Join(dir, id+".stdout"), filepath.Join(dir, id+".stderr")
}

// IO gives a container's task the stream's FIFOs, which must be open (Client.Open): containerd's shim opens them
// itself and copies into them, so nothing passes through the agent.
func IO(s Stream) cio.Creator {
	return func(string) (cio.IO, error) {
		return fifoIO(cio.Config{Stdout: s.Stdout, Stderr: s.Stderr}), nil
	}
}

// fifoIO is a task's output that somebody else reads.
type fifoIO cio.Config

func (f fifoIO) Config() cio.Config { return cio.Config(f) }
func (f fifoIO) Cancel()            {}
func (f fifoIO) Wait()              {}
func (f fifoIO) Close() error       { return nil }
