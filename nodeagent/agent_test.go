package nodeagent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/runtime"
)

// log is what a pod's container has printed, in CRI format.
func (l *lab) log(p *corev1.Pod, container string, attempt int) string {
	opts, _ := l.opts.withDefaults()
	data, _ := os.ReadFile(logs.Path(logs.Dir(opts.LogDir, p.Namespace, p.Name, p.UID), container, attempt))
	return string(data)
}

func (l *lab) prints(p *corev1.Pod, container, want string) {
	l.t.Helper()
	l.eventually(container+" prints "+want, 20*time.Second, func() error {
		if text := l.log(p, container, 0); !strings.Contains(text, want) {
			return fmt.Errorf("log %q", text)
		}
		return nil
	})
}

func (l *lab) clean() {
	l.t.Helper()
	l.eventually("no container left", 20*time.Second, func() error {
		if left := l.list(); len(left) != 0 {
			return fmt.Errorf("containers left: %v", left)
		}
		for _, pattern := range []string{"run/pods/*", "run/cni/addresses/*/10.*", "data/agent/pods/*", "data/volumes/*/*", "run/fifo/*"} {
			if files, _ := filepath.Glob(filepath.Join(l.dir, pattern)); len(files) > 0 {
				return fmt.Errorf("files left: %v", files)
			}
		}
		return nil
	})
}

func TestPodWithEverything(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.put(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"},
		Data:       map[string]string{"color": "green", "file.txt": "from config map"},
	})
	l.put(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pass"},
		Data:       map[string][]byte{"word": []byte("xyzzy")},
	})
	init := shell("init", "echo prepared > /shared/init; echo init done")
	init.VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	web := shell("web", "cat /shared/init /config/file.txt; id; echo color=$COLOR word=$WORD ip=$IP cpu=$CPU image=$FROM_IMAGE "+
		"expanded=$EXPANDED; hostname; cat /etc/resolv.conf /etc/hosts; touch /ro 2>/dev/null && echo writable; echo started > /tmp/x; "+
		"touch /shared/healthy; httpd -f -p 8080 -h /shared")
	web.SecurityContext = &corev1.SecurityContext{
		RunAsUser:                new(int64(1000)),
		AllowPrivilegeEscalation: new(false),
		ReadOnlyRootFilesystem:   new(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	web.VolumeMounts = []corev1.VolumeMount{
		{Name: "shared", MountPath: "/shared"}, {Name: "config", MountPath: "/config"},
		{Name: "tmp", MountPath: "/tmp"},
	}
	web.Env = []corev1.EnvVar{
		{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{
			ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: "settings"},
				Key:                  "color",
			},
		}},
		{Name: "WORD", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "pass"}, Key: "word"},
		}},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		{Name: "EXPANDED", Value: "$(COLOR)-$(NOPE)"},
	}
	web.Resources = corev1.ResourceRequirements{
		Limits: corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("64Mi")},
	}
	web.ReadinessProbe = &corev1.Probe{
		PeriodSeconds: 1,
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthy", Port: intstr.FromInt32(8080)}},
	}
	web.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo hooked > /shared/hook"}}},
	}
	side := shell("side", "echo side of $HOSTNAME; trap 'echo told to end; exit 3' TERM; while :; do sleep 1000 & wait; done")
	side.VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/data", SubPath: "sub"}}
	side.LivenessProbe = &corev1.Probe{
		PeriodSeconds: 1,
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "ls /data"}}},
	}
	l.bind("full", corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(2)),
		InitContainers:                []corev1.Container{init},
		Containers:                    []corev1.Container{web, side},
		SecurityContext:               &corev1.PodSecurityContext{FSGroup: new(int64(2000)), SupplementalGroups: []int64{3000}},
		Volumes: []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "config", VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}},
			}}},
	})
	p := l.running("full")
	for _, want := range []string{
		"prepared", "from config map", "uid=1000(web) gid=1001(web)", "2000", "3000", "1002(extra)",
		"color=green word=xyzzy ip=" + p.Status.PodIP,
		"cpu=2 image=yes expanded=green-$(NOPE)", "stdout F full", "nameserver 10.43.0.10", "default.svc.cluster.local",
		p.Status.PodIP + "\tfull",
	} {
		l.prints(p, "web", want)
	}
	if strings.Contains(l.log(p, "web", 0), "writable") {
		t.Error("the root file system is writable")
	}
	if s := p.Status.InitContainerStatuses[0]; s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" || !s.Ready {
		t.Errorf("init container %+v", s)
	}
	opts, _ := l.opts.withDefaults()
	limit := filepath.Join("/sys/fs/cgroup/memory", machine.Cgroup(opts.NodeName), "burstable", "pod"+string(p.UID),
		strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://"), "memory.limit_in_bytes")
	if data, err := os.ReadFile(limit); !cgroup.V2() && (err != nil || strings.TrimSpace(string(data)) != "67108864") {
		t.Errorf("memory limit %q, %v", data, err)
	}
	l.eventually("one shim for both containers", 5*time.Second, func() error {
		if shims := shimsOf(t, l); shims != 1 {
			return fmt.Errorf("%d shims", shims)
		}
		return nil
	})
	began := time.Now()
	l.remove("full")
	l.gone("full")
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the end took %s", took)
	}
	l.clean()
}

