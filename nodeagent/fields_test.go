package nodeagent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/cgroup"
)

// fieldRow is a pod for a field of its manifest, and what is seen of that from inside its container.
type fieldRow struct {
	field  string // as docs/compatibility.md has it; the pod is named by its last part
	script string // what the container looks at, before it sleeps
	set    func(*corev1.PodSpec, *corev1.Container)
	prints []string // parts of the container's log
}

// fieldRows has a row for each field of which the effect can be looked at from inside a container that runs. What takes
// time, ends or restarts has a test of its own.
func fieldRows() []fieldRow {
	security := func(set func(*corev1.SecurityContext)) func(*corev1.PodSpec, *corev1.Container) {
		return func(_ *corev1.PodSpec, c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{}
			set(c.SecurityContext)
		}
	}
	pod := func(set func(*corev1.PodSpec)) func(*corev1.PodSpec, *corev1.Container) {
		return func(s *corev1.PodSpec, _ *corev1.Container) { set(s) }
	}
	container := func(set func(*corev1.Container)) func(*corev1.PodSpec, *corev1.Container) {
		return func(_ *corev1.PodSpec, c *corev1.Container) { set(c) }
	}
	const reads = "exec 3<&0; cat <&3 & sleep 1; kill -0 $! && "
	return []fieldRow{
		// Names
		{"metadata.name", "hostname; cat /etc/hostname; echo $HOSTNAME", pod(func(*corev1.PodSpec) {}), []string{
			"F name\n"}},
		{"spec.hostname", "hostname; cat /etc/hosts", pod(func(s *corev1.PodSpec) { s.Hostname = "cart" }), []string{
			"F cart\n", "\tcart\n"}},
		{"spec.subdomain", "hostname; cat /etc/hosts", pod(func(s *corev1.PodSpec) { s.Subdomain = "peers" }), []string{
			"F subdomain\n", "\tsubdomain.peers.default.svc.cluster.local\tsubdomain\n"}},
		{"spec.setHostnameAsFQDN", "hostname; cat /etc/hosts", pod(func(s *corev1.PodSpec) {
			s.Subdomain, s.SetHostnameAsFQDN, s.Hostname = "peers", new(true), "full"
		}), []string{"F full.peers.default.svc.cluster.local\n", "\tfull.peers.default.svc.cluster.local\tfull\n"}},
		{"spec.hostnameOverride", "hostname; cat /etc/hosts; echo host $HOSTNAME", pod(func(s *corev1.PodSpec) {
			s.Subdomain, s.HostnameOverride = "peers", new("db.example.org")
		}), []string{"F db.example.org\n", "\tdb.example.org\n", "F host db.example.org\n"}},
		// Namespaces; the test's own are those of the node.
		{"spec.hostIPC", "ls -l /proc/self/ns/ipc", pod(func(s *corev1.PodSpec) { s.HostIPC = true }), []string{ownNamespace("ipc")}},
		{"spec.hostPID", "ls -l /proc/self/ns/pid", pod(func(s *corev1.PodSpec) { s.HostPID = true }), []string{ownNamespace("pid")}},
		{"spec.hostNetwork", "ls -l /proc/self/ns/net", pod(func(s *corev1.PodSpec) { s.HostNetwork = true }), []string{
			ownNamespace("net")}},
		{"spec.os", "echo runs", pod(func(s *corev1.PodSpec) { s.OS = &corev1.PodOS{Name: corev1.Linux} }), []string{"F runs\n"}},
		// Input and terminals
		{"containers.stdin", reads + "echo waits", container(func(c *corev1.Container) {
			c.Stdin = true
		}), []string{"F waits\n"}},
		{"containers.stdin-once", reads + "echo waits", container(func(c *corev1.Container) {
			c.Stdin, c.StdinOnce = true, true
		}), []string{"F waits\n"}},
		{"containers.nostdin", "cat; test -t 1 || echo ended", pod(func(*corev1.PodSpec) {}), []string{"F ended\n"}},
		{"containers.tty", "test -t 0 && test -t 2 && echo terminal $TERM; ls -l /proc/self/fd/0; echo hid >&2",
			container(func(c *corev1.Container) { c.TTY = true }), []string{
				"F terminal xterm\r\n", "/dev/pts/0", "stdout F hid"}},
		{"containers.ttystdin", reads + "test -t 0 && echo waits", container(func(c *corev1.Container) {
			c.TTY, c.Stdin = true, true
		}), []string{"F waits\r\n"}},
		// Who the processes are, and what they may
		{"securityContext.runAsUser", "id", security(func(s *corev1.SecurityContext) { s.RunAsUser = new(int64(1000)) }), []string{
			"uid=1000(web) gid=1001(web)"}},
		{"securityContext.runAsGroup", "id", security(func(s *corev1.SecurityContext) {
			s.RunAsUser, s.RunAsGroup = new(int64(7)), new(int64(8))
		}), []string{"uid=7 gid=8"}},
		{"spec.supplementalGroups", "id", pod(func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{SupplementalGroups: []int64{4711}}
		}), []string{"groups=0(root),4711"}},
		{"spec.supplementalGroupsPolicy", "id", pod(func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), SupplementalGroups: []int64{4711},
				SupplementalGroupsPolicy: new(corev1.SupplementalGroupsPolicyStrict)}
		}), []string{"gid=1001(web) groups=1001(web),4711\n"}},
		{"spec.supplementalGroupsMerge", "id", pod(func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), SupplementalGroups: []int64{4711},
				SupplementalGroupsPolicy: new(corev1.SupplementalGroupsPolicyMerge)}
		}), []string{"gid=1001(web) groups=1001(web),1002(extra),4711\n"}},
		{"capabilities.add", "grep CapBnd /proc/self/status", security(func(s *corev1.SecurityContext) {
			s.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}}
		}), []string{"CapBnd:\t0000000000001000"}},
		{"capabilities.drop", "grep CapEff /proc/self/status", security(func(s *corev1.SecurityContext) {
			s.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
		}), []string{"CapEff:\t0000000000000000"}},
		{"securityContext.allowPrivilegeEscalation", "grep NoNewPrivs /proc/self/status", security(func(s *corev1.SecurityContext) {
			s.AllowPrivilegeEscalation = new(false)
		}), []string{"NoNewPrivs:\t1"}},
		{"securityContext.readOnlyRootFilesystem", "touch /file || echo refused", security(func(s *corev1.SecurityContext) {
			s.ReadOnlyRootFilesystem = new(true)
		}), []string{"F refused\n"}},
		{"securityContext.seccompProfile", "grep Seccomp: /proc/self/status", security(func(s *corev1.SecurityContext) {
			s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
		}), []string{"Seccomp:\t2"}},
		// What they may take, and how soon they go
		{"qos.besteffort", "cat /proc/self/cgroup /proc/self/oom_score_adj", pod(func(*corev1.PodSpec) {}), []string{
			tierSeen("/besteffort/pod"), "F 1000\n"}},
		{"qos.burstable", "cat /proc/self/cgroup /proc/self/oom_score_adj", container(func(c *corev1.Container) {
			c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("10m")}
		}), []string{tierSeen("/burstable/pod"), "F 999\n"}},
		{"qos.guaranteed", "cat /proc/self/cgroup; test $(cat /proc/self/oom_score_adj) -lt 3 && echo late",
			container(func(c *corev1.Container) {
				c.Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("10m"), "memory": resource.MustParse("16Mi")}
			}), []string{tierSeen("/pod"), "F late\n"}},
		{"spec.resources", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; " +
			"cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max; cat /proc/self/cgroup; echo $LIMIT; df -k /memory",
			func(s *corev1.PodSpec, c *corev1.Container) {
				s.Resources = &corev1.ResourceRequirements{
					Limits: corev1.ResourceList{"cpu": resource.MustParse("300m"), "memory": resource.MustParse("48Mi")}}
				c.Env = []corev1.EnvVar{{Name: "LIMIT", ValueFrom: &corev1.EnvVarSource{
					ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m")}}}}
				s.Volumes = []corev1.Volume{{Name: "memory", VolumeSource: corev1.VolumeSource{
					EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
				c.VolumeMounts = []corev1.VolumeMount{{Name: "memory", MountPath: "/memory"}}
			}, []string{"F 50331648\n", "F 30000", tierSeen("/pod"), "F 300\n", " 49152 "}},
		{"flag.pod-pids-limit", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max", pod(func(*corev1.PodSpec) {}), []string{
			fmt.Sprintf("F %d\n", DefaultPodPids)}},
		// Where and with what they begin
		{"containers.workingDir", "echo in $PWD", container(func(c *corev1.Container) { c.WorkingDir = "/etc" }), []string{"F in /etc\n"}},
		{"containers.env", "echo $A-$B-$C-$D-$FROM_IMAGE", container(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(Z)"}, {Name: "C", Value: "$$(A)"},
				{Name: "D", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
		}), []string{"F 1-1$(Z)-$(A)-env-yes\n"}},
		{"env.fileKeyRef", "echo $A $B-$C", func(s *corev1.PodSpec, c *corev1.Container) {
			s.Volumes = []corev1.Volume{{Name: "made", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			first := shell("first", "echo \"A='one word'\" > /made/vars")
			first.VolumeMounts = []corev1.VolumeMount{{Name: "made", MountPath: "/made"}}
			s.InitContainers = []corev1.Container{first}
			from := func(path, key string, optional bool) *corev1.EnvVarSource {
				return &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{
					VolumeName: "made", Path: path, Key: key, Optional: &optional}}
			}
			c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: from("vars", "A", false)}, {Name: "B", Value: "again $(A)"},
				{Name: "C", ValueFrom: from("absent", "C", true)}}
		}, []string{"F one word again one word-\n"}},
	}
}

func ownNamespace(kind string) string {
	name, err := os.Readlink("/proc/thread-self/ns/" + kind) // a thread that made a namespace may be the process's first
	if err != nil {
		return err.Error()
	}
	return name
}

// tierSeen is what a container finds of its place among cgroups: all of it in the first version, nothing in the second.
func tierSeen(part string) string {
	if cgroup.V2() {
		return "0::/\n"
	}
	return part
}

// TestFieldsInside runs a pod for each row, and reads what its container found.
func TestFieldsInside(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	rows := fieldRows()
	name := func(row fieldRow) string {
		_, last, _ := strings.Cut(row.field, ".")
		return strings.ToLower(last)
	}
	for _, row := range rows {
		spec := corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)),
			Containers: []corev1.Container{shell("main", row.script+"\n"+forever)}}
		row.set(&spec, &spec.Containers[0])
		l.bind(name(row), spec)
	}
	for _, row := range rows {
		p := l.running(name(row))
		for _, want := range row.prints {
			l.prints(p, "main", want)
		}
	}
	for _, row := range rows {
		l.remove(name(row))
	}
	for _, row := range rows {
		l.gone(name(row))
	}
	l.clean()
}

