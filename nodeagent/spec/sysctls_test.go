package spec

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestSysctls has the kubelet's words for the sysctls that a node does not allow.
func TestSysctls(t *testing.T) {
	allowed := append(SafeSysctls("6.1.0-13-amd64"), "kernel.msg*", "net.core.somaxconn", "kernel.domainname", "user.*")
	set := func(name string) string { return "securityContext: {sysctls: [{name: " + name + ", value: '1'}]}" }
	for spec, want := range map[string]string{
		"{}": "",
		"{" + set("kernel.shm_rmid_forced") + "}":                    "",
		"{" + set("kernel/shm_rmid_forced") + "}":                    "",
		"{" + set("net.ipv4.tcp_rmem") + "}":                         "",
		"{" + set("kernel.msgmax") + "}":                             "",
		"{" + set("net.core.somaxconn") + "}":                        "",
		"{" + set("kernel.shmmax") + "}":                             `"kernel.shmmax" not allowlisted`,
		"{" + set("vm.swappiness") + "}":                             `"vm.swappiness" not allowlisted`,
		"{" + set("net/ipv4/conf/eth0.1/rp_filter") + "}":            `"net.ipv4.conf.eth0/1.rp_filter" not allowlisted`,
		"{hostIPC: true, " + set("kernel.msgmax") + "}":              `"kernel.msgmax" not allowed with host IPC enabled`,
		"{hostNetwork: true, " + set("net.core.somaxconn") + "}":     `"net.core.somaxconn" not allowed with host Net enabled`,
		"{hostNetwork: true, " + set("kernel.domainname") + "}":      `"kernel.domainname" not allowed with host UTS enabled`,
		"{" + set("user.max_ipc_namespaces") + "}":                   `"user.max_ipc_namespaces" not allowed with host User enabled`,
		"{hostUsers: false, " + set("user.max_ipc_namespaces") + "}": "",
		"{hostNetwork: true, " + set("kernel.shm_rmid_forced") + "}": "",
	} {
		if want != "" {
			want = "forbidden sysctl: " + want
		}
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(spec), &pod.Spec); err != nil {
			t.Fatal(err)
		}
		reason, message := Unfit(Node{Sysctls: allowed}, &pod)
		if message != want || (reason == "SysctlForbidden") != (want != "") {
			t.Errorf("%s: %s %q, want %q", spec, reason, message, want)
		}
	}
	if slices.Contains(SafeSysctls("4.14.2"), "net.ipv4.tcp_rmem") || !slices.Contains(SafeSysctls("4.15"), "net.ipv4.tcp_rmem") {
		t.Error("what is safe does not depend on the kernel's version")
	}
	if len(SafeSysctls("?")) == 0 {
		t.Error("nothing is safe on a kernel without a version")
	}
	for pattern, fit := range map[string]bool{
		"kernel.msg*": true, "kernel.msgmax": true, "net.*": true, "fs.mqueue.*": true, "net/core/somaxconn": true,
		"vm.swappiness": false, "kernel.*": false, "*": false, "": false,
	} {
		if err := CheckSysctls(pattern); (err == nil) != fit {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