// shimsOf counts the shim processes of the lab's containerd.
func shimsOf(t *testing.T, l *lab) int {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if strings.Contains(string(data), "containerd-shim") && strings.Contains(string(data), l.opts.Containerd) {
			n++
		}
	}
	return n
}

func TestCrashBackoffAndPreviousLog(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	c := shell("main", "echo dying; echo why > /dev/termination-log; exit 7")
	c.TerminationMessagePath = "/dev/termination-log"
	l.bind("crash", corev1.PodSpec{Containers: []corev1.Container{c}})
	l.eventually("CrashLoopBackOff", 20*time.Second, func() error {
		p := l.pod("crash")
		for _, s := range p.Status.ContainerStatuses {
			last := s.LastTerminationState.Terminated
			if s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" && s.RestartCount == 1 && last != nil &&
				last.ExitCode == 7 && last.Message == "why\n" {
				return nil
			}
		}
		return fmt.Errorf("status %+v", p.Status.ContainerStatuses)
	})
	p := l.pod("crash")
	if !strings.HasPrefix(p.Status.ContainerStatuses[0].State.Waiting.Message,
		"back-off 10s restarting failed container=main pod=crash_default(") {
		t.Errorf("message %q", p.Status.ContainerStatuses[0].State.Waiting.Message)
	}
	if !strings.Contains(l.log(p, "main", 0), "dying") {
		t.Error("the first instance's log is gone")
	}
	l.remove("crash")
	l.gone("crash")
	l.clean()
}

func (l *lab) endsForGood(t *testing.T) {
	t.Helper()
	l.bind("good", corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{shell("main", "exit 0")}})
	l.bind("bad", corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{shell("main", "exit 2")}})
	l.bind("nosuch", corev1.PodSpec{
		Containers: []corev1.Container{{Name: "main", Image: "example.com/nosuch:1", ImagePullPolicy: corev1.PullNever}},
	})
	l.bind("noconfig", corev1.PodSpec{
		Containers: []corev1.Container{{
			Name:  "main",
			Image: busybox,
			EnvFrom: []corev1.EnvFromSource{{
				ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}},
			}},
		}},
	})
	reason := func(name, want string) {
		l.eventually(name+" says "+want, 20*time.Second, func() error {
			for _, s := range l.pod(name).Status.ContainerStatuses {
				if s.State.Waiting != nil && s.State.Waiting.Reason == want {
					return nil
				}
			}
			return fmt.Errorf("status %+v", l.pod(name).Status.ContainerStatuses)
		})
	}
	phase := func(name string, want corev1.PodPhase) {
		l.eventually(name+" "+string(want), 20*time.Second, func() error {
			if got := l.pod(name).Status.Phase; got != want {
				return fmt.Errorf("phase %s", got)
			}
			return nil
		})
	}
	phase("good", corev1.PodSucceeded)
	phase("bad", corev1.PodFailed)
	reason("nosuch", "ErrImageNeverPull")
	l.waits("noconfig", "CreateContainerConfigError", `configmap "absent" not found`)
}