// TestGRPCProbes has two servers on the node's network, of which one stops to be healthy; and a stop signal, by which its
// container is told to end.
func TestGRPCProbes(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	services := map[string]*health.Server{}
	for _, name := range []string{"sick", "well"} {
		listener, err := net.Listen("tcp", nodeIP+":0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		services[name] = health.NewServer()
		services[name].SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
		healthpb.RegisterHealthServer(server, services[name])
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = server.Serve(listener)
		}()
		t.Cleanup(func() {
			server.Stop()
			<-ended
		})
		c := shell("main", "trap 'echo told by USR1; exit 0' USR1; trap '' TERM; while :; do sleep 0.1; done")
		c.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2, ProbeHandler: corev1.ProbeHandler{
			GRPC: &corev1.GRPCAction{Port: int32(listener.Addr().(*net.TCPAddr).Port), Service: new("shop")}}}
		c.ReadinessProbe = c.LivenessProbe
		c.Lifecycle = &corev1.Lifecycle{StopSignal: new(corev1.SIGUSR1)}
		l.bind(name, corev1.PodSpec{HostNetwork: true, OS: &corev1.PodOS{Name: corev1.Linux}, TerminationGracePeriodSeconds: new(int64(60)),
			Containers: []corev1.Container{c}})
	}
	well := l.running("well")
	if s := well.Status.ContainerStatuses[0].StopSignal; s == nil || *s != corev1.SIGUSR1 {
		t.Errorf("the status says that it is told to end by %v", s)
	}
	sick := l.running("sick")
	services["sick"].SetServingStatus("shop", healthpb.HealthCheckResponse_NOT_SERVING)
	l.event("sick", "Unhealthy", `Liveness probe failed: service unhealthy (responded with "NOT_SERVING")`)
	l.eventually("sick restarted", 30*time.Second, func() error {
		s := l.pod("sick").Status.ContainerStatuses[0]
		if s.RestartCount == 0 || s.LastTerminationState.Terminated == nil {
			return fmt.Errorf("status %+v", s)
		}
		if s.LastTerminationState.Terminated.ExitCode != 0 {
			t.Fatalf("it ended with %+v", s.LastTerminationState.Terminated)
		}
		return nil
	})
	l.prints(sick, "main", "told by USR1")
	if s := l.pod("well").Status.ContainerStatuses[0]; s.RestartCount != 0 || !s.Ready {
		t.Errorf("the other one is %+v", s)
	}
	files, err := filepath.Glob(filepath.Join(l.opts.RunDir, "pods", string(well.UID), "stdin", "*"))
	if err != nil || len(files) > 0 {
		t.Errorf("input of a container without: %v, %v", files, err)
	}
}

