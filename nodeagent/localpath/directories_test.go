package localpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

// volume is one of node n1 below a directory.
func volume(dir, name string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{kinds.LocalPathNode: "n1"}, Finalizers: []string{kinds.LocalPath},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Ki")},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: filepath.Join(dir, name)}},
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data", UID: "1"},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestMake: a directory is made once, for everyone below one that is root's, and keeps what is in it.
func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "local-path")
	d := Directories{Dir: dir, Node: "n1"}
	pv := volume(dir, "pvc-1")
	for range 2 {
		if err := d.Make(pv); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]os.FileMode{dir: 0o700, d.Path("pvc-1"): 0o777} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, want)
			}
		}
		write(t, filepath.Join(d.Path("pvc-1"), "file"), "kept")
	}
	if text, err := os.ReadFile(filepath.Join(d.Path("pvc-1"), "file")); err != nil || string(text) != "kept" {
		t.Errorf("the file: %q %v", text, err)
	}
}

// TestMakeFile: a volume of mode Block is a file that is as large as it is from the first, keeps what is in it, grows with the volume,
// never shrinks, and goes with it.
func TestMakeFile(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "data", "local-path")
	d := Directories{Dir: dir, Node: "n1", Records: filepath.Join(root, "records")}
	pv := volume(dir, "pvc-1")
	block := corev1.PersistentVolumeBlock
	pv.Spec.VolumeMode = &block
	path := d.Path("pvc-1")
	if err := d.Grow(pv); err != nil || exists(path) {
		t.Errorf("it grows before it is there: %v", err)
	}
	write(t, filepath.Join(dir, making+"pvc-1"), "what an agent left that died")
	for i, step := range []struct {
		capacity string
		want     int64
	}{{"64Ki", 64 << 10}, {"64Ki", 64 << 10}, {"1025", 64 << 10}, {"100001", 196 * 512}} {
		pv.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse(step.capacity)
		if err := errors.Join(d.Make(pv), d.Grow(pv)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || info.Size() != step.want {
			t.Errorf("%d: %v %v, want %d bytes", i, info, err, step.want)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 4)
		if _, err := f.ReadAt(text, 100); err != nil || i > 0 && string(text) != "kept" {
			t.Errorf("%d: %q %v", i, text, err)
		}
		_, err = f.WriteAt([]byte("kept"), 100)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if there, leaving, err := d.Names(); err != nil || !slices.Equal(there, []string{"pvc-1"}) || len(leaving) > 0 {
		t.Errorf("names %q %q %v", there, leaving, err)
	}
	huge := pv.DeepCopy()
	huge.Name, huge.Spec.Local.Path = "pvc-2", d.Path("pvc-2")
	huge.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("9223372036854775807")
	for range 2 {
		err := d.Make(huge)
		if err == nil || !strings.Contains(err.Error(), "a file of 9223372036854775296 bytes") || exists(d.Path("pvc-2")) {
			t.Errorf("a file that no file system has: %v", err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(pv); !errors.Is(err, ErrGone) {
		t.Errorf("it is made a second time: %v", err)
	}
	write(t, path, "by hand")
	if err := errors.Join(d.Make(pv), d.Remove(t.Context(), pv), d.Remove(t.Context(), pv)); err != nil || exists(path) {
		t.Errorf("its removal: %v", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(pv); err == nil {
		t.Error("a directory is taken for its file")
	}
	if err := errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Make(pv)); err == nil {
		t.Error("a link is taken for its file")
	}
}

// TestGone: a directory that was made is not made a second time, as where its disk is not mounted, until somebody makes it or its volume
// has gone.
func TestGone(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "local-path")
	d := Directories{Dir: dir, Node: "n1", Records: filepath.Join(root, "agent", "local-path")}
	pv := volume(dir, "pvc-1")
	made := func(want error) {
		t.Helper()
		if err := d.Make(pv); !errors.Is(err, want) || want != nil && exists(d.Path("pvc-1")) {
			t.Fatalf("Make: %v, want %v", err, want)
		}
	}
	write(t, filepath.Join(dir, "pvc-1", "file"), "of an earlier release")
	for _, away := range []string{d.Path("pvc-1"), dir} {
		made(nil)
		if err := os.Rename(away, filepath.Join(root, "away")); err != nil {
			t.Fatal(err)
		}
		made(ErrGone)
		if err := errors.Join(os.RemoveAll(away), os.Rename(filepath.Join(root, "away"), away)); err != nil {
			t.Fatal(err)
		}
	}
	made(nil)
	if !exists(filepath.Join(dir, "pvc-1", "file")) {
		t.Error("its data are gone")
	}
	for range 2 {
		if err := d.Remove(t.Context(), pv); err != nil {
			t.Fatal(err)
		}
	}
	made(nil)
}

// TestMadeByARemovedNode: a node that comes under the name of a removed one has the volume's directory, or makes none.
func TestMadeByARemovedNode(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "local-path")
	d := Directories{Dir: dir, Node: "n1", Records: filepath.Join(root, "agent", "local-path")}
	pv := volume(dir, "pvc-1")
	pv.Annotations[kinds.LocalPathMade] = "true"
	if err := d.Make(pv); !errors.Is(err, ErrGone) || exists(d.Path("pvc-1")) {
		t.Errorf("with an empty disk: %v, want %v", err, ErrGone)
	}
	write(t, filepath.Join(dir, "pvc-1", "file"), "kept")
	if err := d.Make(pv); err != nil || !exists(filepath.Join(dir, "pvc-1", "file")) {
		t.Errorf("with its data: %v", err)
	}
}

// TestRefused: what is another node's, or is said to be elsewhere, is neither made nor removed, nor is a link followed.
func TestRefused(t *testing.T) {
	root := t.TempDir()
	dir, outside := filepath.Join(root, "local-path"), filepath.Join(root, "outside")
	d := Directories{Dir: dir, Node: "n1"}
	write(t, filepath.Join(outside, "file"), "mine")
	write(t, filepath.Join(dir, "pvc-0", "file"), "theirs")
	for what, change := range map[string]func(*corev1.PersistentVolume){
		`of node "n2", not of this one`: func(pv *corev1.PersistentVolume) { pv.Labels[kinds.LocalPathNode] = "n2" },
		`of node "", not of this one`:   func(pv *corev1.PersistentVolume) { pv.Annotations = nil },
		"is not at " + dir + "/pvc-1, ": func(pv *corev1.PersistentVolume) { pv.Spec.Local.Path = outside },
		"is not at " + dir + "/pvc-1 ":  func(pv *corev1.PersistentVolume) { pv.Spec.Local.Path = dir + "/pvc-0" },
		"the only place where it can be": func(pv *corev1.PersistentVolume) {
			pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: d.Path("pvc-1")}}
		},
		`"../outside" has no name`: func(pv *corev1.PersistentVolume) { pv.Name, pv.Spec.Local.Path = "../outside", outside },
		`"." has no name`:          func(pv *corev1.PersistentVolume) { pv.Name, pv.Spec.Local.Path = ".", dir },
		`".removed-a" has no name`: func(pv *corev1.PersistentVolume) { pv.Name = ".removed-a" },
	} {
		pv := volume(dir, "pvc-1")
		change(pv)
		for verb, err := range map[string]error{"Make": d.Make(pv), "Remove": d.Remove(t.Context(), pv)} {
			if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
				t.Errorf("%s: %v, want %s", verb, err, what)
			}
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "pvc-2")); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(volume(dir, "pvc-2")); err == nil {
		t.Error("a link is taken for a directory")
	}
	if err := d.Remove(t.Context(), volume(dir, "pvc-2")); err != nil || exists(filepath.Join(dir, "pvc-2")) {
		t.Errorf("a link is not removed: %v", err)
	}
	if !exists(filepath.Join(outside, "file")) || !exists(filepath.Join(dir, "pvc-0", "file")) || exists(filepath.Join(dir, "pvc-1")) {
		t.Error("what is not the volume's was touched")
	}
}

