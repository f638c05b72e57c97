package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/apart"
	"lockstep/internal/asroot"
	"lockstep/nodeagent/beneath"
)

// TestMain runs the tests in a mount namespace of their own.
func TestMain(m *testing.M) {
	asroot.Main("the tests of nodeagent/volumes")
	apart.Main(syscall.CLONE_NEWNS)
	goleak.VerifyTestMain(m)
}

// cluster is what volumes show.
type cluster struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (c *cluster) sources() Sources {
	return Sources{
		ConfigMap: func(namespace, name string) (*corev1.ConfigMap, error) {
			if o := c.configMaps[namespace+"/"+name]; o != nil {
				return o, nil
			}
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
		},
		Secret: func(namespace, name string) (*corev1.Secret, error) {
			if o := c.secrets[namespace+"/"+name]; o != nil {
				return o, nil
			}
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
		},
		Allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourceCPU: resource.MustParse("2")},
	}
}

func testCluster() *cluster {
	return &cluster{
		configMaps: map[string]*corev1.ConfigMap{"shop/cfg": {
			Data: map[string]string{"a": "alpha", "b": "beta"}, BinaryData: map[string][]byte{"bin": {0, 1}},
		}},
		secrets: map[string]*corev1.Secret{"shop/key": {Data: map[string][]byte{"password": []byte("hunter2")}}},
	}
}

func testPod(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid-1", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			Volumes: volumes,
			Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
				Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
			}}},
		},
	}
}

func newManager(t *testing.T) *Manager {
	t.Helper()
	m, err := New(Options{Dir: filepath.Join(t.TempDir(), "pods")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Sweep(context.Background(), func(types.UID) bool { return false }); err != nil {
			t.Error(err)
		}
	})
	return m
}

// tree shows a directory: modes, groups, targets and contents, links followed for what can be seen.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			for name, text := range tree(t, path) {
				got[e.Name()+"/"+name] = text
			}
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = fmt.Sprintf("%o %d %s", info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid, data)
	}
	return got
}

func wantTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := tree(t, dir)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func configMapVolume(name string, source corev1.ConfigMapVolumeSource) corev1.Volume {
	source.Name = "cfg"
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: &source}}
}

