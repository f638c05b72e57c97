package runtime

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// shimSockets is where shims listen, wherever containerd's own directories
	// are; github.com/containerd/containerd/v2/pkg/shim.
	shimSockets = StateDir + "/s"
	// Binding is how long a socket may exist without somebody who listens: a
	// shim that is being started needs microseconds.
	Binding = time.Minute
)

// DropSockets removes the sockets of shims that were killed, which nobody else
// does, by the names the shims were started for: a container's ID, or what its
// group is called. A socket on which somebody listens stays, and so does one
// that is younger than age: Binding where a shim may be on its way, else zero.
func (r *Runtime) DropSockets(names []string, age time.Duration) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, dropSocket(ShimSocket(r.opts.Address, name), age))
	}
	return errors.Join(errs...)
}

// ShimSocket is the path at which the shim of that name listens for a containerd.
func ShimSocket(address, name string) string {
	return filepath.Join(shimSockets, fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(address, Namespace, name)))))
}

func dropSocket(path string, age time.Duration) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 || time.Since(info.ModTime()) < age {
		return nil
	}
	conn, err := net.DialTimeout("unix", path, answerTimeout)
	if err == nil {
		return conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove socket of a shim that is gone: %w", err)
	}
	return nil
}
