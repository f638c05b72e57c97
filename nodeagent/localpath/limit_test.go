package localpath

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/nodeagent/projects"
)

// projectOf is the project of a file, by the quotas.
func projectOf(t *testing.T, quotas projects.Quotas, path string) uint32 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	project, err := quotas.Of(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func limitOf(t *testing.T, quotas projects.Quotas, project uint32) uint64 {
	t.Helper()
	usage, err := quotas.Usage(0, project)
	if err != nil {
		t.Fatal(err)
	}
	return usage.Limit
}

// TestLimit: a volume is held to its capacity from the first, and to a larger one when it grows, by a project that nobody else has; one
// that was made before there were quotas is given to a project with all its files; what a program does to its files changes nobody
// else's limit; a volume that goes leaves none.
func TestLimit(t *testing.T) {
	root := t.TempDir()
	dir, quotas := filepath.Join(root, "local-path"), &projects.Fake{}
	d := Directories{Dir: dir, Node: "n1", Records: filepath.Join(root, "records"), Quotas: quotas}
	old, pv := volume(dir, "pvc-old"), volume(dir, "pvc-1")
	if err := d.Make(old); err != nil {
		t.Fatal(err)
	}
	if held, err := d.Limit(t.Context(), old); held || err != nil {
		t.Errorf("without quotas: %v, %v", held, err)
	}
	write(t, filepath.Join(dir, "pvc-old", "below", "file"), "kept")
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "pvc-old", "link")); err != nil {
		t.Fatal(err)
	}

	quotas.Have(true)
	if err := d.Make(pv); err != nil {
		t.Fatal(err)
	}
	project := projectOf(t, quotas, d.Path("pvc-1"))
	if project < firstProject || limitOf(t, quotas, project) != 64<<10 {
		t.Errorf("project %d, limit %d", project, limitOf(t, quotas, project))
	}
	for range 2 {
		if held, err := d.Limit(t.Context(), old); !held || err != nil {
			t.Errorf("one that was made before: %v, %v", held, err)
		}
	}
	before := projectOf(t, quotas, d.Path("pvc-old"))
	for _, path := range []string{"below", "below/file"} {
		if got := projectOf(t, quotas, filepath.Join(dir, "pvc-old", path)); got != before || got == 0 || got == project {
			t.Errorf("%s has project %d, the volume %d, another one %d", path, got, before, project)
		}
	}

	pv.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("100001")
	if held, err := d.Limit(t.Context(), pv); !held || err != nil || limitOf(t, quotas, project) != 98<<10 {
		t.Errorf("grown: %v, %v, %d", held, err, limitOf(t, quotas, project))
	}
	quotas.Count(project, 4096, 7)
	if size, held, err := d.Measure(t.Context(), "pvc-1"); !held || err != nil || size.Bytes != 4096 || size.Inodes != 7 {
		t.Errorf("measured: %+v, %v, %v", size, held, err)
	}

	// A program gives its directory to the other's project: that keeps its limit, and the directory goes back.
	f, err := os.Open(d.Path("pvc-1"))
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(quotas.Give(int(f.Fd()), before), f.Close())
	if err != nil {
		t.Fatal(err)
	}
	if _, held, err := d.Measure(t.Context(), "pvc-1"); held || err != nil {
		t.Errorf("one that has escaped is measured by its files: %v, %v", held, err)
	}
	if held, err := d.Limit(t.Context(), pv); !held || err != nil || projectOf(t, quotas, d.Path("pvc-1")) != project ||
		limitOf(t, quotas, before) != 64<<10 {
		t.Errorf("given back: %v, %v, limit of the other %d", held, err, limitOf(t, quotas, before))
	}

	quotas.Break(true)
	if err := d.Remove(t.Context(), pv); err == nil || !exists(d.Path("pvc-1")) {
		t.Errorf("removed though its limit stays: %v", err)
	}
	quotas.Break(false)
	if err := d.Remove(t.Context(), pv); err != nil || limitOf(t, quotas, project) != 0 {
		t.Errorf("removed: %v, limit %d", err, limitOf(t, quotas, project))
	}
	if err := d.Unlimit(); err != nil || limitOf(t, quotas, before) != 0 {
		t.Errorf("all: %v, limit %d", err, limitOf(t, quotas, before))
	}
}

// TestLimitIsNoHalfThing: whenever it fails it can be called again; a record that is damaged is told; block volumes have their size
// already.
func TestLimitIsNoHalfThing(t *testing.T) {
	root := t.TempDir()
	dir, quotas := filepath.Join(root, "local-path"), &projects.Fake{}
	quotas.Have(true)
	quotas.Break(true)
	d := Directories{Dir: dir, Node: "n1", Records: filepath.Join(root, "records"), Quotas: quotas}
	pv := volume(dir, "pvc-1")
	if held, err := d.Limit(t.Context(), pv); held || err != nil {
		t.Errorf("before it is made: %v, %v", held, err)
	}
	if err := d.Make(pv); err != nil {
		t.Fatal(err)
	}
	if held, err := d.Limit(t.Context(), pv); held || err == nil || !strings.Contains(err.Error(), "the file system is broken") {
		t.Errorf("broken: %v, %v", held, err)
	}
	first, err := d.project("pvc-1")
	if err != nil || first == 0 {
		t.Fatalf("project %d, %v", first, err)
	}
	quotas.Break(false)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if held, err := d.Limit(t.Context(), pv); !held || err != nil {
				t.Errorf("mended: %v, %v", held, err)
			}
		})
	}
	all.Wait()
	if got := projectOf(t, quotas, d.Path("pvc-1")); got != first {
		t.Errorf("project %d, first %d", got, first)
	}
	write(t, filepath.Join(d.Records, "pvc-1"), "nonsense")
	if _, err := d.Limit(t.Context(), pv); err == nil || !strings.Contains(err.Error(), "the record of volume pvc-1 is damaged") {
		t.Error(err)
	}
	block := volume(dir, "pvc-2")
	mode := corev1.PersistentVolumeBlock
	block.Spec.VolumeMode = &mode
	if err := d.Make(block); err != nil {
		t.Fatal(err)
	}
	if held, err := d.Limit(t.Context(), block); held || err != nil || projectOf(t, quotas, d.Path("pvc-2")) != 0 {
		t.Errorf("a block volume: %v, %v", held, err)
	}
}

// TestChooseProject: two volumes whose names lead to one project have two, and what others use is left alone.
func TestChooseProject(t *testing.T) {
	taken := map[uint32]bool{}
	free := func(project uint32) (bool, error) { return !taken[project], nil }
	first, err := chooseProject("pvc-1", free)
	if err != nil || first < firstProject || first == ^uint32(0) {
		t.Errorf("%d, %v", first, err)
	}
	taken[first] = true
	if second, err := chooseProject("pvc-1", free); err != nil || second != first+1 {
		t.Errorf("%d after %d, %v", second, first, err)
	}
	want := "cannot limit volume pvc-1: 1024 projects are taken"
	if _, err := chooseProject("pvc-1", func(uint32) (bool, error) { return false, nil }); err == nil || err.Error() != want {
		t.Error(err)
	}
}
