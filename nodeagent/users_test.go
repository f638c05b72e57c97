package nodeagent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/lab/programs"
	"lockstep/nodeagent/userns"
)

// newRunc builds a runc that can do what user namespaces need, whatever the machine has.
func newRunc(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "runc")
	if err := programs.Runc("../lab/runc", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// oldRunc is the machine's runc, which says that it can do nothing.
func oldRunc(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "runc")
	script := "#!/bin/sh\n[ \"$1\" = features ] && exec echo '{}'\nexec runc \"$@\"\n"
	if err := os.WriteFile(file, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// userRows are as fieldRows, each pod with users of its own.
func userRows() []fieldRow {
	none := func(*corev1.PodSpec, *corev1.Container) {}
	volume := func(name string, source corev1.VolumeSource, more ...corev1.VolumeMount) func(*corev1.PodSpec, *corev1.Container) {
		return func(s *corev1.PodSpec, c *corev1.Container) {
			s.Volumes = append(s.Volumes, corev1.Volume{Name: name, VolumeSource: source})
			c.VolumeMounts = append(append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name}), more...)
		}
	}
	const owners = "/bin/busybox stat -c '%n %u:%g' "
	return []fieldRow{
		{"users.ids", "id; cat /proc/self/gid_map; grep CapEff /proc/self/status", none, []string{
			"uid=0(root) gid=0(root)", " 65536\n", "CapEff:\t00000000a80425fb"}},
		{"users.files", owners + "/ /bin/sh /etc/passwd /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /dev/termination-log",
			none, []string{"F / 0:0\n", "F /bin/sh 0:0\n", "F /etc/passwd 0:0\n", "F /etc/hosts 0:0\n", "F /etc/hostname 0:0\n",
				"F /etc/resolv.conf 0:0\n", "F /dev/shm 0:0\n", "F /dev/termination-log 0:0\n"}},
		{"users.writes", "touch /file /etc/passwd /dev/shm/file && /bin/busybox chown 7:8 /file && " + owners +
			"/file /etc/passwd; echo again > /dev/stdout; hostname other || echo kept; ls /sys/class/net", none, []string{
			"F /file 7:8\n", "F /etc/passwd 0:0\n", "F again\n", "F kept\n", "F eth0\n"}},
		{"users.runasuser", "touch /made/file && id && " + owners + "/made/file; cat /text/secret; echo end > /dev/termination-log",
			func(s *corev1.PodSpec, c *corev1.Container) {
				s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), FSGroup: new(int64(4711))}
				volume("made", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})(s, c)
				volume("text", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: "text"}, DefaultMode: new(int32(0o440))}})(s, c)
			}, []string{"uid=1000(web) gid=1001(web) groups=1001(web),1002(extra),4711", "F /made/file 1000:4711\n", "F hidden\n"}},
		{"users.memory", "touch /memory/file /sub/file && " + owners + "/memory /memory/file /sub /sub/file",
			volume("memory", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
				Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse("1Mi"))}},
				corev1.VolumeMount{Name: "memory", MountPath: "/sub", SubPath: "below"}),
			[]string{"F /memory 0:0\n", "F /memory/file 0:0\n", "F /sub 0:0\n", "F /sub/file 0:0\n"}},
		{"users.hostpath", owners + "/host /host/file; touch /host/new && " + owners + "/host/new", nil,
			[]string{"F /host 0:0\n", "F /host/file 5:6\n", "F /host/new 0:0\n"}},
		{"users.image", owners + "/image/etc/passwd; touch /image/no || echo refused", volume("image", corev1.VolumeSource{
			Image: &corev1.ImageVolumeSource{Reference: busybox, PullPolicy: corev1.PullIfNotPresent}}), []string{
			"F /image/etc/passwd 0:0\n", "F refused\n"}},
		{"users.shared", "until ps | grep -v grep | grep 'sleep 4567'; do sleep 0.2; done", func(s *corev1.PodSpec, _ *corev1.Container) {
			s.ShareProcessNamespace = new(true)
			s.Containers = append(s.Containers, shell("other", "sleep 4567 & "+forever))
		}, []string{"sleep 4567"}},
		{"users.masked", "grep -o ' /proc/sys ro' /proc/self/mountinfo", none, []string{"F  /proc/sys ro\n"}},
		{"securityContext.procMount", "grep ' /proc/' /proc/self/mountinfo || echo unmasked", func(_ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{ProcMount: new(corev1.UnmaskedProcMount)}
		}, []string{"F unmasked\n"}},
		{"users.privileged", "grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted; " +
			"echo 1 > /proc/sys/vm/drop_caches || echo refused",
			func(_ *corev1.PodSpec, c *corev1.Container) {
				c.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
			}, []string{"F mounted\n", "F refused\n"}},
		{"users.sysctls", "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range /proc/sys/user/max_ipc_namespaces",
			func(s *corev1.PodSpec, _ *corev1.Container) {
				s.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"},
					{Name: "net.ipv4.ip_local_port_range", Value: "2000 2100"}, {Name: "user.max_ipc_namespaces", Value: "77"}}}
			}, []string{"F 1\n", "F 2000\t2100\n", "F 77\n"}},
		{"users.probes", "touch /tmp/ready; echo up", func(_ *corev1.PodSpec, c *corev1.Container) {
			c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "test -e /tmp/ready && test $(id -u) = 0"}}}}
			c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{
				Command: []string{"touch", "/tmp/hook"}}}}
		}, []string{"F up\n"}},
		{"users.tty", "ls -l /proc/self/fd/0; touch /dev/pts/0 && echo terminal",
			func(_ *corev1.PodSpec, c *corev1.Container) { c.TTY = true }, []string{"/dev/pts/0", "F terminal\r\n"}},
	}
}

