package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"crypto/rand"

	"golang.org/x/sys/unix"

	"lockstep/nodeagent/beneath"
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

// maxEntries is more than a volume of files has in its own directory: an object has at most 1.5 MiB, and a key's name
// takes some of it. A pod of an earlier release, which could write there, may have left more; those stay.
const maxEntries = 1 << 17

// contentDir are the mode and group of a content volume's directories: pods read there, root alone writes.
func contentDir(group *int64) beneath.Attr {
	if group == nil {
		return beneath.Attr{Mode: 0o755}
	}
	return beneath.Attr{Mode: 0o755 | unix.S_ISGID, Group: group}
}

// contentFile are the mode and group of a file.
func contentFile(file content, group *int64) beneath.Attr {
	mode := uint32(file.mode.Perm())
	if group != nil {
		mode |= 0o440
	}
	return beneath.Attr{Mode: mode, Group: group}
}

// writeFiles makes the directory show exactly the files, from one moment to the next, and returns whether that is a
// change. Directories that somebody made as mount points stay.
//
// Pods cannot write there. It is worked on as if they could: those that an earlier release started may, and so may
// one that a manifest gives the host's file system.
func writeFiles(ctx context.Context, dir string, want files, group *int64) (bool, error) {
	top, err := beneath.Open(dir)
	if err != nil {
		return false, err
	}
	defer top.Close()
	if err := settle(top, contentDir(group)); err != nil {
		return false, err
	}
	current, err := top.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) { // EINVAL: no link
		return false, err
	}
	if err == nil && isState(current) && shows(top, current, want, group) {
		// A crash may have come between the swap and what follows it.
		return false, tidy(ctx, top, current, want)
	}
	state, err := writeState(ctx, top, want, group)
	if err != nil {
		return false, err
	}
	if err := replaceLink(ctx, top, state); err != nil {
		return false, errors.Join(err, top.RemoveAll(ctx, state))
	}
	return true, tidy(ctx, top, state, want)
}

// settle gives a directory its mode and group, if it has others.
func settle(d *beneath.Dir, want beneath.Attr) error {
	have, err := d.Attr()
	if err != nil {
		return err
	}
	if have.Mode == want.Mode && (want.Group == nil || *have.Group == *want.Group) {
		return nil
	}
	return d.Set(want)
}

func isState(name string) bool {
	return strings.HasPrefix(name, statePrefix) && !strings.Contains(name, "/")
}

// shows says whether the state's directory has exactly the files, with the modes that writing them now would give.
func shows(top *beneath.Dir, state string, want files, group *int64) bool {
	dir, err := top.Open(state)
	if err != nil {
		return false
	}
	defer dir.Close()
	for name, file := range want {
		if !holds(dir, name, file, group) {
			return false
		}
	}
	return holdsOnly(dir, want.tree(), "")
}

// holds says whether a file is as writing it now would make it.
func holds(dir *beneath.Dir, name string, want content, group *int64) bool {
	f, err := dir.File(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	attr := contentFile(want, group)
	if st.Mode&^unix.S_IFMT != attr.Mode || group != nil && int64(st.Gid) != *group || st.Size != int64(len(want.data)) {
		return false
	}
	data, err := io.ReadAll(io.LimitReader(f, st.Size+1))
	return err == nil && bytes.Equal(data, want.data)
}

// tree are the names of a volume's files and directories by the directory they are in; "" is the volume's.
func (f files) tree() map[string]map[string]bool {
	in := map[string]map[string]bool{"": {}}
	for name := range f {
		for name != "" {
			parent, base := path.Split(name)
			parent = strings.TrimSuffix(parent, "/")
			if in[parent] == nil {
				in[parent] = map[string]bool{}
			}
			in[parent][base] = true
			name = parent
		}
	}
	return in
}

// holdsOnly says whether a directory, and those in it, have these names and no others.
func holdsOnly(dir *beneath.Dir, tree map[string]map[string]bool, at string) bool {
	names, more, err := dir.Names(len(tree[at]))
	if err != nil || more || len(names) != len(tree[at]) {
		return false
	}
	for _, name := range names {
		if !tree[at][name] {
			return false
		}
		below := path.Join(at, name)
		if tree[below] == nil {
			continue
		}
		inner, err := dir.Open(name)
		if err != nil {
			return false
		}
		only := holdsOnly(inner, tree, below)
		inner.Close()
		if !only {
			return false
		}
	}
	return true
}

// writeState writes the files into a directory of their own and returns its name.
func writeState(ctx context.Context, top *beneath.Dir, want files, group *int64) (string, error) {
	name := time.Now().UTC().Format(stateName) + rand.Text()[:10]
	state, err := top.Make(name, contentDir(group))
	if err != nil {
		return "", err
	}
	defer state.Close()
	if err := writeInto(state, want, group); err != nil {
		return "", errors.Join(err, top.RemoveAll(ctx, name))
	}
	return name, nil
}

func writeInto(state *beneath.Dir, want files, group *int64) error {
	for name, file := range want {
		if err := writeOne(state, name, contentDir(group), file.data, contentFile(file, group)); err != nil {
			return err
		}
	}
	return nil
}

func writeOne(in *beneath.Dir, name string, dirs beneath.Attr, data []byte, attr beneath.Attr) error {
	if parent := path.Dir(name); parent != "." {
		made, err := in.Make(parent, dirs)
		if err != nil {
			return err
		}
		defer made.Close()
		in = made
	}
	return in.Create(path.Base(name), data, attr)
}

// replaceLink has the link lead to the state. What has the link's name and is none goes.
func replaceLink(ctx context.Context, top *beneath.Dir, state string) error {
	if err := top.RemoveAll(ctx, newDataLink); err != nil {
		return err
	}
	if err := top.Symlink(state, newDataLink); err != nil {
		return err
	}
	err := top.Rename(newDataLink, dataLink)
	if errors.Is(err, unix.EISDIR) {
		if err := top.RemoveAll(ctx, dataLink); err != nil {
			return err
		}
		err = top.Rename(newDataLink, dataLink)
	}
	return err
}

// tidy makes the names that are seen, and removes those and the states that are no more.
func tidy(ctx context.Context, top *beneath.Dir, state string, want files) error {
	shown := want.tree()[""]
	names, _, err := top.Names(maxEntries)
	if err != nil {
		return err
	}
	for _, name := range names {
		switch st, err := top.Stat(name); {
		case err != nil:
			continue // removed a moment ago
		case name == dataLink || name == state:
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			if strings.HasPrefix(name, statePrefix) {
				err = top.RemoveAll(ctx, name)
			}
			if err != nil {
				return err
			}
		case st.Mode&unix.S_IFMT == unix.S_IFLNK && leadsTo(top, name, path.Join(dataLink, name)):
			if shown[name] {
				delete(shown, name) // it is there already
				continue
			}
			if err := top.Unlink(name); err != nil {
				return err
			}
		case shown[name]: // nobody of ours made it
			if err := top.Unlink(name); err != nil {
				return err
			}
		}
	}
	rest := make([]string, 0, len(shown))
	for name := range shown {
		rest = append(rest, name)
	}
	slices.Sort(rest)
	for _, name := range rest {
		if err := top.Symlink(path.Join(dataLink, name), name); err != nil {
			return fmt.Errorf("cannot show file %s: %w", name, err)
		}
	}
	return nil
}

// leadsTo says whether a link is the one that tidy makes.
func leadsTo(top *beneath.Dir, name, target string) bool {
	got, err := top.Readlink(name)
	return err == nil && got == target
}