func TestContent(t *testing.T) {
	secret := func(source corev1.SecretVolumeSource) corev1.VolumeSource {
		return corev1.VolumeSource{Secret: &source}
	}
	for name, test := range map[string]struct {
		source  corev1.VolumeSource
		group   *int64
		want    map[string]string
		err     string
		onDisk  bool
		missing bool
	}{
		"a config map": {source: configMapVolume("v", corev1.ConfigMapVolumeSource{}).VolumeSource,
			want: map[string]string{"a": "644 0 alpha", "b": "644 0 beta", "bin": "644 0 \x00\x01"}, onDisk: true},
		"items with modes": {source: configMapVolume("v", corev1.ConfigMapVolumeSource{
			DefaultMode: new(int32(0o400)),
			Items:       []corev1.KeyToPath{{Key: "a", Path: "dir/sub/x"}, {Key: "b", Path: "y", Mode: new(int32(0o755))}},
		}).VolumeSource, want: map[string]string{"dir/sub/x": "400 0 alpha", "y": "755 0 beta"}, onDisk: true},
		"a group": {source: configMapVolume("v", corev1.ConfigMapVolumeSource{DefaultMode: new(int32(0o400))}).VolumeSource,
			group: new(int64(2000)),
			want:  map[string]string{"a": "440 2000 alpha", "b": "440 2000 beta", "bin": "440 2000 \x00\x01"}, onDisk: true},
		"a key that is not there": {
			source: configMapVolume("v", corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "z", Path: "z"}}}).VolumeSource,
			err:    `MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: z`,
		},
		"an optional key": {source: configMapVolume("v", corev1.ConfigMapVolumeSource{
			Optional: new(true),
			Items:    []corev1.KeyToPath{{Key: "z", Path: "z"}},
		}).VolumeSource,
			want: map[string]string{}, onDisk: true},
		"a path that leads out": {source: configMapVolume("v", corev1.ConfigMapVolumeSource{
			Items: []corev1.KeyToPath{{Key: "a", Path: "x/../../y"}},
		}).VolumeSource,
			err: `MountVolume.SetUp failed for volume "v" : invalid path: must be relative and plain: "x/../../y"`},
		"the writer's own name": {
			source: configMapVolume("v", corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "a", Path: "..data"}}}).VolumeSource,
			err:    `MountVolume.SetUp failed for volume "v" : invalid path: must not start with '..': "..data"`,
		},
		"a secret": {source: secret(corev1.SecretVolumeSource{SecretName: "key"}),
			want: map[string]string{"password": "644 0 hunter2"}},
		"a secret that is not": {source: secret(corev1.SecretVolumeSource{SecretName: "none"}),
			err: `MountVolume.SetUp failed for volume "v" : secret "none" not found`, missing: true},
		"an optional secret": {source: secret(corev1.SecretVolumeSource{SecretName: "none", Optional: new(true)}),
			want: map[string]string{}},
		"a secret's key": {source: secret(corev1.SecretVolumeSource{SecretName: "key", Items: []corev1.KeyToPath{{Key: "z", Path: "z"}}}),
			err: `MountVolume.SetUp failed for volume "v" : references non-existent secret key: z`},
		"the pod itself": {source: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "app", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}},
			{Path: "mem", ResourceFieldRef: &corev1.ResourceFieldSelector{
				ContainerName: "c",
				Resource:      "limits.memory",
				Divisor:       resource.MustParse("1Mi"),
			}},
			{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu"}},
		}}}, want: map[string]string{"labels": `644 0 app="web"`, "app": "644 0 web", "mem": "644 0 64", "cpu": "644 0 2"}},
		"projected": {source: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(0o640)), Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{
					LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"},
					Items:                []corev1.KeyToPath{{Key: "a", Path: "x/a"}},
				}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
					Path:     "name",
					FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"},
				}}}},
			}},
		}, want: map[string]string{"x/a": "640 0 alpha", "password": "640 0 hunter2", "name": "640 0 web"}},
		"two projections are wrong": {source: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "nor"}}},
			}},
		}, err: "MountVolume.SetUp failed for volume \"v\" : configmap \"none\" not found\nsecret \"nor\" not found", missing: true},
		"a kind we do not have": {source: corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{}},
			err: `MountVolume.SetUp failed for volume "v" : this kind of volume is not supported`},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t)
			pod := testPod(corev1.Volume{Name: "v", VolumeSource: test.source})
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: test.group}
			for range 2 { // again changes nothing
				mounted, err := m.Setup(context.Background(), pod, testCluster().sources())
				if test.err != "" {
					if err == nil || err.Error() != test.err {
						t.Fatalf("got error %v\nwant %s", err, test.err)
					}
					if apierrors.IsNotFound(err) != test.missing {
						t.Errorf("not found: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				v := mounted["v"]
				if !v.ReadOnly {
					t.Error("it is not read-only")
				}
				wantTree(t, v.HostPath, test.want)
				if memory, err := isMountpoint(v.HostPath); err != nil || memory == test.onDisk {
					t.Errorf("in memory: %v, %v", memory, err)
				}
			}
			if err := m.Teardown(context.Background(), pod.UID); err != nil {
				t.Fatal(err)
			}
			if uids, err := m.Pods(); err != nil || len(uids) != 0 {
				t.Errorf("left: %v, %v", uids, err)
			}
		})
	}
}

// TestUpdate changes an object while a reader looks: it sees one state or the other.
func TestUpdate(t *testing.T) {
	ctx, m, c := context.Background(), newManager(t), testCluster()
	pod := testPod(configMapVolume("v", corev1.ConfigMapVolumeSource{}))
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
	if changed, err := m.Update(ctx, pod, c.sources()); err != nil || changed != 0 {
		t.Fatalf("before it was set up: %v, %v", changed, err)
	}
	mounted, err := m.Setup(ctx, pod, c.sources())
	if err != nil {
		t.Fatal(err)
	}
	dir := mounted["v"].HostPath
	if changed, err := m.Update(ctx, pod, c.sources()); err != nil || changed != 0 {
		t.Errorf("nothing new: %v, %v", changed, err)
	}
	stop, torn := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(torn)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// Through one descriptor of the state, as a program that reads two files that belong together.
			state, err := os.Readlink(filepath.Join(dir, dataLink))
			if err != nil {
				torn <- err.Error()
				return
			}
			state = filepath.Join(dir, state)
			a, errA := os.ReadFile(filepath.Join(state, "a"))
			b, errB := os.ReadFile(filepath.Join(state, "b"))
			if errA == nil && errB == nil && string(a) != strings.Replace(string(b), "beta", "alpha", 1) {
				torn <- fmt.Sprintf("%s with %s", a, b)
				return
			}
		}
	}()
	for i := range 50 {
		c.configMaps["shop/cfg"] = &corev1.ConfigMap{Data: map[string]string{"a": fmt.Sprintf("alpha%d", i), "b": fmt.Sprintf("beta%d", i)}}
		if changed, err := m.Update(ctx, pod, c.sources()); err != nil || changed != 1 {
			t.Fatalf("update %d: %v, %v", i, changed, err)
		}
	}
	close(stop)
	if text, ok := <-torn; ok {
		t.Error(text)
	}
	wantTree(t, dir, map[string]string{"a": "644 2000 alpha49", "b": "644 2000 beta49"})
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 { // the link, its state, a, b
		t.Errorf("in the volume: %v, %v", entries, err)
	}
	delete(c.configMaps, "shop/cfg")
	if _, err := m.Update(ctx, pod, c.sources()); err == nil || !strings.Contains(err.Error(), `configmap "cfg" not found`) {
		t.Errorf("got %v", err)
	}
	wantTree(t, dir, map[string]string{"a": "644 2000 alpha49", "b": "644 2000 beta49"})
}

