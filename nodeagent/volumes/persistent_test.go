package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/eventually"
	"lockstep/nodeagent/pods"
)

// claiming is a pod with the claim "data", and what that stands for.
func claiming(uid types.UID, p pods.Persistent) (*corev1.Pod, Sources) {
	pod := testPod(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}})
	pod.UID = uid
	return pod, Sources{Persistent: func(*corev1.Pod, *corev1.Volume) (pods.Persistent, error) { return p, nil }}
}

func local(path string) pods.Persistent {
	return pods.Persistent{Name: "pv", Source: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}}
}

// TestLocal has pods share a directory of the machine, which is given to the first one's fsGroup, and keeps it when they end.
func TestLocal(t *testing.T) {
	m, ctx := newManager(t), t.Context()
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link") // Kubernetes follows it
	if err := os.Symlink(data, link); err != nil {
		t.Fatal(err)
	}
	groups := func() string {
		t.Helper()
		var dir, file unix.Stat_t
		if err := errors.Join(unix.Stat(data, &dir), unix.Stat(filepath.Join(data, "file"), &file)); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%o %d, %o %d", dir.Mode&0o7777, dir.Gid, file.Mode&0o7777, file.Gid)
	}
	policy := corev1.FSGroupChangeOnRootMismatch
	for i, step := range []struct {
		group  int64
		policy *corev1.PodFSGroupChangePolicy
		path   string
		leaves bool // it ends at once
		groups string
	}{
		{2000, nil, data, true, "2775 2000, 660 2000"},
		{3000, &policy, link, true, "2775 3000, 660 3000"},
		{3000, &policy, data, false, "2775 3000, 600 0"},
		{4000, nil, data, false, "2775 3000, 600 0"}, // it is shared now
	} {
		uid := types.UID(fmt.Sprint("uid-", i))
		pod, from := claiming(uid, local(step.path))
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &step.group, FSGroupChangePolicy: step.policy}
		for range 2 {
			got, err := m.Setup(ctx, pod, from)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := os.ReadFile(filepath.Join(got["data"].HostPath, "file")); err != nil || string(text) != "kept" {
				t.Errorf("pod %d sees %q, %v", i, text, err)
			}
		}
		if got := groups(); got != step.groups {
			t.Errorf("pod %d: %s, want %s", i, got, step.groups)
		}
		if step.leaves {
			if err := m.Teardown(ctx, uid); err != nil {
				t.Error(err)
			}
		}
		if i == 1 { // only a walk would change it back
			if err := errors.Join(os.Chown(filepath.Join(data, "file"), 0, 0), os.Chmod(filepath.Join(data, "file"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, want := range map[string]string{
		"/absent/dir": `path "/absent/dir" does not exist`, filepath.Join(data, "file"): "only directory and block device are supported",
		"/a/../b": "must not contain '..'",
	} {
		pod, from := claiming("uid-x", local(path))
		if _, err := m.Setup(ctx, pod, from); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// ending is a context that ends when it has been asked so many times whether it has.
type ending struct {
	context.Context
	left *atomic.Int64
}

func (e ending) Err() error {
	if e.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestTeardownKeepsData ends the removal of a pod's volumes at each of its steps, as the death of the agent does, and has
// another agent sweep what is left. The data of the persistent volume, and what it is mounted at below, stays.
func TestTeardownKeepsData(t *testing.T) {
	data := t.TempDir()
	files := []string{"file", "dir/deep/file", "..data", ".new-data"}
	for _, name := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(data, name)), 0o755),
			os.WriteFile(filepath.Join(data, name), []byte(name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		for _, name := range files {
			if text, err := os.ReadFile(filepath.Join(data, name)); err != nil || string(text) != name {
				t.Fatalf("%s: %s is %q, %v", when, name, text, err)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "pods")
	whole := false
	for steps := int64(0); !whole; steps++ {
		m, err := New(Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		pod, from := claiming("uid-1", local(data))
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "scratch",
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		mounted, err := m.Setup(t.Context(), pod, from)
		if err != nil {
			t.Fatal(err)
		}
		for i, sub := range []string{"dir", "file"} {
			if _, err := m.SubPath(t.Context(), "uid-1", mounted["data"], sub, "main", i); err != nil {
				t.Fatal(err)
			}
		}
		// A mount over a mount, as an agent leaves that was killed between looking and mounting.
		if err := unix.Mount(data, mounted["data"].HostPath, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		var left atomic.Int64
		left.Store(steps)
		whole = m.Teardown(ending{t.Context(), &left}, "uid-1") == nil
		check(fmt.Sprintf("after %d steps", steps))
		again, err := New(Options{Dir: dir})
		if err == nil {
			err = again.Sweep(t.Context(), func(types.UID) bool { return false })
		}
		if err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("swept after %d steps", steps))
		if uids, err := again.Pods(); err != nil || len(uids) > 0 {
			t.Fatalf("left: %v, %v", uids, err)
		}
	}
}

// TestNFS runs another mount, which notes its arguments, fails, or hangs with a child of its own.
func TestNFS(t *testing.T) {
	m, ctx := newManager(t), t.Context()
	bin, notes := t.TempDir(), filepath.Join(t.TempDir(), "notes")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	mounts := func(script string) {
		t.Helper()
		script = "#!/bin/sh\necho \"$@\" >>" + notes + "\n" + script
		if err := os.WriteFile(filepath.Join(bin, "mount"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pod, from := claiming("uid-1", pods.Persistent{Name: "pv", ReadOnly: true, Options: []string{"nfsvers=4.1", "hard"},
		Source: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "files.example.org", Path: "/export"}}})
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "inline",
		VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "192.0.2.1", Path: "/"}}})
	mounts("echo no such server >&2; exit 32\n")
	_, err := m.Setup(ctx, pod, from)
	at := m.volumeDir("uid-1", "data")
	if failed := Errors(err); len(failed) != 2 || failed[0].Error() != ""+
		"MountVolume.SetUp failed for volume \"data\" : mount failed: exit status 32\n"+
		"Mounting command: mount\nMounting arguments: -t nfs -o nfsvers=4.1,hard,ro files.example.org:/export "+at+
		"\nOutput: no such server\n\n" {
		t.Errorf("failed: %q", failed)
	}
	mounts("for at; do :; done; exec /bin/mount -t tmpfs tmpfs $at\n")
	for range 2 {
		got, err := m.Setup(ctx, pod, from)
		if err != nil || !got["data"].ReadOnly || got["inline"].ReadOnly {
			t.Errorf("%+v, %v", got, err)
		}
	}
	said, err := os.ReadFile(notes)
	if want := "-t nfs -- 192.0.2.1:/ " + m.volumeDir("uid-1", "inline") + "\n"; err != nil || strings.Count(string(said), want) != 2 {
		t.Errorf("mounted by %s, %v", said, err)
	}
	if err := m.Teardown(ctx, "uid-1"); err != nil {
		t.Error(err)
	}
	// It hangs: another pod's volumes do not wait, and nothing of it is left when its pod is given up.
	mounts("sleep 1000 &\necho $! >" + notes + "\nwait\n")
	hung, cancel := context.WithCancel(ctx)
	ended := make(chan error)
	go func() {
		_, err := m.Setup(hung, pod, from)
		ended <- err
	}()
	pid := ""
	eventually.Nil(t, time.Minute, "mount hangs", func() error {
		said, err := os.ReadFile(notes)
		if pid = strings.TrimSpace(string(said)); err == nil && (pid == "" || strings.Contains(pid, " ")) {
			err = errors.New("not yet")
		}
		return err
	})
	other, from := claiming("uid-2", local(t.TempDir()))
	if _, err := m.Setup(ctx, other, from); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a mount that hung has succeeded")
	}
	eventually.Nil(t, time.Minute, "its child ends", func() error {
		if state, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(state), ") Z ") {
			return errors.New(string(state))
		}
		return nil
	})
}

// TestNFSServersAreNoOptions: what a pod calls a server is no option of mount, which would mount what a table says that the pod has
// written: the machine's own directories.
func TestNFSServersAreNoOptions(t *testing.T) {
	m, ctx := newManager(t), t.Context()
	theirs := filepath.Join(t.TempDir(), "evil:")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid-1"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "data",
		VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "-T" + strings.TrimSuffix(theirs, ":"), Path: "/fstab"}}}}}}
	at := m.volumeDir("uid-1", "data")
	table := "/etc " + at + " none bind 0 0\n"
	if err := os.WriteFile(filepath.Join(theirs, "fstab"), []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Setup(ctx, pod, Sources{}); err == nil {
		t.Error("it is mounted")
	}
	if _, err := os.Stat(filepath.Join(at, "passwd")); err == nil {
		t.Error("the pod sees the machine's /etc")
	}
	if err := m.Teardown(ctx, "uid-1"); err != nil {
		t.Error(err)
	}
}

