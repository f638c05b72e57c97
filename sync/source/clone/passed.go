package clone

import (
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// oldTips is how far back the line of the older tip is followed to find where a force-push left it.
const oldTips = 256

// passed lists the commits that a branch passed on its way from one tip to another, the newest first, without both, at
// most so many. A branch's tips are first parents: what a merge brought in was never one. A tip that the clone does not
// have passed nothing that is known.
func (c *clone) passed(p Passed) []string {
	if c.open() != nil {
		return nil
	}
	line := func(hash plumbing.Hash, yield func(plumbing.Hash) bool) {
		for yield(hash) {
			commit, err := object.GetCommit(c.store, hash)
			if err != nil || len(commit.ParentHashes) == 0 {
				return
			}
			hash = commit.ParentHashes[0]
		}
	}
	old, to := plumbing.NewHash(p.From), plumbing.NewHash(p.To)
	if _, err := object.GetCommit(c.store, to); err != nil {
		c.shut() // another process has fetched it since this one opened the clone
		if c.open() != nil {
			return nil
		}
	}
	if _, err := object.GetCommit(c.store, old); err != nil {
		return nil
	}
	known := map[plumbing.Hash]bool{}
	line(old, func(h plumbing.Hash) bool {
		known[h] = true
		return len(known) < oldTips
	})
	var out []string
	line(to, func(h plumbing.Hash) bool {
		if known[h] {
			return false
		}
		if h != to {
			out = append(out, h.String())
		}
		return len(out) < p.Most
	})
	return out
}
