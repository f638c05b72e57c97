package spec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/kubernetes/pkg/util/kernel"
)

// SafeSysctls are those that any pod may set on a node with a kernel of that version: they belong to one of the pod's
// namespaces, and nobody outside notices. Kubernetes' list:
// https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/#safe-and-unsafe-sysctls
func SafeSysctls(kernelVersion string) []string {
	safe := []string{
		"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
		"net.ipv4.ip_unprivileged_port_start",
	}
	have, err := version.ParseGeneric(kernelVersion)
	for _, s := range []struct{ name, since string }{
		{"net.ipv4.ip_local_reserved_ports", kernel.IPLocalReservedPortsNamespacedKernelVersion},
		{"net.ipv4.tcp_keepalive_time", kernel.TCPKeepAliveTimeNamespacedKernelVersion},
		{"net.ipv4.tcp_fin_timeout", kernel.TCPFinTimeoutNamespacedKernelVersion},
		{"net.ipv4.tcp_keepalive_intvl", kernel.TCPKeepAliveIntervalNamespacedKernelVersion},
		{"net.ipv4.tcp_keepalive_probes", kernel.TCPKeepAliveProbesNamespacedKernelVersion},
		{"net.ipv4.tcp_rmem", kernel.TCPReceiveMemoryNamespacedKernelVersion},
		{"net.ipv4.tcp_wmem", kernel.TCPTransmitMemoryNamespacedKernelVersion},
		{"net.ipv4.tcp_slow_start_after_idle", kernel.TCPSlowStartAfterIdleNamespacedKernelVersion},
		{"net.ipv4.tcp_notsent_lowat", kernel.TCPNotSentLowatNamespacedKernelVersion},
	} {
		if err == nil && have.AtLeast(version.MustParseGeneric(s.since)) {
			safe = append(safe, s.name)
		}
	}
	return safe
}

// CheckSysctls says why pods cannot be allowed the sysctls of a name, which may end in a star for all that begin so.
func CheckSysctls(pattern string) error {
	if ns, name, _ := sysctl.GetNamespace(pattern); ns == sysctl.UnknownNamespace {
		return fmt.Errorf("the sysctls %q are not known to be namespaced", name)
	}
	return nil
}

// Sysctls are those that a pod sets in its namespaces, by their names with dots. Those of a user namespace are not among them:
// only who is in it can set them.
func Sysctls(pod *corev1.Pod) map[string]string {
	return sysctlsOf(pod, func(ns sysctl.Namespace) bool { return ns != sysctl.UserNamespace })
}

// userSysctls are those that the OCI runtime sets in a pod's user namespace, with each container the same.
func userSysctls(pod *corev1.Pod) map[string]string {
	return sysctlsOf(pod, func(ns sysctl.Namespace) bool { return ns == sysctl.UserNamespace })
}

func sysctlsOf(pod *corev1.Pod, wanted func(sysctl.Namespace) bool) map[string]string {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	set := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if ns, name, _ := sysctl.GetNamespace(s.Name); wanted(ns) {
			set[name] = s.Value
		}
	}
	return set
}

// forbiddenSysctl says why a pod may not set what it asks for where these are allowed, in the kubelet's words; empty: it may.
func forbiddenSysctl(allowed []string, pod *corev1.Pod) string {
	if pod.Spec.SecurityContext == nil {
		return ""
	}
	hosts := map[sysctl.Namespace]bool{
		sysctl.IPCNamespace: pod.Spec.HostIPC, sysctl.NetNamespace: pod.Spec.HostNetwork, sysctl.UTSNamespace: pod.Spec.HostNetwork,
		sysctl.UserNamespace: pod.Spec.HostUsers == nil || *pod.Spec.HostUsers,
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(s.Name)
		at := slices.IndexFunc(allowed, func(pattern string) bool {
			_, prefix, many := sysctl.GetNamespace(pattern)
			return name == prefix || many && strings.HasPrefix(name, prefix)
		})
		if at < 0 {
			return fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)
		}
		if ns, _, _ := sysctl.GetNamespace(allowed[at]); hosts[ns] {
			return fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", name, ns)
		}
	}
	return ""
}