// TestBlock maps devices of the machine, and refuses what is none.
func TestBlock(t *testing.T) {
	m := newManager(t)
	device := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(device, unix.S_IFBLK|0o640, int(unix.Mkdev(7, 3))); err != nil {
		t.Fatal(err)
	}
	p := local(device)
	p.Block, p.ReadOnly = true, true
	pod, from := claiming("uid-1", p)
	got, err := m.Setup(t.Context(), pod, from)
	if d := got["data"].Device; err != nil || d == nil || d.Major != 7 || d.Minor != 3 || d.Mode != 0o640 || !got["data"].ReadOnly {
		t.Errorf("got %+v, %v", d, err)
	}
	for path, want := range map[string]string{
		"/dev/null": `MapVolume.MapBlockVolume failed for volume "pv" : path "/dev/null" is neither a block device nor a file`,
		"/absent":   `MapVolume.MapBlockVolume failed for volume "pv" : stat /absent: no such file or directory`,
	} {
		p.Source.Local.Path = path
		pod, from := claiming("uid-2", p)
		_, err := m.Setup(t.Context(), pod, from)
		if failed := Errors(err); len(failed) != 1 || failed[0].Error() != want || failed[0].Reason() != "FailedMapVolume" {
			t.Errorf("%s: %v", path, err)
		}
	}
}
