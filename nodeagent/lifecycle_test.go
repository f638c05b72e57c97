package nodeagent

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func execHandler(script string) corev1.ProbeHandler {
	return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", script}}}
}

func execHook(script string) *corev1.LifecycleHandler {
	return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", script}}}
}

// TestLifecycle has one pod for each thing that happens to containers; they
// run side by side, since most of their time is waiting.
func TestLifecycle(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	never := func(c corev1.Container) corev1.PodSpec {
		return corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64(2)),
			Containers:                    []corev1.Container{c},
		}
	}
	always := func(c corev1.Container) corev1.PodSpec {
		return corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(2)), Containers: []corev1.Container{c}}
	}

	oom := shell("main", "")
	oom.Command = []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=200000000", "count=1"}
	oom.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("24Mi")}
	l.bind("oom", never(oom))

	startup := shell("main", "sleep 2; touch /tmp/up; "+forever)
	startup.StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 30, ProbeHandler: execHandler("test -e /tmp/up")}
	startup.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: execHandler("test -e /tmp/up")}
	l.bind("startup", always(startup))

	liveness := shell("main", "touch /tmp/alive; trap 'echo told to end; exit 0' TERM; sleep 1; rm /tmp/alive; while :; do sleep 1; done")
	liveness.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: execHandler("test -e /tmp/alive")}
	liveness.Lifecycle = &corev1.Lifecycle{PreStop: execHook("echo hook ran > /proc/1/fd/1")}
	l.bind("liveness", always(liveness))

	stubborn := shell("main", "trap '' TERM; while :; do sleep 1; done")
	stubborn.LivenessProbe = &corev1.Probe{
		PeriodSeconds:                 1,
		FailureThreshold:              1,
		TerminationGracePeriodSeconds: new(int64(1)),
		ProbeHandler:                  execHandler("false"),
	}
	l.bind("stubborn", always(stubborn))

	web := shell("main", "httpd -f -vv -p 8080 -h /tmp")
	web.LivenessProbe = &corev1.Probe{
		PeriodSeconds:       1,
		FailureThreshold:    1,
		InitialDelaySeconds: 1,
		ProbeHandler:        corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(9)}},
	}
	// The server does not speak TLS and has no such page: any answer will do.
	web.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	web.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/bye", Scheme: corev1.URISchemeHTTPS, Port: intstr.FromString("web")},
	}}
	l.bind("httphook", always(web))

	unhooked := shell("main", forever)
	unhooked.Lifecycle = &corev1.Lifecycle{PostStart: execHook("exit 4")}
	l.bind("unhooked", always(unhooked))
	l.waits("unhooked", "PostStartHookError", fmt.Sprintf(
		"Exec lifecycle hook ([sh -c exit 4]) for Container \"main\" in Pod \"unhooked_default(%s)\" failed - error: "+
			"command \"sh -c exit 4\" exited with 4", l.pod("unhooked").UID))

	sleepy := shell("main", forever)
	sleepy.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 2}}}
	spec := always(sleepy)
	spec.TerminationGracePeriodSeconds = new(int64(20))
	l.bind("sleepy", spec)

	// It ends by itself while its hook sleeps; nobody needs the rest of the sleep.
	restless := shell("main", "touch /tmp/up; while test -e /tmp/up; do sleep 0.1; done; exit 0")
	restless.LivenessProbe = &corev1.Probe{
		PeriodSeconds:    1,
		FailureThreshold: 1,
		ProbeHandler:     execHandler("(sleep 1; rm /tmp/up) & exit 1"),
	}
	restless.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 300}}}
	spec = always(restless)
	spec.TerminationGracePeriodSeconds = new(int64(400))
	l.bind("restless", spec)

	words := shell("main", "echo first; echo last words; exit 3")
	words.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	l.bind("words", never(words))
	message := shell("main", "echo in the log; echo from the file > /tmp/message; exit 3")
	message.TerminationMessagePath, message.TerminationMessagePolicy = "/tmp/message", corev1.TerminationMessageFallbackToLogsOnError
	l.bind("message", never(message))

	spec = never(shell("main", "trap '' TERM; while :; do sleep 1; done"))
	spec.ActiveDeadlineSeconds, spec.TerminationGracePeriodSeconds = new(int64(3)), new(int64(1))
	l.bind("deadline", spec)

	l.put(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pass"},
		Data:       map[string][]byte{"word": []byte("xyzzy-program")},
	})
	absent := shell("main", "")
	absent.Command = []string{"$(WORD)"}
	absent.Env = []corev1.EnvVar{{Name: "WORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "pass"}, Key: "word"}}}}
	l.bind("absent", always(absent))
	l.waits("absent", "RunContainerError", `exec: "[secret]": executable file not found in $PATH`)
	// Those that share a shim are made in another way.
	partner := shell("partner", forever)
	forbidden := shell("main", "")
	forbidden.Command = []string{"/etc/passwd"}
	l.bind("forbidden", always(forbidden))
	spec = never(forbidden)
	spec.Containers = append(spec.Containers, shell("partner", "exit 0"))
	l.bind("forbiddenonce", spec)
	first := always(shell("main", forever))
	forbidden.Name = "first"
	first.InitContainers = []corev1.Container{forbidden}
	l.bind("forbiddenfirst", first)
	absent.Command = []string{"nosuch"}
	spec = always(absent)
	spec.Containers = append(spec.Containers, partner)
	l.bind("absentpartner", spec)
	l.cannotStart(t)

	for _, name := range []string{"startup", "sleepy"} {
		l.running(name)
	}
	l.endsForGood(t)
	removed := time.Now()
	l.remove("sleepy")

	terminated := func(name string) *corev1.ContainerStateTerminated {
		t.Helper()
		var end *corev1.ContainerStateTerminated
		l.eventually(name+" ended", 30*time.Second, func() error {
			for _, s := range l.pod(name).Status.ContainerStatuses {
				if end = s.State.Terminated; end != nil && l.pod(name).Status.Phase == corev1.PodFailed {
					return nil
				}
			}
			return fmt.Errorf("status %+v", l.pod(name).Status)
		})
		return end
	}
	// last is how a container's first instance ended, once it has a second one.
	last := func(name string) *corev1.ContainerStateTerminated {
		t.Helper()
		var end *corev1.ContainerStateTerminated
		l.eventually(name+" restarted", 40*time.Second, func() error {
			for _, s := range l.pod(name).Status.ContainerStatuses {
				if end = s.LastTerminationState.Terminated; end != nil && s.RestartCount > 0 {
					return nil
				}
			}
			return fmt.Errorf("status %+v", l.pod(name).Status)
		})
		return end
	}
	if end := terminated("oom"); end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("oom ended with %+v", end)
	}
	if end := terminated("words"); end.Message != "first\nlast words\n" || end.ExitCode != 3 || end.Reason != "Error" {
		t.Errorf("words ended with %+v", end)
	}
	if end := terminated("message"); end.Message != "from the file\n" {
		t.Errorf("message ended with %+v", end)
	}
	if end := terminated("deadline"); end.ExitCode != 137 || l.pod("deadline").Status.Reason != "DeadlineExceeded" {
		t.Errorf("deadline ended with %+v, status %+v", end, l.pod("deadline").Status)
	}
	l.event("deadline", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
	if end := last("liveness"); end.ExitCode != 0 {
		t.Errorf("liveness ended with %+v", end)
	}
	l.prints(l.pod("liveness"), "main", "hook ran")
	l.prints(l.pod("liveness"), "main", "told to end")
	l.event("liveness", "Unhealthy", "Liveness probe failed: ")
	l.event("liveness", "Killing", "Container main failed liveness probe, will be restarted")
	if end := last("stubborn"); end.ExitCode != 137 || end.FinishedAt.Sub(end.StartedAt.Time) > 10*time.Second {
		t.Errorf("stubborn ended with %+v", end)
	}
	last("httphook")
	l.prints(l.pod("httphook"), "main", "url:/bye")
	l.event("httphook", "LifecycleHTTPFallback", "got HTTP response, retry with HTTP succeeded")
	for _, e := range l.events("httphook") {
		if e.Reason == "FailedPreStopHook" {
			t.Errorf("event %s: %s", e.Reason, e.Message)
		}
	}
	if end := last("restless"); end.ExitCode != 0 {
		t.Errorf("restless ended with %+v", end)
	}
	last("unhooked")
	l.event("unhooked", "FailedPostStartHook", "PostStartHook failed")
	l.event("unhooked", "Killing", "FailedPostStartHook")
	l.gone("sleepy")
	if took := time.Since(removed); took < 2*time.Second {
		t.Errorf("the container's end took %s, its preStop hook sleeps 2s", took)
	}
	if s := l.running("startup").Status.ContainerStatuses[0]; s.RestartCount != 0 || s.Started == nil || !*s.Started {
		t.Errorf("the liveness probe did not wait for the startup probe: %+v", s)
	}
	l.event("startup", "Unhealthy", "Startup probe failed: ")
	l.event("startup", "Created", "Container created")
	l.event("startup", "Started", "Container started")
}

// cannotStart waits for the pods whose containers cannot be started.
func (l *lab) cannotStart(t *testing.T) {
	t.Helper()
	const prefix = "failed to create containerd task: "
	for name, want := range map[string]string{
		"absent":        `exec: "[secret]": executable file not found in $PATH`,
		"absentpartner": `exec: "nosuch": executable file not found in $PATH`,
		"forbidden":     `exec: "/etc/passwd": permission denied`, "forbiddenfirst": `exec: "/etc/passwd": permission denied`,
	} {
		status := func() corev1.ContainerStatus {
			s := l.pod(name).Status
			for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
				if c.Name == "first" || c.Name == "main" {
					return c
				}
			}
			return corev1.ContainerStatus{}
		}
		l.eventually(name+" tells of the failed start", 30*time.Second, func() error {
			for _, e := range l.events(name) {
				if e.Reason == "Failed" && strings.HasPrefix(e.Message, "Error: "+prefix) && strings.Contains(e.Message, want) {
					return nil
				}
			}
			return fmt.Errorf("events %v", l.events(name))
		})
		l.eventually(name+" says CrashLoopBackOff", 30*time.Second, func() error {
			s := status()
			last := s.LastTerminationState.Terminated
			if w := s.State.Waiting; w == nil || w.Reason != "CrashLoopBackOff" || last == nil || s.RestartCount == 0 {
				return fmt.Errorf("status %+v", s)
			}
			if last.Reason != "StartError" || last.ExitCode != 128 || last.StartedAt.Unix() != 0 ||
				time.Since(last.FinishedAt.Time) > time.Minute ||
				last.ContainerID == "" || !strings.HasPrefix(last.Message, prefix) || !strings.Contains(last.Message, want) {
				t.Fatalf("%s ended with %+v", name, last)
			}
			return nil
		})
	}
	l.eventually("forbiddenonce failed", 30*time.Second, func() error {
		s := l.pod("forbiddenonce").Status
		if s.Phase != corev1.PodFailed {
			return fmt.Errorf("status %+v", s)
		}
		end := s.ContainerStatuses[0].State.Terminated
		if end == nil || end.Reason != "StartError" || end.ExitCode != 128 || end.StartedAt.Unix() != 0 {
			t.Fatalf("it ended with %+v", s.ContainerStatuses[0])
		}
		return nil
	})
}