// TestCrashWhileWriting leaves what a crash leaves before and after the swap.
func TestCrashWhileWriting(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	first := files{"a": {[]byte("1"), 0o644}}
	if _, err := writeFiles(ctx, dir, first, nil); err != nil {
		t.Fatal(err)
	}
	top, err := beneath.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	second := files{"b": {[]byte("2"), 0o644}}
	if _, err := writeState(ctx, top, second, nil); err != nil { // written, not swapped
		t.Fatal(err)
	}
	if err := os.Symlink("..2000_nowhere", filepath.Join(dir, newDataLink)); err != nil {
		t.Fatal(err)
	}
	if changed, err := writeFiles(ctx, dir, second, nil); err != nil || !changed {
		t.Fatal(changed, err)
	}
	wantTree(t, dir, map[string]string{"b": "644 0 2"})
	state, err := writeState(ctx, top, first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceLink(ctx, top, state); err != nil { // swapped, not tidied
		t.Fatal(err)
	}
	if changed, err := writeFiles(ctx, dir, first, nil); err != nil || changed {
		t.Fatal(changed, err)
	}
	wantTree(t, dir, map[string]string{"a": "644 0 1"})
}

func TestEmptyDir(t *testing.T) {
	ctx, m := context.Background(), newManager(t)
	pod := testPod(
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "none"},
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse("1Mi")),
		}}},
		corev1.Volume{
			Name:         "pod-limit",
			VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}},
		},
	)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
	mounted, err := m.Setup(ctx, pod, testCluster().sources())
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]uint64{"disk": 0, "none": 0, "memory": 1 << 20, "pod-limit": 64 << 20} {
		v := mounted[name]
		info, err := os.Stat(v.HostPath)
		if err != nil {
			t.Fatal(err)
		}
		if want := fs.ModeDir | fs.ModeSetgid | 0o777; info.Mode() != want || info.Sys().(*syscall.Stat_t).Gid != 2000 || v.ReadOnly {
			t.Errorf("%s: mode %v, %+v", name, info.Mode(), info.Sys())
		}
		var st unix.Statfs_t
		if err := unix.Statfs(v.HostPath, &st); err != nil {
			t.Fatal(err)
		}
		if size > 0 && (st.Type != unix.TMPFS_MAGIC || st.Blocks*uint64(st.Bsize) != size) {
			t.Errorf("%s: type %x, %d bytes, want %d", name, st.Type, st.Blocks*uint64(st.Bsize), size)
		}
	}
	own := filepath.Join(mounted["disk"].HostPath, "mine")
	if err := os.WriteFile(own, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Setup(ctx, pod, testCluster().sources()); err != nil { // as after the agent's restart
		t.Fatal(err)
	}
	if info, err := os.Stat(own); err != nil || info.Mode() != 0o600 {
		t.Errorf("the container's file: %v, %v", info, err)
	}
	if used, err := m.Usage(ctx, pod.UID, "disk"); err != nil || used < 8192 {
		t.Errorf("usage %d, %v", used, err)
	}
	// A reboot: mounts are gone, files are not.
	if err := unix.Unmount(mounted["memory"].HostPath, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Teardown(ctx, pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Teardown(ctx, "../../etc"); err == nil {
		t.Error("a uid that is a path is taken")
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	block := filepath.Join(dir, "block")
	if err := unix.Mknod(block, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		kind corev1.HostPathType
		path string
		err  string
	}{
		{corev1.HostPathUnset, filepath.Join(dir, "made", "by", "us"), ""},
		{corev1.HostPathUnset, file, ""},
		{corev1.HostPathDirectory, dir, ""},
		{corev1.HostPathDirectory, file, "hostPath type check failed: " + file + " is not a directory"},
		{corev1.HostPathDirectory, dir + "/none", "hostPath type check failed: " + dir + "/none is not a directory"},
		{corev1.HostPathDirectoryOrCreate, dir + "/a/b", ""},
		{corev1.HostPathDirectoryOrCreate, file, "hostPath type check failed: " + file + " is not a directory"},
		{corev1.HostPathFile, file, ""},
		{corev1.HostPathFile, dir, "hostPath type check failed: " + dir + " is not a file"},
		{corev1.HostPathFileOrCreate, dir + "/new", ""},
		{corev1.HostPathFileOrCreate, dir, "hostPath type check failed: " + dir + " is not a file"},
		{corev1.HostPathSocket, socket, ""},
		{corev1.HostPathSocket, file, "hostPath type check failed: " + file + " is not a socket file"},
		{corev1.HostPathCharDev, "/dev/null", ""},
		{corev1.HostPathCharDev, block, "hostPath type check failed: " + block + " is not a character device"},
		{corev1.HostPathBlockDev, block, ""},
		{corev1.HostPathBlockDev, "/dev/null", "hostPath type check failed: /dev/null is not a block device"},
		{"Odd", file, "Odd is an invalid volume type"},
		{corev1.HostPathUnset, "/a/../b", "invalid HostPath `/a/../b`: must be absolute and must not contain '..'"},
	} {
		err := checkHostPath(&corev1.HostPathVolumeSource{Path: test.path, Type: &test.kind})
		if got := fmt.Sprint(err); got != test.err && (test.err != "" || err != nil) {
			t.Errorf("%s %s: got %v, want %q", test.kind, test.path, err, test.err)
		}
	}
}

func TestSubPath(t *testing.T) {
	ctx, m := context.Background(), newManager(t)
	pod := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		configMapVolume("c", corev1.ConfigMapVolumeSource{}))
	mounted, err := m.Setup(ctx, pod, testCluster().sources())
	if err != nil {
		t.Fatal(err)
	}
	v, c := mounted["v"], mounted["c"]
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"abs": outside, "up": "../../../../../..", "in": "dir"} {
		if err := os.Symlink(target, filepath.Join(v.HostPath, name)); err != nil {
			t.Fatal(err)
		}
	}
	path, err := m.SubPath(ctx, pod.UID, v, "dir/sub", "c", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "f"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(v.HostPath, "dir/sub/f")); err != nil || string(data) != "hello" {
		t.Errorf("got %q, %v", data, err)
	}
	// Swapping what was resolved for a link changes nothing for the container.
	if err := os.Rename(filepath.Join(v.HostPath, "dir/sub"), filepath.Join(v.HostPath, "dir/moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(v.HostPath, "dir/sub")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "secret")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mount leads out: %v", err)
	}
	for sub, want := range map[string]string{
		"abs/secret": "it leads out of its volume", "abs": "it leads out of its volume", "up/etc": "it leads out of its volume",
		"dir/sub": "it leads out of its volume", "../x": "must not contain", "/etc": "must be relative",
		"abs/new/dir": "it leads out of its volume",
	} {
		if got, err := m.SubPath(ctx, pod.UID, v, sub, "c", 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q, %v", sub, got, err)
		}
	}
	if path, err := m.SubPath(ctx, pod.UID, v, "in/moved/f", "c", 2); err != nil {
		t.Error(err)
	} else if data, err := os.ReadFile(path); err != nil || string(data) != "hello" {
		t.Errorf("a file: %q, %v", data, err)
	}
	for range 2 { // a container that starts again
		if path, err := m.SubPath(ctx, pod.UID, c, "a", "c", 3); err != nil {
			t.Error(err)
		} else if data, err := os.ReadFile(path); err != nil || string(data) != "alpha" {
			t.Errorf("a config map's file: %q, %v", data, err)
		}
	}
	if _, err := m.SubPath(ctx, pod.UID, c, "none", "c", 4); err == nil {
		t.Error("a read-only volume got a directory")
	}
	if err := m.Teardown(ctx, pod.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "secret")); err != nil {
		t.Error(err)
	}
}