// TestUserNamespaces runs pods with users of their own on a runc and a kernel that can, and wants that they keep them, that no
// two have the same, and that a range is free again only after its pod is gone.
func TestUserNamespaces(t *testing.T) {
	runc := newRunc(t) // which is there until all is ended
	l := newLab(t)
	l.opts.Runc, l.opts.Sysctls = runc, []string{"user.*"}
	host := filepath.Join(l.dir, "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(host, "file"), 5, 6); err != nil {
		t.Fatal(err)
	}
	l.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "text"},
		Data: map[string]string{"secret": "hidden\n"}})
	l.start()
	l.ready()
	l.tellsOfUsers(true)
	rows := userRows()
	name := func(row fieldRow) string { return strings.ToLower(strings.ReplaceAll(row.field, ".", "-")) }
	for _, row := range rows {
		spec := corev1.PodSpec{HostUsers: new(false), TerminationGracePeriodSeconds: new(int64(1)),
			Containers: []corev1.Container{shell("main", row.script+"\n"+forever)}}
		if row.set == nil {
			source := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}
			spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: source}}
			spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
		} else {
			row.set(&spec, &spec.Containers[0])
		}
		l.bind(name(row), spec)
	}
	for _, row := range rows {
		p := l.running(name(row))
		for _, want := range row.prints {
			l.prints(p, "main", want)
		}
	}
	if st, err := os.Stat(filepath.Join(host, "new")); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("what a pod's root has written to a volume is %+v, %v", st, err)
	}
	first := l.firstIDs()
	seen := map[string]string{}
	for pod, id := range first {
		if other := seen[id]; id == "0" || other != "" {
			t.Errorf("pods %s and %s have ID %s", pod, other, id)
		}
		seen[id] = pod
	}

	// The agent and containerd end, and a container of each kind is started again.
	before := l.pids()
	l.halt()
	l.killContainerd(syscall.SIGKILL)
	l.startContainerd()
	l.start()
	l.ready()
	l.bind("late", corev1.PodSpec{HostUsers: new(false), TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{shell("main", forever)}})
	l.running("late")
	if id := l.firstIDs()["late"]; id == "0" || seen[id] != "" {
		t.Errorf("a late pod has the IDs of pod %s: %s", seen[id], id)
	}
	if now := l.pids(); now["users-writes/main"] != before["users-writes/main"] {
		t.Errorf("container of users-writes was %d, is %d", before["users-writes/main"], now["users-writes/main"])
	}
	for _, pod := range []string{"users-writes", "users-shared", "users-image"} {
		if err := syscall.Kill(int(before[pod+"/main"]), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		l.eventually(pod+" restarted", 40*time.Second, func() error {
			if s := l.pod(pod).Status.ContainerStatuses[0]; s.RestartCount == 0 || s.State.Running == nil {
				return fmt.Errorf("status %+v", s)
			}
			return nil
		})
		if now := l.firstIDs()[pod]; now != first[pod] {
			t.Errorf("pod %s had ID %s, has %s", pod, first[pod], now)
		}
	}

	free := first["users-ids"]
	for _, row := range rows {
		l.remove(name(row))
	}
	for _, row := range rows {
		l.gone(name(row))
	}
	l.eventually("the ranges are free", 20*time.Second, func() error {
		if left, _ := filepath.Glob(filepath.Join(l.opts.DataDir, "agent", "pods", "*", "userns")); len(left) != 1 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	l.bind("next", corev1.PodSpec{HostUsers: new(false), TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{shell("main", forever)}})
	l.running("next")
	if id := l.firstIDs()["next"]; id != fmt.Sprint(userns.Length) {
		t.Errorf("the next pod has ID %s, though the lowest are free, as %s", id, free)
	}
	for _, pod := range []string{"late", "next"} {
		l.remove(pod)
		l.gone(pod)
	}
	l.clean()
}

// tellsOfUsers wants that the node says whether its runc can do what pods with users of their own need.
func (l *lab) tellsOfUsers(want bool) {
	l.t.Helper()
	handlers := l.node().Status.RuntimeHandlers
	if len(handlers) == 0 || handlers[0].Features == nil || *handlers[0].Features.UserNamespaces != want {
		l.t.Fatalf("the node tells %+v of its runtimes", handlers)
	}
}

// firstIDs are the host's IDs of user 0 in the first container of each pod, as the kernel has them.
func (l *lab) firstIDs() map[string]string {
	l.t.Helper()
	out := map[string]string{}
	for container, pid := range l.pids() {
		pod, name, _ := strings.Cut(container, "/")
		if name != "main" {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
		if err != nil {
			l.t.Fatal(err)
		}
		out[pod] = strings.Fields(string(data))[1]
	}
	return out
}

// TestNoUserNamespaces has a runc that cannot: the pod waits, and is told why, while others run.
func TestNoUserNamespaces(t *testing.T) {
	runc := oldRunc(t)
	l := newLab(t)
	l.opts.Runc = runc
	l.start()
	l.ready()
	l.tellsOfUsers(false)
	l.bind("own", corev1.PodSpec{HostUsers: new(false), TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{shell("main", forever)}})
	l.event("own", "FailedCreatePodSandBox", "can't set `spec.hostUsers: false`, runtime does not support user namespaces: "+
		"runc does not mount volumes with other IDs (it can since 1.2)")
	l.bind("hosts", corev1.PodSpec{HostUsers: new(true), TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{shell("main", forever)}})
	l.running("hosts")
	for _, pod := range []string{"own", "hosts"} {
		l.remove(pod)
		l.gone(pod)
	}
	l.clean()
}