func (l *lab) sharesProcesses(t *testing.T) {
	t.Helper()
	l.bind("shared", corev1.PodSpec{ShareProcessNamespace: new(true), Containers: []corev1.Container{
		shell("one", "trap 'exit 0' TERM; while :; do sleep 4711 & wait; done"),
		shell("two", "while ! ps | grep -v grep | grep 4711; do sleep 1; done; "+forever)}})
	p := l.running("shared")
	l.prints(p, "two", "sleep 4711")
	l.remove("shared")
	l.gone("shared")
}

// TestNothingRestarts kills agent and containerd; containers must not notice.
func TestNothingRestarts(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.bind("keep", corev1.PodSpec{Containers: []corev1.Container{shell("a", forever), shell("b", forever)}})
	l.running("keep")
	before := l.pids()
	same := func(what string) {
		t.Helper()
		if after := l.pids(); !maps.Equal(before, after) || len(after) != 2 {
			t.Fatalf("%s: processes %v, before %v", what, after, before)
		}
	}
	l.halt()
	same("agent stopped")
	l.start()
	l.running("keep")
	same("agent started again")
	// What the cluster says of a node that was silent is corrected when it is back.
	silent := l.pod("keep").DeepCopy()
	podstatus.Condition(&silent.Status, corev1.PodReady).Status = corev1.ConditionFalse
	l.put(silent)
	l.running("keep")
	l.killContainerd(syscall.SIGKILL)
	l.startContainerd()
	time.Sleep(500 * time.Millisecond) // what would go wrong would go wrong by now
	l.eventually("pod still ready", 10*time.Second, func() error {
		if !podstatus.Ready(&l.pod("keep").Status) {
			return fmt.Errorf("%+v", l.pod("keep").Status)
		}
		return nil
	})
	same("containerd killed and started")

	// A container killed by hand comes back, by its event.
	pid := before["keep/a"]
	if err := syscall.Kill(int(pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("killed container restarted", 15*time.Second, func() error {
		now := l.pids()
		if now["keep/a"] == 0 || now["keep/a"] == pid {
			return fmt.Errorf("processes %v", now)
		}
		return nil
	})
	if l.pids()["keep/b"] != before["keep/b"] {
		t.Error("the other container was restarted too")
	}

	// A container that dies while nobody looks is found when the agent is back.
	l.running("keep")
	l.halt()
	if err := syscall.Kill(int(before["keep/b"]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.eventually("restart count", 15*time.Second, func() error {
		for _, s := range l.pod("keep").Status.ContainerStatuses {
			if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 137 {
				return fmt.Errorf("status %+v", s)
			}
		}
		return nil
	})
}

// TestReboot takes everything away but the disk, with the API out of reach.
func TestReboot(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.put(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pass"},
		Data:       map[string][]byte{"word": []byte("xyzzy")},
	})
	c := shell("main", "echo word=$word; "+forever)
	c.EnvFrom = []corev1.EnvFromSource{{
		SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "pass"}},
	}}
	// The survivor's address is not the first that is free.
	l.bind("before", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}})
	l.running("before")
	l.bind("survivor", corev1.PodSpec{Containers: []corev1.Container{c}})
	p := l.running("survivor")
	l.remove("before")
	l.gone("before")
	l.halt()
	l.stopAPI()
	for _, pid := range l.pids() {
		_ = syscall.Kill(int(pid), syscall.SIGKILL)
	}
	l.killContainerd(syscall.SIGKILL)
	killShims(t, l)
	opts, _ := l.opts.withDefaults()
	if err := stopCompanions(context.Background(), opts); err != nil {
		t.Fatal(err)
	}
	if err := unmountBelow(l.dir); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{opts.RunDir, filepath.Join(l.dir, "c", "state")} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	l.startContainerd()
	l.start()
	l.eventually("container runs again without the API", 20*time.Second, func() error {
		if l.pids()["survivor/main"] == 0 {
			return fmt.Errorf("containers %v", l.list())
		}
		return nil
	})
	l.eventually("its environment is the old one", 5*time.Second, func() error {
		if text := l.log(p, "main", 1); !strings.Contains(text, "word=xyzzy") {
			return fmt.Errorf("log %q", text)
		}
		return nil
	})
	survivor := l.agent.podNamed("default", "survivor")
	l.eventually("its address is the old one", 5*time.Second, func() error {
		if ips := survivor.Addresses(); len(ips) != 1 || ips[0] != p.Status.PodIP {
			return fmt.Errorf("addresses %v, before %s", ips, p.Status.PodIP)
		}
		return nil
	})
	l.serve(l.address)
	l.eventually("reported", 30*time.Second, func() error {
		s := l.pod("survivor").Status
		if !podstatus.Ready(&s) || s.ContainerStatuses[0].RestartCount != 1 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	l.event("survivor", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
}

// killShims ends what containerd's death leaves, as a reboot would.
func killShims(t *testing.T, l *lab) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if !strings.Contains(string(data), "containerd-shim") || !strings.Contains(string(data), l.opts.Containerd) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(f)), "%d", &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func TestNobodyAskedForIt(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	rt, err := runtime.Open(runtime.Options{Address: l.opts.Containerd, Node: "other"})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ctx := namespaces.WithNamespace(t.Context(), runtime.Namespace)
	spec, err := typeurl.MarshalAny(&specs.Spec{Version: "1.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rt.Client().ContainerService().Create(ctx,
		containers.Container{ID: "stranger", Spec: spec, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}}); err != nil {
		t.Fatal(err)
	}
	l.eventually("stranger removed", 10*time.Second, func() error {
		if left := l.list(); len(left) > 0 {
			return fmt.Errorf("containers %v", left)
		}
		return nil
	})
	// A pod that vanished from the API while the agent was away is ended.
	l.bind("orphan", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", forever)}})
	l.running("orphan")
	l.halt()
	l.drop("orphan")
	l.start()
	l.clean()
}

func TestResetLeavesNothing(t *testing.T) {
	before := traces(t)
	l := newLab(t)
	l.start()
	l.ready()
	l.bind("one", corev1.PodSpec{Containers: []corev1.Container{shell("main", forever)}})
	l.running("one")
	l.halt()
	if err := Reset(t.Context(), l.opts); err != nil {
		t.Fatal(err)
	}
	if err := Reset(t.Context(), l.opts); err != nil {
		t.Errorf("second Reset = %v", err)
	}
	if left := l.list(); len(left) > 0 {
		t.Errorf("containers left: %v", left)
	}
	for _, dir := range []string{l.opts.DataDir, l.opts.RunDir} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	l.eventually("links and routes as before", 5*time.Second, func() error {
		if after := traces(t); after != before {
			return fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return nil
	})
}

// traces is what a node could leave in the kernel.
func traces(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{{"ip", "-o", "link"}, {"ip", "route"}, {"nft", "list", "tables"}} {
		out, _ := exec.Command(args[0], args[1:]...).Output()
		for line := range strings.Lines(string(out)) {
			fields := strings.Fields(line)
			if len(fields) > 2 && args[1] == "-o" {
				line = fields[1] + "\n"
			}
			if args[0] != "nft" {
				b.WriteString(line)
			}
		}
	}
	data, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	b.Write(data)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/run/pods/") || strings.Contains(line, "/volumes/") {
			b.WriteString(line)
		}
	}
	return b.String()
}
