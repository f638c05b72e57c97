package volumes

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// rewrites is how often each kind of volume is worked on while somebody swaps what is in it.
const rewrites = 1000

// patience is how long all of the work may take while it is attacked: seconds on an idle machine, for ever where it hangs.
const patience = 3 * time.Minute

// host is what no pod may reach: a directory whose state is compared.
type host struct {
	t      *testing.T
	dir    string
	before map[string]string
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	for _, d := range []string{"etc", "etc/cron"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"etc/a", "etc/b", "etc/password", "etc/labels", "etc/cron/job"} {
		if err := os.WriteFile(filepath.Join(h.dir, f), []byte("root's own"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.before = h.state()
	return h
}

func (h *host) state() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(data)
		}
		out[path] = text
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *host) untouched() {
	h.t.Helper()
	if after := h.state(); fmt.Sprint(after) != fmt.Sprint(h.before) {
		for path, text := range after {
			if h.before[path] != text {
				h.t.Errorf("the host was reached: %s is %s, was %q", path, text, h.before[path])
			}
		}
		for path := range h.before {
			if after[path] == "" {
				h.t.Errorf("the host was reached: %s is gone", path)
			}
		}
	}
}

// during runs the attack over and over, while work is done the given number of times. Work may fail, and must not hang.
func during(t *testing.T, attack func(round int), times int, work func(i int) error) (failed int) {
	t.Helper()
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-stop:
				return
			default:
				attack(round)
			}
		}
	})
	done := make(chan int)
	go func() {
		n := 0
		for i := range times {
			if work(i) != nil {
				n++
			}
		}
		done <- n
	}()
	defer attacker.Wait()
	defer close(stop)
	for last := time.NewTimer(patience); ; {
		select {
		case n := <-done:
			return n
		case <-last.C:
			t.Fatalf("%d pieces of work did not end within %s", times, patience)
		}
	}
}

// attacker is a pod with a volume of its own, which it cannot leave either.
type attacker struct {
	h    *host
	root *os.Root
}

// attack lets f work as a pod in a directory; one that is not there is not attacked.
func (h *host) attack(dir string, f func(attacker)) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close()
	_ = syscall.Mkfifo(filepath.Join(dir, ".fifo"), 0o666)
	f(attacker{h, root})
}

// swap puts something in the place of a name: a link to the host, a FIFO, a directory with a link in it.
func (a attacker) swap(name string, round int) {
	_ = a.root.Rename(name, ".old")
	_ = a.root.RemoveAll(name)
	target := filepath.Join(a.h.dir, "etc")
	if base := filepath.Base(name); base[0] != '.' && round%2 == 0 {
		target = filepath.Join(target, base)
	}
	switch round % 4 {
	case 0, 1:
		_ = a.root.Symlink(target, name)
	case 2:
		_ = a.root.Link(".fifo", name)
	case 3:
		_ = a.root.Mkdir(name, 0o777)
		_ = a.root.Symlink(target, filepath.Join(name, "a"))
	}
	_ = a.root.RemoveAll(".old")
}

// TestContentUnderAttack rewrites each kind of content 1,000 times in a directory that the attacker may write to, as
// those of an earlier release were.
func TestContentUnderAttack(t *testing.T) {
	for name, source := range contentVolumes() {
		t.Run(name, func(t *testing.T) {
			ctx, m, c, h := context.Background(), newManager(t), testCluster(), newHost(t)
			pod := testPod(corev1.Volume{Name: "v", VolumeSource: source})
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
				{Name: "v", MountPath: "/v"}, {Name: "w", MountPath: "/v/nested/deep"},
			}
			mounted, err := m.Setup(ctx, pod, c.sources())
			if err != nil {
				t.Fatal(err)
			}
			dir := mounted["v"].HostPath
			attack := func(round int) {
				h.attack(dir, func(a attacker) {
					names := []string{dataLink, newDataLink, "a", "password", "labels", "nested"}
					states, _ := filepath.Glob(filepath.Join(dir, "..20*"))
					for _, state := range states {
						state = filepath.Base(state)
						names = append(names, state, filepath.Join(state, "a"), filepath.Join(state, "password"),
							filepath.Join(state, "labels"))
					}
					a.swap(names[round%len(names)], round/len(names))
				})
			}
			change := func(i int) {
				text := fmt.Sprint(i)
				c.configMaps["shop/cfg"] = &corev1.ConfigMap{Data: map[string]string{"a": text, "b": text}}
				c.secrets["shop/key"] = &corev1.Secret{Data: map[string][]byte{"password": []byte(text), "a": []byte(text)}}
				pod.Labels = map[string]string{"round": text}
			}
			failed := during(t, attack, rewrites, func(i int) error {
				change(i)
				if _, err := m.Update(ctx, pod, c.sources()); err != nil {
					return err
				}
				_, err := m.Setup(ctx, pod, c.sources())
				return err
			})
			h.untouched()
			t.Logf("%d of %d rewrites failed", failed, rewrites)
			change(rewrites)
			if _, err := m.Update(ctx, pod, c.sources()); err != nil { // mended as soon as it is left alone, but for directories
				t.Logf("after the attack: %v", err)
			}
			if err := m.Teardown(ctx, pod.UID); err != nil {
				t.Error(err)
			}
			h.untouched()
		})
	}
}