// TestSurroundings looks at what containers find around them.
func TestSurroundings(t *testing.T) {
	l := newLab(t)
	shared := filepath.Join(l.dir, "shared")
	if err := os.MkdirAll(filepath.Join(shared, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(shared, shared, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(shared, unix.MNT_DETACH) })
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	profiles := filepath.Join(l.opts.DataDir, "seccomp")
	if err := os.MkdirAll(profiles, 0o755); err != nil {
		t.Fatal(err)
	}
	noDirectories := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(filepath.Join(profiles, "nodirs.json"), []byte(noDirectories), 0o600); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.ready()
	l.service("shop-cart", "10.43.0.78", "10.42.7.250")
	l.put(configMap("settings", map[string]string{"color": "green"}))
	l.put(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pass"},
		Data:       map[string][]byte{"word": []byte("xyzzy")},
	})
	pod := func(c ...corev1.Container) corev1.PodSpec {
		return corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: c}
	}
	l.eventually("service known", 10*time.Second, func() error {
		if s := l.agent.cluster.Snapshot(); s == nil || len(s.ServicesOf("default")) == 0 {
			return fmt.Errorf("no service")
		}
		return nil
	})

	spec := pod(shell("main", "ip addr; "+forever))
	spec.HostNetwork = true
	l.bind("hostnet", spec)

	names := shell("main", "cat /etc/hosts; echo links $SHOP_CART_SERVICE_HOST:$SHOP_CART_SERVICE_PORT $SHOP_CART_PORT_80_TCP_ADDR; "+
		forever)
	spec = pod(names)
	spec.HostAliases = []corev1.HostAlias{{IP: "10.1.2.3", Hostnames: []string{"foo.local", "bar.local"}}}
	l.bind("names", spec)
	spec = pod(shell("main", "echo links [$SHOP_CART_SERVICE_HOST]; "+forever))
	spec.EnableServiceLinks = new(false)
	l.bind("nolinks", spec)

	projected := shell("main",
		"cd /all; echo $(cat color) $(cat word) $(cat labels) $(cat memory) sub=$(cat /sub); ls -l /all/..data/word; "+forever)
	projected.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("64Mi")}
	projected.Env = []corev1.EnvVar{{Name: "FILE", Value: "color"}}
	projected.VolumeMounts = []corev1.VolumeMount{
		{Name: "all", MountPath: "/all"}, {Name: "all", MountPath: "/sub", SubPathExpr: "$(FILE)"},
	}
	spec = pod(projected)
	spec.Volumes = []corev1.Volume{{
		Name: "all",
		VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			{Secret: &corev1.SecretProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "pass"},
				Items:                []corev1.KeyToPath{{Key: "word", Path: "word", Mode: new(int32(0o400))}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}},
				{Path: "memory", ResourceFieldRef: &corev1.ResourceFieldSelector{
					ContainerName: "main",
					Resource:      "limits.memory",
					Divisor:       resource.MustParse("1Mi"),
				}}}}},
		}}},
	}}
	l.bind("projected", spec)

	propagates := shell("main", "while ! test -e /host/sub/file; do sleep 0.1; done; echo mounted; "+forever)
	propagates.VolumeMounts = []corev1.VolumeMount{{
		Name:             "host",
		MountPath:        "/host",
		MountPropagation: new(corev1.MountPropagationHostToContainer),
	}}
	spec = pod(propagates)
	spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared}}}}
	l.bind("propagates", spec)

	privileged := shell("main", "mount -t tmpfs none /tmp && echo mounted; ls /dev/kmsg /dev/null; "+forever)
	privileged.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	l.bind("privileged", pod(privileged))
	plain := shell("main", "mount -t tmpfs none /tmp || echo refused; "+forever)
	l.bind("plain", pod(plain))

	localhost := shell("main", "busybox mkdir /tmp/dir || echo refused; touch /tmp/file && echo touched; "+forever)
	localhost.SecurityContext = &corev1.SecurityContext{
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("nodirs.json")},
	}
	l.bind("localhost", pod(localhost))

	root := shell("main", forever)
	root.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: new(true)}
	l.bind("root", pod(root))

	l.sharesProcesses(t)
	if p := l.running("hostnet"); p.Status.PodIP != nodeIP {
		t.Errorf("the address on the host's network is %s", p.Status.PodIP)
	}
	prints := func(name string, want ...string) {
		t.Helper()
		p := l.running(name)
		for _, w := range want {
			l.prints(p, "main", w)
		}
	}
	prints("hostnet", "inet "+nodeIP+"/24")
	prints("names", "10.1.2.3\tfoo.local\tbar.local", "links 10.43.0.78:80 10.43.0.78")
	prints("nolinks", "links []")
	prints("projected", "green xyzzy projected 64 sub=green", "-r--------")
	prints("privileged", "stdout F mounted", "/dev/kmsg")
	prints("plain", "refused")
	prints("localhost", "refused", "touched")
	l.waits("root", "CreateContainerConfigError",
		fmt.Sprintf("container has runAsNonRoot and image will run as root (pod: \"root_default(%s)\", container: main)",
			l.pod("root").UID))
	l.running("propagates")
	if err := unix.Mount("tmpfs", filepath.Join(shared, "sub"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(shared, "sub"), unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(shared, "sub", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	prints("propagates", "mounted")
}

// viewer is a client with a viewer's certificate.
func (l *lab) viewer() kubernetes.Interface {
	l.t.Helper()
	cert, key, err := l.api.Authority.Viewer("test", 0)
	if err != nil {
		l.t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://" + l.address,
		TLSClientConfig: rest.TLSClientConfig{CAData: l.api.Authority.PEM(), CertData: cert, KeyData: key}})
	if err != nil {
		l.t.Fatal(err)
	}
	return client
}

// TestLogsThroughTheAPI reads logs as kubectl does: from the API server, which
// asks the agent through its tunnel.
func TestLogsThroughTheAPI(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	c := shell("main", "i=0; test -e /data/second && i=100; touch /data/second; while [ $i -lt 5 ]; do i=$((i+1)); echo line $i; done; "+
		"[ $i -lt 100 ] && exit 1; "+
		"echo again; while :; do test -e /data/go && break; sleep 0.1; done; echo late; "+forever)
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p := l.bind("talks", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}})
	client := l.viewer()
	read := func(o corev1.PodLogOptions) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		data, err := client.CoreV1().Pods("default").GetLogs("talks", &o).DoRaw(ctx)
		return string(data), err
	}
	wants := func(what, want string, o corev1.PodLogOptions) {
		t.Helper()
		l.eventually(what, 20*time.Second, func() error {
			got, err := read(o)
			if err == nil && got != want {
				err = fmt.Errorf("log %q, want %q", got, want)
			}
			return err
		})
	}
	wants("second instance", "again\n", corev1.PodLogOptions{})
	wants("previous", "line 1\nline 2\nline 3\nline 4\nline 5\n", corev1.PodLogOptions{Previous: true})
	wants("tail", "line 4\nline 5\n", corev1.PodLogOptions{Previous: true, TailLines: new(int64(2))})
	wants("since", "", corev1.PodLogOptions{SinceTime: &metav1.Time{Time: time.Now().Add(time.Hour)}})
	wants("limit", "line 1", corev1.PodLogOptions{Previous: true, LimitBytes: new(int64(6))})
	stamped, err := read(corev1.PodLogOptions{Timestamps: true})
	stamp, rest, _ := strings.Cut(stamped, " ")
	if _, parseErr := time.Parse(time.RFC3339Nano, stamp); err != nil || parseErr != nil || rest != "again\n" {
		t.Errorf("with timestamps %q, %v, %v", stamped, err, parseErr)
	}
	if _, err := read(corev1.PodLogOptions{Container: "nosuch"}); err == nil {
		t.Error("a container that does not exist has a log")
	}
	stream, err := client.CoreV1().Pods("default").GetLogs("talks", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	followed := make(chan string)
	go func() {
		data, err := io.ReadAll(stream)
		if err != nil {
			data = append(data, err.Error()...)
		}
		followed <- string(data)
	}()
	if err := os.WriteFile(filepath.Join(l.opts.DataDir, "volumes", string(p.UID), "volumes", "data", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wants("late line", "again\nlate\n", corev1.PodLogOptions{})
	l.remove("talks")
	select {
	case got := <-followed:
		if got != "again\nlate\n" {
			t.Errorf("followed %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("following did not end with the container")
	}
}
