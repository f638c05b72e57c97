package clone

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
	"golang.org/x/sys/unix"

	"lockstep/internal/plain"
	"lockstep/sync/manifest"
	"lockstep/sync/manifest/tree"
)

// Command is the argument that makes the program serve one repository, on its standard input and output.
const Command = "git-source"

// Every program that links this package can be started as such a process: the daemon, and tests.
func init() {
	if len(os.Args) == 2 && os.Args[1] == Command {
		os.Exit(serve(os.Stdin, os.Stdout))
	}
}

// serve answers requests until there are no more. Its end comes with the daemon's: then standard input ends.
func serve(in io.Reader, out io.Writer) int {
	requests := make(chan request)
	go func() {
		decoder := gob.NewDecoder(in)
		for {
			var r request
			if err := decoder.Decode(&r); err != nil {
				os.Exit(0) // in the middle of what is asked, too: nobody waits for it
			}
			requests <- r
		}
	}()
	s := server{out: bufio.NewWriter(out)}
	s.encoder = gob.NewEncoder(s.out)
	for r := range requests {
		if err := s.answer(r); err != nil {
			return 1
		}
	}
	return 0
}

type server struct {
	out     *bufio.Writer
	encoder *gob.Encoder
	clone   *clone
}

func (s *server) send(r reply) error {
	if err := s.encoder.Encode(r); err != nil {
		return err
	}
	return s.out.Flush()
}

func (s *server) answer(r request) error {
	if s.clone == nil {
		if err := confine(r.Place.Limits.Memory); err != nil {
			return s.send(reply{Done: true, Err: &Failure{Text: err.Error()}})
		}
		m := &meter{}
		m.install()
		s.clone = &clone{place: r.Place, meter: m}
		s.clone.sweep()
	}
	c := s.clone
	ctx, end := context.WithCancelCause(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		c.meter.watch(ctx, c.place.Silence, c.place.Limits, func(cause error) {
			end(cause)
			time.AfterFunc(unheard, func() { os.Exit(overdue) })
		})
	})
	answer := reply{Done: true}
	switch {
	case r.Look != nil:
		var err error
		answer.Found, err = c.look(ctx, *r.Look, func(commits map[string]string) error { return s.send(reply{Commits: commits}) })
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		if err != nil {
			answer.Err = c.explain(err)
		}
	case r.Passed != nil:
		answer.Passed = c.passed(*r.Passed)
	default:
		data, err := c.blob(plumbing.NewHash(r.Read), manifest.MaxFile+1)
		if err != nil {
			answer.Err = &Failure{Text: plain.Text(err.Error()), Damaged: true}
		}
		answer.Data = data
	}
	over := context.Cause(ctx)
	end(nil)
	watching.Wait()
	answer.Steps, answer.Notes, answer.Busy = c.steps, c.notes, busy()
	c.steps, c.notes = nil, nil
	if err := s.send(answer); err != nil {
		return err
	}
	return over
}

// unheard is how long what is ended may take to end. Then the process does, with overdue.
const (
	unheard = 5 * time.Second
	overdue = 3
)

// niceness of a process that reads a repository: the daemon and etcd, at 0, come about nine times before it where
// processors are short (sched(7)).
const niceness = 10

// confine bounds this process: so much memory and no more, the first to be ended where the machine has none left, the last
// to be given a processor.
func confine(memory int64) error {
	// Its group, for a single call changes one thread; the group has no other process.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, niceness); err != nil {
		return fmt.Errorf("cannot lower the priority of a process that reads a repository: %w", err)
	}
	debug.SetMemoryLimit(memory * 2 / 3) // collect early rather than end
	// Best effort: without the right to it the machine's own choice stands.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if !Confined {
		return nil
	}
	// The data limit counts what is private and writable, unlike that on addresses, of which Go reserves many.
	// The limit is on addresses: that on data lets one mapping through that is larger than all of it, where Go maps what it
	// has reserved. What Go reserves at its start is no use of memory.
	var pages int64
	statm, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(string(statm), &pages)
	}
	if err == nil {
		most := uint64(pages*int64(os.Getpagesize()) + memory)
		err = syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: most, Max: most})
	}
	if err != nil {
		return fmt.Errorf("cannot bound the memory of a process that reads a repository: %w", err)
	}
	return nil
}