// interrupted is a context that ends once it was asked a number of times.
type interrupted struct {
	context.Context
	left int
}

func (c *interrupted) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestRemoveIsResumed interrupts a removal at each of its steps: what is left is never found by the volume's name, and goes by the
// next call, or at the next start.
func TestRemoveIsResumed(t *testing.T) {
	for _, atStart := range []bool{false, true} {
		whole := false
		for steps := 0; !whole; steps++ {
			dir := filepath.Join(t.TempDir(), "local-path")
			d, pv := Directories{Dir: dir, Node: "n1"}, volume(dir, "pvc-1")
			for i := range 3 {
				write(t, filepath.Join(dir, "pvc-1", fmt.Sprint(i), "deep", "file"), "gone")
				write(t, filepath.Join(dir, "pvc-2", "file"), "kept")
			}
			whole = d.Remove(&interrupted{t.Context(), steps}, pv) == nil
			there, leaving, err := d.Names()
			if slices.Contains(there, "pvc-1") || err != nil || whole != (len(leaving) == 0) {
				t.Fatalf("after %d steps: %v, %v are leaving, %v", steps, there, leaving, err)
			}
			if atStart {
				err = d.Finish(t.Context())
			} else {
				err = d.Remove(t.Context(), pv)
			}
			there, leaving, again := d.Names()
			if err != nil || again != nil || len(leaving) > 0 || !slices.Equal(there, []string{"pvc-2"}) {
				t.Fatalf("after %d steps and the rest: %v, %v are leaving, %v", steps, there, leaving, errors.Join(err, again))
			}
			if steps > 200 {
				t.Fatal("it never comes to its end")
			}
		}
	}
	d := Directories{Dir: filepath.Join(t.TempDir(), "never"), Node: "n1"}
	if err := errors.Join(d.Remove(t.Context(), volume(d.Dir, "pvc-1")), d.Finish(t.Context())); err != nil {
		t.Errorf("of a node without volumes: %v", err)
	}
}

// TestMakeAfterACrash: what was being made when the agent was killed is made anew, and is nobody's volume meanwhile.
func TestMakeAfterACrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "local-path")
	d := Directories{Dir: dir, Node: "n1", Records: filepath.Join(t.TempDir(), "records")}
	write(t, filepath.Join(dir, making+"pvc-1", "half"), "made")
	if err := os.Chmod(filepath.Join(dir, making+"pvc-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if there, _, err := d.Names(); err != nil || len(there) > 0 {
		t.Errorf("%v, %v", there, err)
	}
	if err := d.Make(volume(dir, "pvc-1")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(d.Path("pvc-1"))
	info, statErr := os.Stat(d.Path("pvc-1"))
	if err != nil || statErr != nil || len(left) > 0 || info.Mode().Perm() != everyone || exists(filepath.Join(dir, making+"pvc-1")) {
		t.Errorf("%v, %v, %v, %v", left, err, info, statErr)
	}
}
