package nodeagent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/nodeagent/pod"
)

// contentVolumes are a volume of each kind of content, all with a file a.
func contentVolumes() []corev1.Volume {
	labels := []corev1.DownwardAPIVolumeFile{{
		Path:     "a",
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"},
	}}
	return []corev1.Volume{
		configVolume("cm", "content", false),
		{Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "content"}}},
		{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: labels}}},
		{Name: "proj", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "content"}}}}}}},
	}
}

func secretOf(name string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: data}
}

// TestContainersCannotWriteContent has root in a container try to change each kind of content.
func TestContainersCannotWriteContent(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.put(configMap("content", map[string]string{"a": "1"}))
	l.put(secretOf("content", map[string][]byte{"a": []byte("1")}))
	c := shell("main", `for d in /cm /sec /down /proj; do
  for try in "touch $d/new" "echo x > $d/a" "busybox mv $d/..data $d/old" "busybox ln -sfn / $d/..data_tmp" "busybox rm -f $d/a" \
    "busybox mkfifo $d/fifo" "busybox mkdir $d/dir" "busybox chmod 777 $d" "busybox chown 1000 $d" "busybox rm -rf $d/..data/a"; do
    sh -c "$try" 2>/dev/null && echo "could: $try"
  done
  echo x > $d-sub 2>/dev/null && echo "could write $d-sub"
  busybox stat -c "%A %u" -L $d
done; busybox touch /nested/data/w && echo nested; echo done; last=
while :; do now="$(cat /cm/a)$(cat /sec/a)$(cat /proj/a)"; [ "$now" = "$last" ] || echo "state $now"; last=$now; sleep 0.1; done`)
	vols := contentVolumes()
	for _, v := range vols {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name},
			corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name + "-sub", SubPath: "a"})
	}
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "cm", MountPath: "/nested"},
		corev1.VolumeMount{Name: "data", MountPath: "/nested/data"})
	vols = append(vols, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	l.bind("writer", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c}, Volumes: vols})
	p := l.running("writer")
	l.prints(p, "main", "state 111")
	text := l.log(p, "main", 0)
	if strings.Contains(text, "could") || strings.Count(text, "drwxr-xr-x 0") != 4 || !strings.Contains(text, "nested") {
		t.Errorf("the container prints:\n%s", text)
	}
	l.put(configMap("content", map[string]string{"a": "2"}))
	l.put(secretOf("content", map[string][]byte{"a": []byte("2")}))
	l.prints(p, "main", "state 222")
}

// TestVolumesFollowEachByItself takes a key away that one volume needs: the others follow, and the pod tells.
func TestVolumesFollowEachByItself(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.put(configMap("cm", map[string]string{"a": "1", "b": "1"}))
	l.put(secretOf("sec", map[string][]byte{"a": []byte("1")}))
	items := configVolume("items", "cm", false)
	items.ConfigMap.Items = []corev1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "b"}}
	c := shell("main", `last=; while :; do now="$(cat /items/a)$(cat /sec/a)$(cat /all/a)"; [ "$now" = "$last" ] || echo "state $now"; `+
		`last=$now; sleep 0.1; done`)
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "items", MountPath: "/items"}, {Name: "sec", MountPath: "/sec"}, {Name: "all", MountPath: "/all"},
	}
	l.bind("upd", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c}, Volumes: []corev1.Volume{
		items, {Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec"}}},
		configVolume("all", "cm", false)}})
	p := l.running("upd")
	l.prints(p, "main", "state 111")
	l.put(configMap("cm", map[string]string{"a": "2"}))
	l.put(secretOf("sec", map[string][]byte{"a": []byte("2")}))
	l.prints(p, "main", "state 122")
	l.event("upd", "FailedMount", `MountVolume.SetUp failed for volume "items" : configmap references non-existent config key: b`)
	l.put(configMap("cm", map[string]string{"a": "3", "b": "3"}))
	l.prints(p, "main", "state 323")
}

// TestFailedVolumesAreToldEach starts a pod that lacks two objects.
func TestFailedVolumesAreToldEach(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.bind("lacks", corev1.PodSpec{Containers: []corev1.Container{shell("main", forever)}, Volumes: []corev1.Volume{
		configVolume("one", "first", false), configVolume("two", "second", false)}})
	l.event("lacks", "FailedMount", `MountVolume.SetUp failed for volume "one" : configmap "first" not found`)
	l.event("lacks", "FailedMount", `MountVolume.SetUp failed for volume "two" : configmap "second" not found`)
}

// TestPodFiles has containers fill the files that the node makes for them.
func TestPodFiles(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	fill := func(path string) string { return "dd if=/dev/zero of=" + path + " bs=65536 count=96; " + forever }
	for name, path := range map[string]string{
		"hosts":    "/etc/hosts",
		"resolv":   "/etc/resolv.conf",
		"hostname": "/etc/hostname",
		"message":  "/dev/termination-log",
	} {
		l.bind(name, corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []corev1.Container{shell("main", fill(path))},
		})
	}
	limited := shell("main", "cat /etc/hosts; dd if=/dev/zero of=/etc/hosts bs=65536 count=16; "+
		"dd if=/dev/zero of=/dev/termination-log bs=65536 count=16; "+forever)
	limited.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Mi")}
	l.bind("limited", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{limited}})
	for name, message := range map[string]string{
		"hosts":    `Usage of file "/etc/hosts" exceeds the limit "4Mi". `,
		"resolv":   `Usage of file "/etc/resolv.conf" exceeds the limit "4Mi". `,
		"hostname": `Usage of file "/etc/hostname" exceeds the limit "4Mi". `,
		"message":  `Usage of file "/dev/termination-log of container main" exceeds the limit "4Mi". `,
		"limited":  "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
	} {
		l.eventually(name+" evicted", 60*time.Second, func() error {
			if s := l.pod(name).Status; s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != message {
				return fmt.Errorf("phase %s, reason %q, message %q", s.Phase, s.Reason, s.Message)
			}
			return nil
		})
	}
	found, err := filepath.Glob(filepath.Join(l.opts.RunDir, "pods", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && filepath.Base(path) != pod.SandboxFile {
			t.Errorf("a pod's file is in the run directory: %s", path)
		}
	}
}
