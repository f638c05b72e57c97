package spec

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities are those of containerd's and Docker's containers.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilities applies add and drop, where ALL comes before single names.
func capabilities(in Input) *specs.LinuxCapabilities {
	have := defaultCapabilities()
	var add, drop []corev1.Capability
	if sc := in.Container.SecurityContext; sc != nil && sc.Capabilities != nil {
		add, drop = sc.Capabilities.Add, sc.Capabilities.Drop
	}
	all := func(cs []corev1.Capability) bool {
		return slices.ContainsFunc(cs, func(c corev1.Capability) bool { return strings.EqualFold(string(c), "ALL") })
	}
	if Privileged(in.Container) {
		have, add, drop = slices.Clone(in.Node.Capabilities), nil, nil
	}
	if all(add) {
		have = slices.Clone(in.Node.Capabilities)
	}
	if all(drop) {
		have = nil
	}
	for _, c := range drop {
		have = slices.DeleteFunc(have, func(h string) bool { return h == capName(c) })
	}
	for _, c := range add {
		if name := capName(c); name != "CAP_ALL" && !slices.Contains(have, name) {
			have = append(have, name)
		}
	}
	slices.Sort(have)
	return &specs.LinuxCapabilities{Bounding: have, Effective: have, Permitted: have}
}

func capName(c corev1.Capability) string {
	name := strings.ToUpper(string(c))
	if strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

// Privileged says whether the container has the host's rights.
func Privileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

func readOnlyRoot(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem
}

func noNewPrivileges(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.AllowPrivilegeEscalation != nil && !*c.SecurityContext.AllowPrivilegeEscalation
}

func procMount(c *corev1.Container) corev1.ProcMountType {
	if c.SecurityContext != nil && c.SecurityContext.ProcMount != nil {
		return *c.SecurityContext.ProcMount
	}
	return corev1.DefaultProcMount
}

// SeccompProfile is the profile that applies to the container; nil means
// unconfined, which is Kubernetes' default.
func SeccompProfile(pod *corev1.Pod, c *corev1.Container) *corev1.SeccompProfile {
	if Privileged(c) {
		return nil
	}
	if c.SecurityContext != nil && c.SecurityContext.SeccompProfile != nil {
		return c.SecurityContext.SeccompProfile
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.SeccompProfile
	}
	return nil
}

// seccompOf returns the filter for s, whose capabilities it depends on.
func seccompOf(in Input, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	p := SeccompProfile(in.Pod, in.Container)
	if p == nil {
		return nil, nil
	}
	switch p.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return seccomp.DefaultProfile(s), nil
	case corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil {
			return nil, createErrorf("seccomp profile of type Localhost names no file")
		}
		data, ok := in.SeccompProfiles[*p.LocalhostProfile]
		if !ok {
			return nil, createErrorf("seccomp profile %q is not on this node", *p.LocalhostProfile)
		}
		var filter specs.LinuxSeccomp
		if err := json.Unmarshal(data, &filter); err != nil {
			return nil, createErrorf("cannot read seccomp profile %q: %v", *p.LocalhostProfile, err)
		}
		return &filter, nil
	}
	return nil, nil
}

// AppArmorProfile is what the container states, or its pod; nil means none, as
// Unconfined does. Annotations of the time before the field are fields by now.
func AppArmorProfile(pod *corev1.Pod, c *corev1.Container) *corev1.AppArmorProfile {
	var p *corev1.AppArmorProfile
	if sc := pod.Spec.SecurityContext; sc != nil {
		p = sc.AppArmorProfile
	}
	if sc := c.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
		p = sc.AppArmorProfile
	}
	if p == nil || p.Type == corev1.AppArmorProfileTypeUnconfined {
		return nil
	}
	return p
}

// appArmorOf returns the name of the profile to run in; empty: none.
func appArmorOf(in Input) (string, error) {
	p := AppArmorProfile(in.Pod, in.Container)
	switch {
	case p == nil:
		return "", nil
	case !in.Node.AppArmor: // the pod was admitted before the kernel lost it
		return "", createErrorf("AppArmor is not enabled on the host")
	case p.Type == corev1.AppArmorProfileTypeRuntimeDefault && Privileged(in.Container):
		return "", nil
	case p.Type == corev1.AppArmorProfileTypeRuntimeDefault && in.Node.AppArmorDefault == "":
		return "", createErrorf("the default AppArmor profile is not loaded on this node")
	case p.Type == corev1.AppArmorProfileTypeRuntimeDefault:
		return in.Node.AppArmorDefault, nil
	case p.LocalhostProfile == nil || strings.TrimSpace(*p.LocalhostProfile) == "":
		return "", createErrorf("AppArmor profile of type Localhost has no name")
	}
	return *p.LocalhostProfile, nil
}

// Unfit says why no node like n can run the pod, in the kubelet's words; empty:
// it can. Options of Windows mean nothing here, and are no reason, nor are those of SELinux where the kernel has none.
func Unfit(n Node, pod *corev1.Pod) (reason, message string) {
	if why := forbiddenSysctl(n.Sysctls, pod); why != "" {
		return "SysctlForbidden", why
	}
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range cs {
			if n.SELinux && hasSELinux(pod, &cs[i]) {
				return "SELinux", "Cannot enforce SELinux: this node does not label containers"
			}
			if !n.AppArmor && AppArmorProfile(pod, &cs[i]) != nil {
				return "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"
			}
		}
	}
	return "", ""
}

// hasSELinux says that a container, or its pod, states by which label it is to run.
func hasSELinux(pod *corev1.Pod, c *corev1.Container) bool {
	return pod.Spec.SecurityContext != nil && pod.Spec.SecurityContext.SELinuxOptions != nil ||
		c.SecurityContext != nil && c.SecurityContext.SELinuxOptions != nil
}

// maskedPaths and readonlyPaths are those of Kubernetes' runtimes.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