// TestRestartAll has a container whose exit restarts all of its pod, which is never restarted else: the emptyDir stays.
func TestRestartAll(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	first := shell("first", "echo begins")
	side := shell("side", forever)
	side.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	source := shell("main", "while ! test -e /data/go; do sleep 0.1; done; test -e /data/done || { touch /data/done; exit 42; }; "+forever)
	source.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	source.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
	source.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	other := shell("other", forever)
	other.Lifecycle = &corev1.Lifecycle{PreStop: execHook("touch /data/hook")}
	other.VolumeMounts = source.VolumeMounts
	p := l.bind("all", corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(20)),
		InitContainers: []corev1.Container{first, side}, Containers: []corev1.Container{source, other},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}})
	before := l.running("all").Status.PodIP
	data := filepath.Join(l.opts.DataDir, "volumes", string(p.UID), "volumes", "data")
	if err := os.WriteFile(filepath.Join(data, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.eventually("all were restarted", 40*time.Second, func() error {
		s := l.pod("all").Status
		for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses) {
			if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || !c.Ready {
				return fmt.Errorf("%s is %+v", c.Name, c)
			}
		}
		return nil
	})
	s := l.running("all").Status
	if s.PodIP != before || s.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode != 42 {
		t.Errorf("it was at %s before, and is %+v", before, s)
	}
	if c := podstatus.Condition(&s, corev1.AllContainersRestarting); c == nil || c.Status != corev1.ConditionFalse {
		t.Errorf("the condition is %+v", c)
	}
	if _, err := os.Stat(filepath.Join(data, "hook")); err == nil {
		t.Error("a preStop hook ran")
	}
}

