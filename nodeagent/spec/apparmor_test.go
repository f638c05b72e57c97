package spec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// What a profile comes to on nodes without AppArmor, with it, and with it and a default profile; "!" is an error.
func TestAppArmor(t *testing.T) {
	for name, c := range map[string]struct {
		pod, fit            string // Unfit's reason without AppArmor
		without, with, full string
	}{
		"none":       {"{containers: [{name: a}]}", "", "", "", ""},
		"unconfined": {"{securityContext: {appArmorProfile: {type: Unconfined}}, containers: [{name: a}]}", "", "", "", ""},
		"default": {"{securityContext: {appArmorProfile: {type: RuntimeDefault}}, containers: [{name: a}]}",
			"AppArmor", "!", "!", "default"},
		"local": {"{containers: [{name: a, securityContext: {appArmorProfile: {type: Localhost, localhostProfile: web}}}]}",
			"AppArmor", "!", "web", "web"},
		"nameless": {"{containers: [{name: a, securityContext: {appArmorProfile: {type: Localhost}}}]}", "AppArmor", "!", "!", "!"},
		"the nearest": {"{securityContext: {appArmorProfile: {type: RuntimeDefault}}, containers: [{name: a, securityContext: " +
			"{appArmorProfile: {type: Unconfined}}}]}", "", "", "", ""},
		"an init's": {
			"{initContainers: [{name: i, securityContext: {appArmorProfile: {type: RuntimeDefault}}}], containers: [{name: a}]}",
			"AppArmor", "", "", "",
		},
		"privileged": {"{containers: [{name: a, securityContext: {privileged: true, appArmorProfile: {type: RuntimeDefault}}}]}",
			"AppArmor", "!", "", ""},
		"linux":   {"{os: {name: linux}, containers: [{name: a}]}", "", "", "", ""},
		"windows": {"{os: {name: windows}, containers: [{name: a}]}", "PodOSNotSupported", "", "", ""},
		"other systems": {"{securityContext: {seLinuxOptions: {level: s0}, windowsOptions: {runAsUserName: x}}, containers: [{name: a}]}",
			"", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := example()
			if err := yaml.UnmarshalStrict([]byte(c.pod), &in.Pod.Spec); err != nil {
				t.Fatal(err)
			}
			in.Container = &in.Pod.Spec.Containers[0]
			if reason, message := Unfit(in.Node, in.Pod); reason != c.fit || (reason == "") != (message == "") {
				t.Errorf("Unfit = %q, %q, want %q", reason, message, c.fit)
			}
			for want, node := range map[*string]Node{
				&c.without: {}, &c.with: {AppArmor: true}, &c.full: {AppArmor: true, AppArmorDefault: "default"},
			} {
				in.Node.AppArmor, in.Node.AppArmorDefault = node.AppArmor, node.AppArmorDefault
				got := "!"
				if s, err := Build(in); err == nil {
					got = s.Process.ApparmorProfile
				}
				if got != *want {
					t.Errorf("with %v: profile %q, want %q", node.AppArmor, got, *want)
				}
			}
		})
	}
	with := Node{AppArmor: true}
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{
			AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault},
		}, Containers: []corev1.Container{{}}},
	}
	if reason, _ := Unfit(with, pod); reason != "" {
		t.Errorf("a node with AppArmor refuses the pod: %s", reason)
	}
}

// TestSELinux: a node whose kernel has it refuses what it does not do; elsewhere the options mean nothing.
func TestSELinux(t *testing.T) {
	for text, want := range map[string]string{
		"{containers: [{name: a}]}": "",
		"{securityContext: {seLinuxOptions: {level: s0}}, containers: [{name: a}]}":                            "SELinux",
		"{containers: [{name: a, securityContext: {seLinuxOptions: {type: t}}}]}":                              "SELinux",
		"{initContainers: [{name: i, securityContext: {seLinuxOptions: {type: t}}}], containers: [{name: a}]}": "SELinux",
		"{securityContext: {seLinuxChangePolicy: Recursive}, containers: [{name: a}]}":                         "",
	} {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(text), &pod.Spec); err != nil {
			t.Fatal(err)
		}
		if reason, message := Unfit(Node{SELinux: true}, &pod); reason != want || (reason == "") != (message == "") {
			t.Errorf("%s: %q, %q, want %q", text, reason, message, want)
		}
		if reason, _ := Unfit(Node{}, &pod); reason != "" {
			t.Errorf("%s: without SELinux: %s", text, reason)
		}
	}
}