// TestTeardownNeverReachesTheHost keeps a host directory mounted through a subPath.
func TestTeardownNeverReachesTheHost(t *testing.T) {
	ctx, m := context.Background(), newManager(t)
	host := t.TempDir()
	keep := filepath.Join(host, "sub", "keep")
	if err := os.MkdirAll(keep, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SubPath(ctx, "uid-2", Mounted{HostPath: host}, "sub", "c", 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Sweep(ctx, func(uid types.UID) bool { return uid == "uid-2" }); err != nil {
		t.Fatal(err)
	}
	if uids, _ := m.Pods(); len(uids) != 1 {
		t.Errorf("swept what was to be kept: %v", uids)
	}
	if err := m.Sweep(ctx, func(types.UID) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}

func TestNestedMountpoints(t *testing.T) {
	ctx, m := context.Background(), newManager(t)
	pod := testPod(configMapVolume("v", corev1.ConfigMapVolumeSource{}), corev1.Volume{Name: "data"})
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "v", MountPath: "/etc/app"}, {Name: "data", MountPath: "/etc/app/data/x"}, {Name: "data", MountPath: "/var"},
	}
	for range 2 {
		mounted, err := m.Setup(ctx, pod, testCluster().sources())
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(mounted["v"].HostPath, "data/x")); err != nil || !info.IsDir() {
			t.Errorf("the mount point: %v, %v", info, err)
		}
	}
}
