// Package source yields the revisions of a source: commits of a Git repository, or states of a folder.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"lockstep/internal/giturl"
	"lockstep/kinds/v1alpha1"
	"lockstep/sync/manifest"
	"lockstep/sync/manifest/tree"
	"lockstep/sync/source/clone"
)

// MaxFile is the size in bytes above which a file is not read; the manifest reader refuses what is larger.
const MaxFile = manifest.MaxFile

// Revision is one immutable state of a source.
type Revision struct {
	// ID is a commit's SHA, or for a folder "sha256:" and the hash of its files.
	ID      string
	Author  string // "Name <address>"; empty for a folder
	Message string // the commit's; empty for a folder
	Time    time.Time
	// Passed lists the commits that a branch passed on its way here from another commit, the newest first, without both,
	// at most so many; nil for a folder. It may be called later, from any goroutine.
	Passed func(from string, most int) []string
	// Files are the manifests below the source's path (by extension: .yaml, .yml, .json), in order of Path. No part of a
	// path below the source's begins with a dot.
	Files []File
	// Problems make the whole revision invalid: symbolic links that lead out of the tree, names that cannot be, limits that
	// are passed.
	Problems []Problem
	// Ignored says what was left out and why: submodules.
	Ignored []string
}

// File is one manifest of a revision.
type File struct {
	Path string // slash-separated, relative to the root of the repository or folder
	Hash string // equal hashes mean equal content
	// Read returns the content. It may be called later, from any goroutine, and again.
	Read func() ([]byte, error)
}

// Problem is why a revision cannot be read as it stands; its path is empty where all of it is meant.
type Problem = tree.Problem

// Update is what a look at a source found: a revision, or why there is none. It is yielded when either is new.
type Update struct {
	Source   string
	Revision *Revision
	Err      error
}

// Watcher looks at one place that one or several sources read from.
type Watcher interface {
	// Run looks now, at every interval and at every Poke, and yields what is new, until ctx ends; it then returns nil.
	// The first look yields every source.
	Run(ctx context.Context, yield func(Update)) error
	// Look returns a source's newest revision now, fetched if need be.
	Look(ctx context.Context, source string) (*Revision, error)
	// Poke asks for a look soon. It never blocks, and any number of pokes before the look are one.
	Poke()
	// Sources are the sources' specifications, in their order in the configuration.
	Sources() []v1alpha1.Source
}

// Options are shared by all watchers.
type Options struct {
	// DataDir keeps the clones, below git/. Required for Git sources.
	DataDir string
	// Seed of the jitter. Zero is a seed like any other.
	Seed uint64
	// Log may be nil: nothing is logged.
	Log *slog.Logger
	// Limits bound what each repository may cost. The zero value is the defaults.
	Limits clone.Limits
	// Crew bounds how many repositories are read at once, also over several watchers. Nil: one for these alone.
	Crew *clone.Crew
	// Metrics may be nil: they are kept and not exported.
	Metrics *Metrics
}

// Watchers returns one watcher for every repository and every folder; sources of one repository with equal credentials
// share one. It starts nothing. A source that Check refuses, or two of one name, are an error.
func Watchers(sources []v1alpha1.Source, opts Options) ([]Watcher, error) {
	seen := map[string]bool{}
	for _, s := range sources {
		if err := Check(s); err != nil {
			return nil, err
		}
		if seen[s.Name] {
			return nil, fmt.Errorf("cannot use source %s: two sources have that name", s.Name)
		}
		seen[s.Name] = true
	}
	var watchers []Watcher
	for _, together := range Places(sources) {
		watchers = append(watchers, New(together, opts))
	}
	return watchers, nil
}

// Places groups sources by where they are read, in their order: those of one repository with equal credentials together,
// each folder alone.
func Places(sources []v1alpha1.Source) [][]v1alpha1.Source {
	var places [][]v1alpha1.Source
	repositories := map[string]int{}
	for _, s := range sources {
		if s.Spec.Folder == "" {
			id := identity(s)
			if i, ok := repositories[id]; ok {
				places[i] = append(places[i], s)
				continue
			}
			repositories[id] = len(places)
		}
		places = append(places, []v1alpha1.Source{s})
	}
	return places
}

