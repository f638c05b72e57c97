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

	"lockstep/internal/plain"
	"lockstep/internal/sleep"
	"lockstep/kinds/v1alpha1"
	"lockstep/sync/manifest/tree"
)

const (
	defaultRescan = time.Minute
	// quiet is how long nothing may happen before the folder is read: longer than what is between an editor's write and its rename, or
	// between two files of a checkout, and a small part of a pod's start, which waits for it. What is read too early is read again: a
	// manifest that is half written, or objects that are missing, are not believed before they have lasted.
	quiet = 25 * time.Millisecond
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
	metrics *Metrics
	poke    chan struct{}

	mu      sync.Mutex // one scan at a time
	files   map[string]known
	watched map[string]uint64 // directories by path, with their inode
	last    yielded
	added   bool            // the scan in progress began to watch a directory
	refused error           // why a directory could not be watched in the scan in progress
	told    map[string]bool // problems of watching that were told and have not passed
}

func newFolder(s v1alpha1.Source, opts Options, m *Metrics) *Folder {
	return &Folder{
		source: s, opts: opts, metrics: m, poke: make(chan struct{}, 1), files: map[string]known{},
		watched: map[string]uint64{}, told: map[string]bool{},
	}
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
		if !sleep.For(ctx, quiet) {
			return nil, fmt.Errorf("cannot read folder %s: it does not come to rest: %w", f.source.Spec.Folder, ctx.Err())
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
	clear(f.told)
	f.mu.Unlock()
	due := time.NewTimer(0)
	defer due.Stop()
	var since time.Time // of the first change not read yet; zero: none
	poked, rescan := false, false
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
			f.mu.Lock()
			f.tell(lostEvents, true, "file events were lost, the folder is read again", "error", err)
			f.mu.Unlock()
			since = time.Now()
			due.Reset(quiet)
			continue
		case <-f.poke:
			poked = true
		case <-due.C:
		}
		wait := f.look(ctx, watcher, rescan && !poked && since.IsZero(), yield)
		since, poked, rescan = time.Time{}, false, wait > absent
		due.Reset(wait)
	}
}

// The problems of watching that are told once, until they have passed.
const lostEvents, notWatched, noEvent = "lost events", "not watched", "no event"

// tell logs a problem of watching the folder when it begins; mu is held.
func (f *Folder) tell(what string, is bool, message string, args ...any) {
	if is && !f.told[what] {
		f.opts.Log.Warn(message, append([]any{"source", f.source.Name, "folder", f.source.Spec.Folder}, args...)...)
	}
	f.told[what] = is
}

// look scans once, yields what is new, and returns when to look again. late says that nothing but time asks for it.
func (f *Folder) look(ctx context.Context, watcher *fsnotify.Watcher, late bool, yield func(Update)) time.Duration {
	rev, stable, err := f.scan(ctx, watcher)
	if ctx.Err() != nil {
		return absent // what a look found that was cut short says nothing about the folder
	}
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
	if late {
		f.tell(lostEvents, false, "")
		f.tell(noEvent, news && err == nil && f.last.id != "", "a rescan found changes that no file event told of")
	}
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
	if watcher != nil {
		f.tell(notWatched, f.refused != nil, "cannot watch every directory, only rescans will see changes in the others", "error",
			f.refused)
	}
	f.refused = nil
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
		f.watched[path], f.refused = math.MaxUint64, fmt.Errorf("%s: %w", plain.Text(path), err)
		return
	}
	f.watched[path], f.added = inode, true
}
