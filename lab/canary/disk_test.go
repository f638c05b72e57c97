package canary

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// rotate replaces the key that Secrets are sealed with, and kills the daemon while that is under way.
func (w *world) rotate() {
	w.Helper()
	server := w.lab.Server()
	out := w.run(0, server.Command(w.Context(), lockstep, "encryption", "rotate"))
	w.clean("lockstep encryption rotate", out)
	if err := w.lab.Kill(w.Context(), server, "daemon"); err != nil {
		w.Fatal(err)
	}
	if err := w.lab.Start(w.Context(), server, "daemon"); err != nil {
		w.Fatal(err)
	}
	w.eventually(func() error {
		out, err := server.Command(w.Context(), lockstep, "encryption", "status").CombinedOutput()
		w.clean("lockstep encryption status", out)
		if err != nil || !strings.Contains(string(out), "rotated at") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// onDisk wants no file on any disk to hold a secret: not etcd's, not the agents', no log. Volumes of Secrets are in memory alone. What
// a container has in its environment is containerd's to keep, which does so in its own folders, as for Kubernetes.
func (w *world) onDisk() {
	w.Helper()
	inMemory, etcd, kept := 0, 0, 0
	for _, h := range w.lab.Hosts() {
		root := fmt.Sprintf("/proc/%d/root", h.Holder.PID)
		for _, dir := range []string{h.DataDir(), "/run/lockstep", "/var/lib/lockstep", "/var/log/pods"} {
			err := walk(filepath.Join(root, dir), func(path string, text []byte) {
				switch {
				case strings.HasSuffix(path, ".wal"), strings.HasSuffix(path, "/db"):
					etcd++
				case strings.Contains(path, "/objects/secrets/"):
					kept++
				}
				found := leak(text)
				if found == "" {
					return
				}
				var st unix.Statfs_t
				err := unix.Statfs(path, &st)
				if memory := err == nil && st.Type == unix.TMPFS_MAGIC; memory && strings.Contains(path, "/volumes/") {
					inMemory++
				} else {
					w.Errorf("%s on %s holds a secret: %q", path, h.Name, found)
				}
			})
			if err != nil {
				w.Fatal(err)
			}
		}
	}
	if inMemory == 0 || etcd < 2 || kept == 0 {
		w.Errorf("found %d files of Secret volumes, %d of etcd and %d kept Secrets: the search looks in the wrong place",
			inMemory, etcd, kept)
	}
}

// walk visits the regular files below a folder, without those of containerd.
func walk(dir string, visit func(path string, text []byte)) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist): // it went since it was listed
		case err != nil:
			return err
		case info.IsDir() && e.Name() == "containerd":
		case info.IsDir():
			if err := walk(path, visit); err != nil {
				return err
			}
		case info.Mode().IsRegular() && info.Size() < 1<<30:
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) { // a pinned namespace is no file to read
				continue
			}
			if err != nil {
				return err
			}
			visit(path, text)
		}
	}
	return nil
}
