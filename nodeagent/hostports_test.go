package nodeagent

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestHostPortsOfNoAddress: a host port for an address that cannot be read is not one for every address.
func TestHostPortsOfNoAddress(t *testing.T) {
	for hostIP, want := range map[string]string{
		"": "10.42.0.5 invalid IP", "127.0.0.1": "10.42.0.5 127.0.0.1", "::ffff:127.0.0.1": "10.42.0.5 127.0.0.1",
		"127.1": "", "0177.0.0.1": "", "127.0.0.1 ": "", "localhost": "",
	} {
		got := ""
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
		pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, HostIP: hostIP}}}}
		for _, p := range hostPortsOf(pod, []string{"10.42.0.5", "no"}) {
			got += fmt.Sprint(p.PodIP, " ", p.HostIP)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", hostIP, got, want)
		}
	}
}
