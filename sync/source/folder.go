package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"lockstep/kinds/v1alpha1"
	"lockstep/sync/manifest/tree"
)

const (
	defaultRescan = time.Minute
	// quiet is how long nothing may happen before the folder is read: longer than an editor's rename-replace or a
	// formatter's second write, shorter than anybody notices.
	quiet = 50 * time.Millisecond
	// settle bounds the waiting for quiet: a folder that never rests is read twice a second all the same.
	settle = 500 * time.Millisecond
	// absent is how often a folder that does not exist is looked for: there is nothing to watch.
	absent = time.Second
)

// Settle is how long after a change a manifest that cannot be read may be half written.
const Settle = settle

// Folder is the place of a source that reads a folder.
type Folder struct {
	source  v1alpha1.Source
	opts    Options
	metrics *metrics
	poke    chan struct{}

	mu      sync.Mutex // one scan at a time
	files   map[string]known
	watched map[string]uint64 // directories by path, with their inode
	last    yielded
	added   bool // the scan in progress began to watch a directory
}

func newFolder(s v1alpha1.Source, opts Options, m *metrics) *Folder {
	return &Folder{source: s, opts: opts, metrics: m, poke: make(chan struct{}, 1), files: map[string]known{}, watched: map[string]uint64{}}
}

// Sources implements Watcher.
func (f *Folder) Sources() []v1alpha1.Source { return []v1alpha1.Source{f.source} }

// Poke implements Watcher.
func (f *Folder) Poke() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}

// Look implements Watcher. It waits until the folder is at rest.
func (f *Folder) Look(ctx context.Context, name string) (*Revision, error) {
	if name != f.source.Name {
		return nil, fmt.Errorf("cannot look at source %s: it is not this folder", name)
	}
	for {
		rev, stable, err := f.scan(ctx, nil)
		if err != nil || stable {
			return rev, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot read folder %s: it does not come to rest: %w", f.source.Spec.Folder, ctx.Err())
		case <-time.After(quiet):
		}
	}
}

// Run implements Watcher.
func (f *Folder) Run(ctx context.Context, yield func(Update)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		f.opts.Log.Warn("cannot watch the folder, only rescans will see changes", "folder", f.source.Spec.Folder, "error", err)
		watcher = &fsnotify.Watcher{}
	} else {
		defer watcher.Close()
	}
	f.mu.Lock()
	f.last = yielded{}
	clear(f.watched)
	f.mu.Unlock()
	due := time.NewTimer(0)
	defer due.Stop()
	var since time.Time // of the first change not read yet; zero: none
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			if !f.relevant(event) {
				continue
			}
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			due.Reset(min(quiet, max(0, settle-now.Sub(since))))
			continue
		case err := <-watcher.Errors:
			f.opts.Log.Warn("file events were lost, the folder is read again", "folder", f.source.Spec.Folder, "error", err)
			due.Reset(quiet)
			continue
		case <-f.poke:
		case <-due.C:
		}
		since = time.Time{}
		due.Reset(f.look(ctx, watcher, yield))
	}
}

// look scans once, yields what is new, and returns when to look again.
func (f *Folder) look(ctx context.Context, watcher *fsnotify.Watcher, yield func(Update)) time.Duration {
	rev, stable, err := f.scan(ctx, watcher)
	f.metrics.looks.WithLabelValues(f.source.Spec.Folder, result(err)).Inc()
	f.mu.Lock()
	now := yielded{}
	if err != nil {
		now.err = err.Error()
	} else if stable {
		now.id = rev.ID
	}
	added := f.added
	f.added = false
	news := now != f.last && (err != nil || stable)
	if news {
		f.last = now
	}
	f.mu.Unlock()
	if news {
		if err != nil {
			f.opts.Log.Warn("cannot read the folder, its objects stay as they are", "source", f.source.Name, "error", err)
		}
		yield(Update{Source: f.source.Name, Revision: rev, Err: err})
	}
	switch {
	case err != nil:
		return absent
	case !stable, added: // what changed between the walk and the watch is seen by one more scan
		return quiet
	}
	if d := f.source.Spec.Interval.Duration; d > 0 {
		return d
	}
	return defaultRescan
}

// relevant says whether an event may have changed a revision: one about a manifest, or about a directory or link,
// whose names have no manifest's extension.
func (f *Folder) relevant(event fsnotify.Event) bool {
	if event.Op == fsnotify.Chmod {
		return false
	}
	name := filepath.Base(event.Name)
	if strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".swp") || strings.HasSuffix(name, ".tmp") {
		return false
	}
	if event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) {
		f.mu.Lock()
		delete(f.watched, event.Name)
		f.mu.Unlock()
	}
	return tree.Wanted(name) || !event.Has(fsnotify.Write)
}

// scan reads the state of the folder. It is stable where no file was caught in the middle of being written. A watcher
// is made to watch every directory found; it may be nil.
func (f *Folder) scan(ctx context.Context, watcher *fsnotify.Watcher) (*Revision, bool, error) {
	defer f.metrics.took("scan", time.Now())
	f.mu.Lock()
	defer f.mu.Unlock()
	top, err := filepath.EvalSymlinks(f.source.Spec.Folder)
	if err != nil {
		clear(f.watched)
		return nil, false, f.explain(err)
	}
	s := &scan{top: top, now: time.Now(), known: f.files, files: make(map[string]known, len(f.files)), stable: true}
	s.dir = func(path string, inode uint64) { f.watch(watcher, path, inode) }
	if err := s.walk(ctx, rootOf(f.source)); err != nil {
		return nil, false, f.explain(err)
	}
	f.files = s.files
	return s.revision(), s.stable, nil
}

func (f *Folder) explain(err error) error {
	cause := err
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		cause = pathError.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &readError{fmt.Sprintf("cannot read folder %s: it does not exist", f.source.Spec.Folder), ErrNotFound}
	}
	return &readError{fmt.Sprintf("cannot read folder %s: %v", f.source.Spec.Folder, cause), err}
}

// watch makes the watcher follow a directory; one that was replaced under its name is followed anew.
func (f *Folder) watch(watcher *fsnotify.Watcher, path string, inode uint64) {
	if watcher == nil || watcher.Events == nil {
		return
	}
	before, ok := f.watched[path]
	if ok && before == inode {
		return
	}
	if ok {
		_ = watcher.Remove(path) // it may be gone with the old inode already
	}
	if err := watcher.Add(path); err != nil {
		if _, failed := f.watched[path]; !failed {
			f.opts.Log.Warn("cannot watch a directory, only rescans will see changes", "directory", path, "error", err)
		}
		f.watched[path] = math.MaxUint64
		return
	}
	f.watched[path], f.added = inode, true
}