// look lists the references once, fetches once if any source's has moved, and reads what is new.
func (c *clone) look(ctx context.Context, l Look, known func(map[string]string) error) ([]Found, error) {
	if l.Anew {
		if err := c.discard(); err != nil {
			return nil, err
		}
	}
	if err := c.open(); err != nil {
		return nil, err
	}
	a, err := reach(c.place.URL, c.place.Credentials)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	listed, err := c.list(ctx, a)
	c.step("list", "", began, err)
	if err != nil {
		return nil, err
	}
	found, refs, wanted := make([]Found, len(l.Sources)), make([]reference, len(l.Sources)), []reference(nil)
	commits := map[string]string{}
	for i, s := range l.Sources {
		found[i].Name = s.Name
		ref, err := resolve(listed, s)
		if err != nil {
			found[i].Err = c.explain(err)
			continue
		}
		found[i].Commit, refs[i] = ref.commit.String(), ref
		if found[i].Commit != s.Have {
			wanted = append(wanted, ref)
			commits[s.Name] = found[i].Commit
		}
	}
	if len(wanted) == 0 {
		return found, nil
	}
	if err := known(commits); err != nil {
		return nil, err
	}
	if err := c.have(ctx, wanted, a); err != nil {
		return nil, err
	}
	for i, s := range l.Sources {
		if found[i].Err != nil || commits[s.Name] == "" {
			continue
		}
		began := time.Now()
		rev, err := c.revision(ctx, refs[i], s)
		c.step("walk", "", began, err)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return nil, cause
		}
		if err != nil {
			found[i].Err = c.explain(err)
			continue
		}
		found[i].Revision = rev
	}
	return found, nil
}

func (c *clone) list(ctx context.Context, a access) (map[string]plumbing.Hash, error) {
	most := c.place.Limits.Listing
	c.meter.allow(most, exceeded("it names more than %s of references", size(most)))
	remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{c.place.URL}})
	refs, err := remote.ListContext(ctx, &git.ListOptions{
		Auth:          a.auth,
		CABundle:      a.caBundle,
		ProxyOptions:  a.proxy,
		PeelingOption: git.AppendPeeled,
	})
	if err != nil {
		return nil, c.meter.cause(err)
	}
	listed := map[string]plumbing.Hash{}
	var head plumbing.ReferenceName
	for _, ref := range refs {
		if ref.Type() == plumbing.SymbolicReference {
			head = ref.Target()
			continue
		}
		listed[ref.Name().String()] = ref.Hash()
	}
	if hash, ok := listed[head.String()]; ok && head != "" {
		listed["HEAD"] = hash
	}
	return listed, nil
}

// errNotFound: the branch or tag is not there (yet).
var errNotFound = errors.New("not found")

func resolve(listed map[string]plumbing.Hash, s Wanted) (reference, error) {
	name, what := "HEAD", "the default branch"
	switch {
	case s.Branch != "":
		name, what = "refs/heads/"+s.Branch, "branch "+s.Branch
	case s.Tag != "":
		name, what = "refs/tags/"+s.Tag, "tag "+s.Tag
	}
	hash, ok := listed[name]
	if !ok {
		return reference{}, fmt.Errorf("%s %w", what, errNotFound)
	}
	ref := reference{name, hash, hash}
	if peeled, ok := listed[name+"^{}"]; ok {
		ref.commit = peeled
	}
	return ref, nil
}

// maxAuthor bounds a commit's author, name and address, in bytes: as the longest address (RFC 5321), and a name.
const maxAuthor = 512

// revision reads a commit's manifests below the source's path: names and hashes, no content.
func (c *clone) revision(ctx context.Context, ref reference, s Wanted) (*Revision, error) {
	co, err := c.commit(ref)
	if err != nil {
		return nil, err
	}
	rev := &Revision{
		ID:      co.Hash.String(),
		Author:  plain.Cut(fmt.Sprintf("%s <%s>", co.Author.Name, co.Author.Email), maxAuthor),
		Message: co.Message,
		Time:    co.Committer.When,
	}
	root := strings.Trim(path.Clean("/"+s.Path), "/")
	rev.Files, err = tree.Walk(ctx, gitTree{c, co.TreeHash}, root, c.place.Limits.Tree)
	if errors.Is(err, fs.ErrNotExist) {
		return rev, nil // the path is not there (yet)
	}
	if err == nil {
		err = c.complete(ctx, &rev.Files)
	}
	if err != nil {
		return nil, damaged{fmt.Errorf("cannot read the tree of commit %s: %w", co.Hash, err)}
	}
	return rev, nil
}

// complete looks for all files in the clone, and refuses those that are too large to be read. Those of the revision
// before need no second look.
func (c *clone) complete(ctx context.Context, found *tree.Found) error {
	seen := make(map[string]int64, len(found.Files))
	for _, m := range found.Files {
		n, known := c.seen[m.ID]
		if !known {
			var err error
			if n, err = c.size(plumbing.NewHash(m.ID)); err != nil {
				return err
			}
		}
		seen[m.ID] = n
		if n > manifest.MaxFile {
			found.Problems = append(found.Problems, tree.Problem{Path: plain.Text(m.Path),
				Message: fmt.Sprintf("the file has %d bytes, more than the limit of %d MiB", n, manifest.MaxFile>>20)})
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	found.Files = slices.DeleteFunc(found.Files, func(m tree.Manifest) bool { return seen[m.ID] > manifest.MaxFile })
	c.seen = seen
	return nil
}
