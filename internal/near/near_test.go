package near

import "testing"

func TestOf(t *testing.T) {
	names := []string{"Service", "Secret", "Pod", "Deployment", "replicas", "name"}
	for name, want := range map[string]string{
		"Servce": "Service", "service": "Service", "Services": "Service", "Pods": "Pod", "Deplyomnet": "Deployment", "replcias": "replicas",
		"nmae": "name", "Job": "", "Widget": "", "": "", "ServiceMonitor": "", "Po": "Pod",
	} {
		if got := Of(name, names); got != want {
			t.Errorf("Of(%q) = %q, want %q", name, got, want)
		}
	}
}
