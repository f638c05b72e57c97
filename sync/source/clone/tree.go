package clone

import (
	"io/fs"
	"strings"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"lockstep/sync/manifest/tree"
)

// gitTree is a commit's tree.
type gitTree struct {
	clone *clone
	top   plumbing.Hash
}

// Top implements tree.Tree.
func (t gitTree) Top() tree.Entry { return tree.Entry{Kind: tree.Dir, ID: t.top.String()} }

// List implements tree.Tree. It refuses the names that git fsck refuses: what they do depends on who checks them out.
func (t gitTree) List(_ string, e tree.Entry) ([]tree.Entry, error) {
	listed, err := object.GetTree(t.clone.store, plumbing.NewHash(e.ID))
	if err != nil {
		return nil, damaged{err}
	}
	entries := make([]tree.Entry, len(listed.Entries))
	seen := make(map[string]bool, len(listed.Entries))
	for i, e := range listed.Entries {
		entries[i] = entryOf(e)
		if entries[i].Bad == "" && seen[e.Name] {
			entries[i].Bad = "the name stands twice in its directory, which git fsck refuses"
		}
		seen[e.Name] = true
	}
	return entries, nil
}

// Find implements tree.Tree.
func (t gitTree) Find(_ string, e tree.Entry, name string) (tree.Entry, error) {
	listed, err := object.GetTree(t.clone.store, plumbing.NewHash(e.ID))
	if err != nil {
		return tree.Entry{}, damaged{err}
	}
	for _, e := range listed.Entries {
		if e.Name == name {
			return entryOf(e), nil
		}
	}
	return tree.Entry{}, fs.ErrNotExist
}

// maxTarget is Linux' longest path: a link that says more leads nowhere.
const maxTarget = 4096

// Target implements tree.Tree.
func (t gitTree) Target(_ string, e tree.Entry) (string, error) {
	data, err := t.clone.blob(plumbing.NewHash(e.ID), maxTarget+1)
	if err == nil && len(data) > maxTarget {
		err = fs.ErrNotExist
	}
	return string(data), err
}

// Inside implements tree.Tree: nothing absolute is inside a commit.
func (t gitTree) Inside(string) (string, bool) { return "", false }

func entryOf(e object.TreeEntry) tree.Entry {
	kind := tree.File
	switch e.Mode {
	case filemode.Dir:
		kind = tree.Dir
	case filemode.Symlink:
		kind = tree.Link
	case filemode.Submodule:
		kind = tree.Module
	}
	out := tree.Entry{Name: e.Name, Kind: kind, ID: e.Hash.String()}
	if forbidden(e.Name) {
		out.Bad = "the name is one that git fsck refuses (empty, a path, or a spelling of . or .. or .git)"
	}
	return out
}

// forbidden says that git fsck refuses a name (fsck.c: hasDot, hasDotdot, hasDotgit, emptyName, fullPathname), with the
// spellings of .git on HFS+ and NTFS, where a backslash separates, too.
func forbidden(name string) bool {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return true
	}
	if strings.EqualFold(strings.Map(hfsIgnores, name), ".git") {
		return true
	}
	for part := range strings.SplitSeq(name, `\`) {
		if part == ".." && part != name {
			return true
		}
		part, _, _ = strings.Cut(part, ":") // the name of a stream follows
		part = strings.TrimRight(part, " .")
		if strings.EqualFold(part, ".git") || strings.EqualFold(part, "git~1") {
			return true
		}
	}
	return false
}

// hfsIgnores drops the characters that HFS+ ignores in names (git's utf8.c, next_hfs_char).
func hfsIgnores(r rune) rune {
	if r >= 0x200c && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x206a && r <= 0x206f || r == 0xfeff {
		return -1
	}
	return unicode.ToLower(r)
}