// New returns the watcher of one place, for sources that Check lets pass. It starts nothing.
func New(together []v1alpha1.Source, opts Options) Watcher {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Crew == nil {
		opts.Crew = clone.NewCrew()
	}
	if opts.Metrics == nil {
		opts.Metrics = NewMetrics(nil)
	}
	if together[0].Spec.Folder != "" {
		return newFolder(together[0], opts, opts.Metrics)
	}
	r := newRepository(identity(together[0]), together[0], opts, opts.Metrics)
	r.sources = together
	return r
}

// Check says why a source cannot be watched: it names neither or both places, or a repository that cannot be.
func Check(s v1alpha1.Source) error {
	refuse := func(why string) error { return fmt.Errorf("cannot use source %s: %s", s.Name, why) }
	switch {
	case s.Name == "" || strings.ContainsAny(s.Name, "/ "):
		return fmt.Errorf("cannot use source %q: a name has at least one character, no slash and no space", s.Name)
	case (s.Spec.URL == "") == (s.Spec.Folder == ""):
		return refuse("exactly one of url and folder is set")
	case s.Spec.Branch != "" && s.Spec.Tag != "":
		return refuse("branch and tag exclude each other")
	case s.Spec.Folder != "" && !path.IsAbs(s.Spec.Folder):
		return refuse("the folder's path is not absolute")
	case s.Spec.URL != "" && !path.IsAbs(s.Spec.URL) && giturl.Check(s.Spec.URL) != nil:
		return refuse(fmt.Sprintf("spec.url: %v", giturl.Check(s.Spec.URL)))
	case s.Spec.Prune != "" && s.Spec.Prune != "allow":
		return refuse(`prune is empty or "allow"`)
	}
	if p := path.Clean("/" + s.Spec.Path); s.Spec.Path != "" && strings.Contains("/"+s.Spec.Path+"/", "/../") {
		return refuse("path " + p + " leads out of the tree")
	}
	return nil
}

// Tidy removes the clones of repositories that none of the watchers reads; no other one may be running.
func Tidy(dataDir string, watchers []Watcher) error {
	used := map[string]bool{}
	for _, w := range watchers {
		if r, ok := w.(*Repository); ok {
			used[filepath.Base(r.dir)] = true
		}
	}
	entries, err := os.ReadDir(filepath.Join(dataDir, "git"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list clones: %w", err)
	}
	for _, e := range entries {
		if used[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dataDir, "git", e.Name())); err != nil {
			return fmt.Errorf("cannot remove a clone that nobody reads: %w", err)
		}
	}
	return nil
}

// Trailer says whether a commit message ends with a paragraph that has the trailer "key: value", by Git's rules: key
// without case, value trimmed.
func Trailer(message, key, value string) bool {
	paragraphs := strings.Split(strings.TrimSpace(strings.ReplaceAll(message, "\r\n", "\n")), "\n\n")
	for line := range strings.SplitSeq(paragraphs[len(paragraphs)-1], "\n") {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(strings.TrimSpace(k), key) && strings.TrimSpace(v) == value {
			return true
		}
	}
	return false
}

func rootOf(s v1alpha1.Source) string {
	return strings.Trim(path.Clean("/"+s.Spec.Path), "/")
}

// backoff spaces the looks after errors: doubling from a second to a minute, so that a push made in an outage is soon
// followed, each with up to a half of jitter so that many daemons do not come back to a forge at the same instant.
type backoff struct {
	failures int
	random   *rand.Rand
}

const (
	backoffBase = time.Second
	backoffMax  = time.Minute
)

func newBackoff(seed uint64) *backoff {
	return &backoff{random: rand.New(rand.NewPCG(seed, 0))}
}

// next returns how long to wait after one more failure; interval is the least where it is longer than the backoff.
func (b *backoff) next() time.Duration {
	d := backoffMax
	if b.failures < 6 {
		d = min(d, backoffBase<<b.failures)
	}
	b.failures++
	return d/2 + time.Duration(b.random.Int64N(int64(d/2)+1))
}

func (b *backoff) reset() { b.failures = 0 }

// jitter spreads an interval by a tenth either way.
func (b *backoff) jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(b.random.Int64N(int64(d/5)+1))
}

// ErrNotFound: the branch, tag, path or folder is not there (yet).
var ErrNotFound = errors.New("not found")
