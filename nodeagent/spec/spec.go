// Package spec turns one container of a pod into an OCI runtime specification.
package spec

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Input is all that a container's specification depends on. Nothing else is
// read: no file, no clock, no kernel.
type Input struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	Image     imagespec.ImageConfig
	Users     Users // of the image
	Node      Node
	Sandbox   Sandbox
	Sources   Sources

	PodIPs, HostIPs []string
	// Mounts has what is behind each of Container.VolumeMounts.
	Mounts []Mount
	// Devices are those of each of Container.VolumeDevices.
	Devices []Device
	// TerminationLog is the host file behind terminationMessagePath.
	TerminationLog string
	// SeccompProfiles has the content of Localhost profiles by name.
	SeccompProfiles map[string][]byte
	// CgroupPath is where the container goes, absolute in every hierarchy.
	CgroupPath string
}

// Mount is what a volume mount shows.
type Mount struct {
	// Source is the path on the host, subPath applied.
	Source string
	// ReadOnly volumes are mounted so whatever the pod says.
	ReadOnly bool
	// Options are what else the mount has.
	Options []string
	// Shifted says that its files are those of the pod's user namespace already.
	Shifted bool
}

// Node is what a specification depends on of the machine.
type Node struct {
	Name        string
	Allocatable corev1.ResourceList
	// MemoryCapacity is in bytes.
	MemoryCapacity int64
	CgroupV2       bool
	// HugePages are the sizes of huge pages that cgroups can be held to, as in hugepages-2Mi; none where the kernel has no such
	// controller.
	HugePages []string
	// SwapLimits says whether the kernel bounds swap by cgroup.
	SwapLimits bool
	Memory     MemoryPolicy
	// Swap is what the machine has, in bytes.
	Swap int64
	// Runtimes are the types of containerd's runtimes by the handlers that RuntimeClasses name them by.
	Runtimes map[string]string
	// RecursiveReadOnly says that kernel and runc can mount with all that is mounted below read-only.
	RecursiveReadOnly bool
	// NoUserNamespaces is why pods cannot have user namespaces of their own; empty: they can.
	NoUserNamespaces string
	// MaxOpenFiles is the highest limit of open files that the runtime can
	// give.
	MaxOpenFiles uint64
	// PodPids bounds the processes and threads of a pod; zero means that
	// nothing does.
	PodPids int64
	// OOMFloor is the lowest oom_score_adj that containers may be given;
	// -1000 on machines where the runtime has CAP_SYS_RESOURCE.
	OOMFloor int
	// Capabilities are those that privileged containers get, as CAP_…
	Capabilities []string
	// SELinux says that the kernel has SELinux, by which containers are not labelled.
	SELinux bool
	// AppArmor says that the kernel enforces AppArmor profiles.
	AppArmor bool
	// AppArmorDefault is the loaded profile that RuntimeDefault stands for; empty: there is none.
	AppArmorDefault string
	// Sysctls are those that pods may set; one that ends in a star is for all that begin so.
	Sysctls []string
	// Devices are the host's, for privileged containers.
	Devices []specs.LinuxDevice
}

// Sandbox has the paths of what a pod's containers share; an empty namespace
// path means the host's namespace.
type Sandbox struct {
	Network, IPC, UTS string
	// PID is the shared PID namespace; empty means one of the container's own.
	PID      string
	Shm      string // directory behind /dev/shm
	Hosts    string // file behind /etc/hosts
	Resolv   string // file behind /etc/resolv.conf
	Hostname string // file behind /etc/hostname
	Name     string // the pod's host name
	// OtherRuntime says that not runc has the pod's containers.
	OtherRuntime bool
	// User is the pod's user namespace, and FirstID the host's ID of the first of its IDs users and groups; empty and 0 with
	// the host's users.
	User         string
	FirstID, IDs uint32
}

// Sources are the objects that environment variables come from, by name, all
// in the pod's namespace.
type Sources struct {
	ConfigMaps map[string]*corev1.ConfigMap
	Secrets    map[string]*corev1.Secret
	// Services are those of the pod's namespace and default/kubernetes.
	Services []*corev1.Service
	// Files has the values of variables in files of volumes; one that is not there, or empty, is absent.
	Files map[FileKey]string
}

// FileKey is a variable in a file of a pod's volume.
type FileKey struct{ Volume, Path, Key string }