// TestReadinessGates: a pod is ready when others say so, and its node's reports keep what they said.
func TestReadinessGates(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.bind("gated", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), ReadinessGates: []corev1.PodReadinessGate{
		{ConditionType: "example.com/in"}}, Containers: []corev1.Container{shell("main", forever)}})
	ready := func(want corev1.ConditionStatus, message string) {
		t.Helper()
		l.eventually("the pod's readiness is "+string(want), 20*time.Second, func() error {
			s := &l.pod("gated").Status
			c := podstatus.Condition(s, corev1.PodReady)
			if c == nil || c.Status != want || c.Message != message || !podstatus.True(s, corev1.ContainersReady) {
				return fmt.Errorf("conditions %+v", s.Conditions)
			}
			return nil
		})
	}
	say := func(status corev1.ConditionStatus) {
		p := l.pod("gated").DeepCopy()
		p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == "example.com/in" })
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "example.com/in", Status: status})
		l.put(p)
	}
	ready(corev1.ConditionFalse, `corresponding condition of pod readiness gate "example.com/in" does not exist.`)
	say(corev1.ConditionTrue)
	ready(corev1.ConditionTrue, "")
	say(corev1.ConditionFalse)
	ready(corev1.ConditionFalse, `the status of pod readiness gate "example.com/in" is not "True", but False`)
	say(corev1.ConditionTrue)
	ready(corev1.ConditionTrue, "")
	l.halt()
	say(corev1.ConditionFalse) // which the next agent hears first
	l.start()
	ready(corev1.ConditionFalse, `the status of pod readiness gate "example.com/in" is not "True", but False`)
	l.remove("gated")
	l.gone("gated")
	l.clean()
}
