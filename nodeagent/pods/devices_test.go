package pods

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestAssign has devices go to containers in their order, and the kubelet's words where they do not suffice.
func TestAssign(t *testing.T) {
	healthy := map[corev1.ResourceName][]string{
		"e.x/gpu": {"e.x/gpu=0", "e.x/gpu=1", "e.x/gpu=2"}, "e.x/nic": {"e.x/nic=a"}, "e.x/gone": {},
	}
	one := func(name string, resources string) string {
		return "{name: " + name + ", resources: {limits: {" + resources + "}}}"
	}
	for _, c := range []struct{ spec, held, want string }{
		{"{containers: [" + one("a", "cpu: 1") + "]}", "", `{}`},
		{"{containers: [" + one("a", "e.x/gpu: 2, e.x/nic: 1") + "," + one("b", "e.x/gpu: 1") + "]}", "",
			`{"a":["e.x/gpu=0","e.x/gpu=1","e.x/nic=a"],"b":["e.x/gpu=2"]}`},
		{"{containers: [" + one("a", "e.x/gpu: 2") + "]}", "e.x/gpu=0", `{"a":["e.x/gpu=1","e.x/gpu=2"]}`},
		{"{containers: [" + one("a", "e.x/gpu: 0") + "]}", "e.x/gpu=0", `{}`},
		{"{containers: [" + one("a", "e.x/gpu: 3") + "]}", "e.x/gpu=0",
			"requested number of devices unavailable for e.x/gpu. Requested: 3, Available: 2"},
		{"{containers: [" + one("a", "e.x/gone: 1") + "]}", "",
			"no healthy devices present; cannot allocate unhealthy devices e.x/gone"},
		{"{containers: [" + one("a", "e.x/counted: 1") + "]}", "", `{}`},
		// What an init container has had, others have after it.
		{"{initContainers: [" + one("i", "e.x/gpu: 2") + "," + one("j", "e.x/gpu: 3") + "], containers: [" + one("a", "e.x/gpu: 1") + "," +
			one("b", "e.x/gpu: 2") + "]}", "",
			`{"a":["e.x/gpu=0"],"b":["e.x/gpu=1","e.x/gpu=2"],"i":["e.x/gpu=0","e.x/gpu=1"],"j":["e.x/gpu=0","e.x/gpu=1","e.x/gpu=2"]}`},
		// But a sidecar keeps it.
		{"{initContainers: [{name: s, restartPolicy: Always, resources: {limits: {e.x/gpu: 2}}}], containers: [" +
			one("a", "e.x/gpu: 2") + "]}", "", "requested number of devices unavailable for e.x/gpu. Requested: 2, Available: 1"},
	} {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(c.spec), &pod.Spec); err != nil {
			t.Fatal(err)
		}
		given, err := Assign(healthy, map[string]bool{c.held: true}, &pod)
		data, _ := json.Marshal(given)
		got := string(data)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.spec, got, c.want)
		}
	}
}
