package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
)

// TestGolden builds the first container of pod.yaml, one case a file: the
// specification, or the mistake it has, is the golden part.
func TestGolden(t *testing.T) {
	golden.Sections(t, "testdata", func(t *testing.T, c *txtar.Archive) []txtar.File {
		in := example()
		for _, f := range c.Files {
			var err error
			switch f.Name {
			case "pod.yaml":
				err = yaml.UnmarshalStrict(f.Data, in.Pod)
			case "image.yaml":
				err = yaml.UnmarshalStrict(f.Data, &in.Image)
			case "services.yaml":
				err = yaml.UnmarshalStrict(f.Data, &in.Sources.Services)
			case "v2":
				in.Node.CgroupV2 = true
			case "own-users":
				in.Sandbox.User, in.Sandbox.FirstID, in.Sandbox.IDs = "/ns/user", 131072, 65536
			case "plain-read-only":
				in.Node.RecursiveReadOnly = false
			}
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
		}
		in.Container = &in.Pod.Spec.Containers[0]
		for _, m := range in.Container.VolumeMounts {
			in.Mounts = append(in.Mounts, Mount{Source: "/volumes/" + m.Name, ReadOnly: strings.HasPrefix(m.Name, "files"),
				Shifted: strings.HasPrefix(m.Name, "shifted")})
		}
		for i, d := range in.Container.VolumeDevices {
			in.Devices = append(in.Devices, Device{ReadOnly: strings.HasPrefix(d.Name, "files"), LinuxDevice: specs.LinuxDevice{
				Type: "b", Major: 7, Minor: int64(i), FileMode: new(fs.FileMode(0o660)), UID: new(uint32(0)), GID: new(uint32(6))}})
		}
		return []txtar.File{{Name: "spec", Data: []byte(build(t, in))}}
	})
}

func build(t *testing.T, in Input) string {
	t.Helper()
	s, err := Build(in)
	if err != nil {
		var c *ConfigError
		if !errors.As(err, &c) {
			t.Fatalf("%v is no ConfigError", err)
		}
		return fmt.Sprintf("error: %s: %v\n", c.Reason, err)
	}
	if s.Linux.Seccomp != nil && len(s.Linux.Seccomp.Syscalls) > 3 {
		s.Linux.Seccomp.Syscalls = s.Linux.Seccomp.Syscalls[:1] // containerd's list is not ours to fix
		s.Linux.Seccomp.Syscalls[0].Names = s.Linux.Seccomp.Syscalls[0].Names[:2]
	}
	data, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data) + "\n"
}

// example is a node, its sandbox and what pods may refer to.
func example() Input {
	return Input{
		Pod:   &corev1.Pod{},
		Image: imagespec.ImageConfig{Cmd: []string{"/app"}, Env: []string{"PATH=/bin", "LANG=C"}},
		Users: Users{Passwd: "root:x:0:0::/:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n", Group: "root:x:0:\nweb:x:1001:\nextra:x:1002:web\n"},
		Node: Node{Name: "n1", MemoryCapacity: 8 << 30, OOMFloor: 0, SwapLimits: true, MaxOpenFiles: 1 << 20, PodPids: 4096,
			RecursiveReadOnly: true,
			Capabilities:      []string{"CAP_CHOWN", "CAP_SYS_ADMIN"},
			Allocatable:       corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("7Gi")}},
		Sandbox: Sandbox{
			Network: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts", Shm: "/pod/shm", Hosts: "/pod/hosts",
			Resolv: "/pod/resolv.conf", Hostname: "/pod/hostname", Name: "cart",
		},
		Sources: Sources{
			ConfigMaps: map[string]*corev1.ConfigMap{"settings": {Data: map[string]string{"color": "green", "size": "9"}}},
			Secrets:    map[string]*corev1.Secret{"pass": {Data: map[string][]byte{"word": []byte("xyzzy")}}},
		},
		PodIPs: []string{"10.42.1.5"}, HostIPs: []string{"192.168.1.1"},
		TerminationLog: "/pod/message", CgroupPath: "/lockstep/n1/podu1/c1",
		SeccompProfiles: map[string][]byte{"p.json": []byte(`{"defaultAction":"SCMP_ACT_ERRNO"}`)},
	}
}

func TestShares(t *testing.T) {
	for milli, want := range map[int64]uint64{0: 2, 1: 2, 100: 102, 1000: 1024, 1_000_000: 262144} {
		if got := Shares(milli); got != want {
			t.Errorf("Shares(%d) = %d, want %d", milli, got, want)
		}
	}
}

func TestLimitsOfTheMachine(t *testing.T) {
	if got := rlimits(Node{MaxOpenFiles: 512, Capabilities: []string{"CAP_SYS_ADMIN"}}, true); len(got) > 0 {
		t.Errorf("without the right to, the runtime is to set limits of other users: %+v", got)
	}
	if got := rlimits(Node{MaxOpenFiles: 512, Capabilities: []string{"CAP_SYS_RESOURCE"}}, true); len(got) == 0 {
		t.Error("the runtime is to set no limits")
	}
	if got := rlimits(Node{MaxOpenFiles: 20_000}, false)[0]; got.Hard != 20_000 || got.Soft != 1024 {
		t.Errorf("open files %+v", got)
	}
	if got := rlimits(Node{MaxOpenFiles: 512}, false)[0]; got.Hard != 512 || got.Soft != 512 {
		t.Errorf("open files %+v", got)
	}
	in := example()
	in.Container = &corev1.Container{
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("1Mi")}},
	}
	for _, test := range []struct{ v2, accounts, bounded bool }{{false, false, false}, {false, true, true}, {true, false, false}} {
		in.Node.CgroupV2, in.Node.SwapLimits = test.v2, test.accounts
		if got := resources(in).Memory; (got.Swap != nil) != test.bounded || test.bounded && *got.Swap != 1<<20 {
			t.Errorf("%+v: %+v", test, got)
		}
	}
	if got := PodLimits(&corev1.Pod{}, Node{PodPids: 10}).Pids; got == nil || *got.Limit != 10 {
		t.Errorf("pids %+v", got)
	}
	if got := PodLimits(&corev1.Pod{}, Node{}).Pids; got != nil {
		t.Errorf("pids %+v", got)
	}
}
