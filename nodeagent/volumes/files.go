package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/beneath"
)

// FilesDir is where a pod's own files are, which its containers see in /etc: on the disk, as the pod may write to them.
func (m *Manager) FilesDir(uid types.UID) string { return filepath.Join(m.podDir(uid), "etc") }

// WriteFiles makes a pod's own files by their names; one that is there is replaced if asked, else left. A container
// that has the replaced one goes on to see that. They go with Teardown.
func (m *Manager) WriteFiles(ctx context.Context, uid types.UID, texts map[string]string, replace bool) error {
	unlock, err := m.lock(uid)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.MkdirAll(m.FilesDir(uid), 0o750); err != nil {
		return err
	}
	dir, err := beneath.Open(m.FilesDir(uid))
	if err != nil {
		return err
	}
	defer dir.Close()
	var errs []error
	for name, text := range texts {
		if err := writeFile(ctx, dir, name, text, replace); err != nil {
			errs = append(errs, fmt.Errorf("cannot write the pod's %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func writeFile(ctx context.Context, dir *beneath.Dir, name, text string, replace bool) error {
	if _, err := dir.Stat(name); err == nil && !replace {
		return nil
	} else if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	unready := ".new-" + name
	if err := dir.RemoveAll(ctx, unready); err != nil {
		return err
	}
	if err := dir.Create(unready, []byte(text), beneath.Attr{Mode: 0o644}); err != nil {
		return err
	}
	return dir.Rename(unready, name)
}
