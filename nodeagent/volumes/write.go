package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

const (
	// dataLink is the link that is swapped: every file of a volume is seen through it.
	//
	//	..2026_11_20_12_56_02.123/   the files of one state
	//	..data -> ..2026_11_20_12_56_02.123
	//	config.yaml -> ..data/config.yaml
	//
	// These are Kubernetes' names; programs that reload their configuration watch for them.
	dataLink    = "..data"
	newDataLink = "..data_tmp"
	statePrefix = "..20" // of a state's directory, which Kubernetes names by the time
	stateName   = "..2006_01_02_15_04_05."
)

// writeFiles makes the directory show exactly the files, from one moment to the next, and returns whether that is a
// change. Directories that somebody made as mount points stay.
func writeFiles(dir string, want files, group *int64) (bool, error) {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if current != "" && filepath.Base(current) == current && shows(filepath.Join(dir, current), want, group) {
		// A crash may have come between the swap and what follows it.
		return false, tidy(dir, current, want)
	}
	state, err := writeState(dir, want)
	if err != nil {
		return false, err
	}
	if group != nil {
		if err := own(filepath.Join(dir, state), *group, true); err != nil {
			return false, err
		}
		if err := ownTop(dir, *group); err != nil {
			return false, err
		}
	}
	if err := replaceLink(dir, state); err != nil {
		os.RemoveAll(filepath.Join(dir, state))
		return false, err
	}
	return true, tidy(dir, state, want)
}

// shows says whether the state's directory has exactly the files, with the modes that writing them now would give.
func shows(state string, want files, group *int64) bool {
	found := 0
	err := filepath.WalkDir(state, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(state, path)
		if err != nil {
			return err
		}
		file, ok := want[filepath.ToSlash(name)]
		if !ok {
			return errDiffers
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := file.mode.Perm()
		if group != nil {
			mode |= 0o440
		}
		if info.Mode() != mode || info.Size() != int64(len(file.data)) {
			return errDiffers
		}
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, file.data) {
			return errDiffers
		}
		found++
		return nil
	})
	return err == nil && found == len(want)
}

var errDiffers = errors.New("differs")

// writeState writes the files into a directory of their own and returns its name.
func writeState(dir string, want files) (string, error) {
	state, err := os.MkdirTemp(dir, time.Now().UTC().Format(stateName))
	if err != nil {
		return "", err
	}
	if err := writeInto(state, want); err != nil {
		os.RemoveAll(state)
		return "", err
	}
	return filepath.Base(state), nil
}

func writeInto(state string, want files) error {
	if err := os.Chmod(state, 0o755); err != nil {
		return err
	}
	for name, file := range want {
		path := filepath.Join(state, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, file.data, file.mode.Perm()); err != nil {
			return err
		}
		if err := os.Chmod(path, file.mode.Perm()); err != nil { // whatever the umask is
			return err
		}
	}
	return nil
}

func replaceLink(dir, state string) error {
	next := filepath.Join(dir, newDataLink)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(state, next); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(dir, dataLink))
}

// tidy makes the names that are seen, and removes those and the states that are no more.
func tidy(dir, state string, want files) error {
	top := map[string]bool{}
	for name := range want {
		first, _, _ := strings.Cut(name, "/")
		top[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(dir, name)
		switch {
		case name == dataLink || name == state:
		case strings.HasPrefix(name, statePrefix) && e.IsDir():
			err = os.RemoveAll(path)
		case e.Type()&fs.ModeSymlink != 0 && ours(path):
			if top[name] {
				delete(top, name) // it is there already
				continue
			}
			err = os.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	names := make([]string, 0, len(top))
	for name := range top {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.Symlink(filepath.Join(dataLink, name), path); err != nil {
			return fmt.Errorf("cannot show file %s: %w", name, err)
		}
	}
	return nil
}

// ours says whether a link is one that tidy makes.
func ours(path string) bool {
	target, err := os.Readlink(path)
	return err == nil && strings.HasPrefix(target, dataLink+"/")
}

// ownTop gives the volume's own directory to the group.
func ownTop(dir string, group int64) error {
	if err := os.Lchown(dir, -1, int(group)); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return os.Chmod(dir, info.Mode()|fs.ModeSetgid|0o550)
}