// contentVolumes has a volume of each kind of content.
func contentVolumes() map[string]corev1.VolumeSource {
	labels := []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		{Path: "a", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}
	return map[string]corev1.VolumeSource{
		"configMap":   configMapVolume("v", corev1.ConfigMapVolumeSource{}).VolumeSource,
		"secret":      {Secret: &corev1.SecretVolumeSource{SecretName: "key"}},
		"downwardAPI": {DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: labels}},
		"projected": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: labels[:1]}},
		}}},
	}
}

// TestSubPathUnderAttack resolves and makes a subPath 1,000 times while its parts are swapped.
func TestSubPathUnderAttack(t *testing.T) {
	ctx, m, h := context.Background(), newManager(t), newHost(t)
	shared := t.TempDir() // a hostPath that another pod may write to
	pod := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared}}})
	mounted, err := m.Setup(ctx, pod, testCluster().sources())
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range mounted {
		t.Run(name, func(t *testing.T) {
			if err := os.Chown(v.HostPath, 1000, 1000); err != nil {
				t.Fatal(err)
			}
			attack := func(round int) {
				h.attack(v.HostPath, func(a attacker) {
					parts := []string{"x", "x/y", "x/y/z"}
					if a.swap(parts[round%3], round/3); round%5 == 0 {
						_ = a.root.RemoveAll("x")
					}
				})
			}
			during(t, attack, rewrites, func(int) error {
				path, err := m.SubPath(ctx, pod.UID, v, "x/y/z", "c", 0)
				if err != nil {
					return err
				}
				if _, err := os.Stat(filepath.Join(path, "cron")); err == nil {
					t.Error("the container would see the host")
				}
				return nil
			})
			h.untouched()
		})
	}
	if err := m.Teardown(ctx, pod.UID); err != nil {
		t.Error(err)
	}
	h.untouched()
}

// TestEmptyDirUnderAttack sets an emptyDir up and removes it 1,000 times while it is being filled with links.
func TestEmptyDirUnderAttack(t *testing.T) {
	ctx, m, h := context.Background(), newManager(t), newHost(t)
	pod := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
	dir := m.volumeDir(pod.UID, "v")
	attack := func(round int) {
		h.attack(dir, func(a attacker) {
			_ = a.root.Mkdir("sub", 0o777)
			for _, name := range []string{"a", "sub", "sub/a", "sub/cron"} {
				a.swap(name, round)
			}
		})
	}
	during(t, attack, rewrites, func(i int) error {
		if _, err := m.Setup(ctx, pod, testCluster().sources()); err != nil {
			return err
		}
		if i%2 == 0 {
			return m.Teardown(ctx, pod.UID)
		}
		return nil
	})
	h.untouched()
}

// TestHostPathUnderAttack makes directories and files on the host 1,000 times where an unprivileged pod may swap the way.
func TestHostPathUnderAttack(t *testing.T) {
	h, shared := newHost(t), t.TempDir()
	if err := os.Chown(shared, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	attack := func(round int) {
		h.attack(shared, func(a attacker) {
			for _, name := range []string{"x", "x/y", "new", "made", "file"} {
				a.swap(name, round)
				_ = a.root.Lchown(name, 1000, 1000)
			}
		})
	}
	during(t, attack, rewrites, func(i int) error {
		var err error
		for _, test := range []corev1.HostPathVolumeSource{
			{Path: shared + "/x/y/z", Type: new(corev1.HostPathDirectoryOrCreate)},
			{Path: shared + "/x/new", Type: new(corev1.HostPathFileOrCreate)},
			{Path: shared + "/file", Type: new(corev1.HostPathFileOrCreate)},
			{Path: shared + "/x/job", Type: new(corev1.HostPathFileOrCreate)},
			{Path: shared + "/made/now"},
		} {
			err = checkHostPath(&test)
		}
		return err
	})
	h.untouched()
}
