package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/v1alpha1"
)

// following is a folder with what its watcher yields.
type following struct {
	t       *testing.T
	dir     string
	updates chan Update
	last    Update
}

func follow(t *testing.T, dir string, rescan time.Duration) *following {
	t.Helper()
	f := &following{t: t, dir: dir, updates: make(chan Update, 1000)}
	watchers, err := Watchers([]v1alpha1.Source{{
		ObjectMeta: metav1.ObjectMeta{Name: "shop"},
		Spec:       v1alpha1.SourceSpec{Folder: dir, Interval: metav1.Duration{Duration: rescan}},
	}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watchers[0].Run(ctx, func(u Update) { f.updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *following) write(name, content string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// until waits for an update that reads so; every revision on the way must be one of those allowed, if any are given.
func (f *following) until(want string, allowed ...string) {
	f.t.Helper()
	end := time.After(30 * time.Second)
	seen := ""
	for {
		select {
		case u := <-f.updates:
			f.last = u
			if seen = describe(u); seen == want {
				return
			}
			if len(allowed) > 0 && !strings.Contains(strings.Join(allowed, "|"), seen) {
				f.t.Fatalf("yielded %q on the way to %q", seen, want)
			}
		case <-end:
			f.t.Fatalf("last yielded %q, want %q", seen, want)
		}
	}
}

func describe(u Update) string {
	if u.Err != nil {
		return "error: " + u.Err.Error()
	}
	var b strings.Builder
	for _, file := range u.Revision.Files {
		data, err := file.Read()
		if errors.Is(err, ErrChanged) {
			data = []byte("changed")
		} else if err != nil {
			return err.Error()
		}
		b.WriteString(file.Path + "=" + string(data) + ";")
	}
	for _, p := range u.Revision.Problems {
		b.WriteString("!" + p.Error() + ";")
	}
	return b.String()
}

func TestFolderFollowsChanges(t *testing.T) {
	f := follow(t, t.TempDir(), 0)
	f.until("")
	f.write("a.yaml", "one")
	f.until("a.yaml=one;")
	f.write("deep/er/b.yaml", "two")
	f.until("a.yaml=one;deep/er/b.yaml=two;")
	f.write("deep/er/b.yaml", "three")
	f.until("a.yaml=one;deep/er/b.yaml=three;")
	f.write(".git/c.yaml", "hidden")
	f.write("notes.txt", "no manifest")

	// An editor's rename-replace.
	f.write(".a.yaml.swp", "four")
	if err := os.Rename(filepath.Join(f.dir, ".a.yaml.swp"), filepath.Join(f.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	f.until("a.yaml=four;deep/er/b.yaml=three;")
	if err := os.Rename(filepath.Join(f.dir, "deep"), filepath.Join(f.dir, "shallow")); err != nil {
		t.Fatal(err)
	}
	f.until("a.yaml=four;shallow/er/b.yaml=three;")
	f.write("shallow/er/b.yaml", "five")
	f.until("a.yaml=four;shallow/er/b.yaml=five;")
	if err := os.RemoveAll(filepath.Join(f.dir, "shallow")); err != nil {
		t.Fatal(err)
	}
	f.until("a.yaml=four;")
}

func TestFolderIsNotReadWhileItIsWritten(t *testing.T) {
	f := follow(t, t.TempDir(), 0)
	f.write("a.yaml", "old")
	f.until("a.yaml=old;")
	file, err := os.Create(filepath.Join(f.dir, "a.yaml")) // now empty
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 20 {
		if _, err := file.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.until("a.yaml=" + strings.Repeat("x", 20) + ";")
}

func TestFolderGoneAndBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	f := follow(t, dir, 0)
	f.until("error: cannot read folder " + dir + ": it does not exist")
	f.write("a.yaml", "one")
	f.until("a.yaml=one;")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f.until("error: cannot read folder "+dir+": it does not exist", "a.yaml=changed;", "")
	f.write("a.yaml", "two")
	f.until("a.yaml=two;")
	f.write("a.yaml", "three")
	f.until("a.yaml=three;")
}

func TestFolderLinks(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, target := range map[string]string{"in.yaml": "a.yaml", "out.yaml": outside, "lost.yaml": "nowhere.yaml"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f := follow(t, dir, 0)
	f.write("a.yaml", "one")
	f.until("a.yaml=one;in.yaml=one;!lost.yaml: the symbolic link leads nowhere;!out.yaml: the symbolic link leads out of the tree;")
}

func TestFolderHashesOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	folder := newFolder(v1alpha1.Source{Spec: v1alpha1.SourceSpec{Folder: dir}}, Options{}, NewMetrics(nil))
	path := filepath.Join(dir, "a.yaml")
	if err := os.WriteFile(path, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	before, stable, err := folder.scan(t.Context(), nil)
	if err != nil || !stable {
		t.Fatal(err, stable)
	}
	// Same size, time and inode: the content is not looked at, which only somebody who forges time stamps can notice.
	if err := os.WriteFile(path, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	if after, _, err := folder.scan(t.Context(), nil); err != nil || after.ID != before.ID {
		t.Errorf("the file was hashed again: %v", err)
	}
	if err := os.Chtimes(path, old, old.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if after, _, err := folder.scan(t.Context(), nil); err != nil || after.ID == before.ID {
		t.Errorf("the change was not seen: %v", err)
	}
}

// TestFolderMovedAwayAndMadeAnew: a directory goes on being watched under its new name when another one takes its old name.
func TestFolderMovedAwayAndMadeAnew(t *testing.T) {
	f := follow(t, t.TempDir(), time.Hour)
	f.write("deep/er/a.yaml", "one")
	f.until("deep/er/a.yaml=one;")
	if err := os.Rename(filepath.Join(f.dir, "deep"), filepath.Join(f.dir, "moved")); err != nil {
		t.Fatal(err)
	}
	f.until("moved/er/a.yaml=one;")
	f.write("deep/er/b.yaml", "two")
	f.until("deep/er/b.yaml=two;moved/er/a.yaml=one;")
	f.write("moved/er/a.yaml", "three")
	f.until("deep/er/b.yaml=two;moved/er/a.yaml=three;")
	f.write("deep/er/b.yaml", "four")
	f.until("deep/er/b.yaml=four;moved/er/a.yaml=three;")
}

// TestWatchProblemsAreToldOnce, however many directories they are about, and again when they come back.
func TestWatchProblemsAreToldOnce(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	folder := newFolder(v1alpha1.Source{Spec: v1alpha1.SourceSpec{Folder: dir}},
		Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, NewMetrics(nil))
	broken, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	broken.Close()
	whole, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	for i, step := range []struct {
		watcher *fsnotify.Watcher
		lines   int
	}{{broken, 1}, {broken, 1}, {whole, 1}, {broken, 2}} {
		if i == 3 {
			clear(folder.watched)
		}
		if _, _, err := folder.scan(t.Context(), step.watcher); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(log.String(), "cannot watch"); got != step.lines {
			t.Errorf("after step %d: %d lines, want %d:\n%s", i, got, step.lines, log.String())
		}
	}
}

// TestMissedEventsAreTold: a change that only a rescan sees, such as one on a network's file system, is followed and told.
func TestMissedEventsAreTold(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	folder := newFolder(v1alpha1.Source{Spec: v1alpha1.SourceSpec{Folder: dir}},
		Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, NewMetrics(nil))
	for i, late := range []bool{false, true, true} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".yaml")), []byte("a"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, fmt.Sprint(i, ".yaml")), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		yielded := 0
		folder.look(t.Context(), nil, late, func(Update) { yielded++ })
		if yielded != 1 {
			t.Errorf("look %d yielded %d", i, yielded)
		}
	}
	if got := strings.Count(log.String(), "no file event"); got != 1 {
		t.Errorf("%d lines:\n%s", got, log.String())
	}
}