// The reasons of a ConfigError: the first for what the kubelet looks at itself,
// the second for what it leaves to the runtime.
const (
	ReasonConfig = "CreateContainerConfigError"
	ReasonCreate = "CreateContainerError"
)

// ConfigError is a mistake in the pod, in its image or in what it refers to:
// trying again helps only after one of them changed.
type ConfigError struct{ Reason, msg string }

func (e *ConfigError) Error() string { return e.msg }

func configErrorf(format string, args ...any) error {
	return &ConfigError{ReasonConfig, fmt.Sprintf(format, args...)}
}

func createErrorf(format string, args ...any) error {
	return &ConfigError{ReasonCreate, fmt.Sprintf(format, args...)}
}

// Build returns the container's specification. A *ConfigError says what is
// wrong with the pod.
func Build(in Input) (*specs.Spec, error) {
	env, err := Env(in)
	if err != nil {
		return nil, err
	}
	user, err := userOf(in)
	if err != nil {
		return nil, err
	}
	words, err := args(in, env)
	if err != nil {
		return nil, err
	}
	privileged := Privileged(in.Container)
	s := &specs.Spec{
		Version: "1.0.2", // what runc 1.1, the oldest supported, implements
		Root:    &specs.Root{Path: "rootfs", Readonly: readOnlyRoot(in.Container)},
		Process: &specs.Process{
			Terminal:        in.Container.TTY,
			User:            user,
			Args:            words,
			Env:             processEnv(in, env),
			Cwd:             workingDir(in),
			Capabilities:    capabilities(in),
			NoNewPrivileges: noNewPrivileges(in.Container),
			OOMScoreAdj:     new(oomScoreAdj(in)),
			Rlimits:         rlimits(in.Node, in.Sandbox.FirstID != 0),
		},
		Linux: &specs.Linux{
			CgroupsPath:       in.CgroupPath,
			Namespaces:        namespaces(in),
			Resources:         resources(in),
			RootfsPropagation: rootfsPropagation(in.Container),
		},
	}
	if len(s.Process.Args) == 0 {
		return nil, createErrorf("container %q has no command and its image has none", in.Container.Name)
	}
	s.Mounts, err = mounts(in)
	if err != nil {
		return nil, err
	}
	if privileged {
		s.Linux.Devices = slices.Clone(in.Node.Devices)
	} else if pm := procMount(in.Container); pm != corev1.UnmaskedProcMount {
		s.Linux.MaskedPaths = maskedPaths()
		s.Linux.ReadonlyPaths = readonlyPaths()
	}
	if err := volumeDevices(in, s.Linux); err != nil {
		return nil, err
	}
	if ids := idMappings(in.Sandbox); len(ids) > 0 {
		s.Linux.UIDMappings, s.Linux.GIDMappings, s.Linux.Sysctl = ids, ids, userSysctls(in.Pod)
	}
	if s.Linux.Seccomp, err = seccompOf(in, s); err != nil {
		return nil, err
	}
	if s.Process.ApparmorProfile, err = appArmorOf(in); err != nil {
		return nil, err
	}
	return s, nil
}

func workingDir(in Input) string {
	switch {
	case in.Container.WorkingDir != "":
		return in.Container.WorkingDir
	case in.Image.WorkingDir != "":
		return in.Image.WorkingDir
	}
	return "/"
}

// idMappings are those of the pod's user namespace; none with the host's users.
func idMappings(s Sandbox) []specs.LinuxIDMapping {
	if s.FirstID == 0 {
		return nil
	}
	return []specs.LinuxIDMapping{{HostID: s.FirstID, Size: s.IDs}}
}

func namespaces(in Input) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if in.Node.CgroupV2 && !Privileged(in.Container) {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	switch {
	case in.Sandbox.PID != "":
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: in.Sandbox.PID})
	case !in.Pod.Spec.HostPID:
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	for _, n := range []specs.LinuxNamespace{
		{Type: specs.UserNamespace, Path: in.Sandbox.User},
		{Type: specs.NetworkNamespace, Path: in.Sandbox.Network},
		{Type: specs.IPCNamespace, Path: in.Sandbox.IPC},
		{Type: specs.UTSNamespace, Path: in.Sandbox.UTS},
	} {
		if n.Path != "" {
			ns = append(ns, n)
		}
	}
	return ns
}
