package pods

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func sized(uid, cpu, memory string) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)},
		Limits:   corev1.ResourceList{"memory": resource.MustParse(memory)}}}}}}
	pod.UID = "u"
	pod.Name = uid
	return pod
}

// TestTake: a pod keeps its resources until its node takes the change over, and everything else is of the newest object.
func TestTake(t *testing.T) {
	w := Wanted{Pod: sized("before", "1", "1Ki"), Gone: true}
	w = w.Take(sized("same", "1000m", "1024"))
	if w.Resize != nil || w.Gone || w.Pod.Name != "same" {
		t.Errorf("taken: %+v", w)
	}
	larger := sized("larger", "2", "1Ki")
	w = w.Take(larger)
	if w.Resize == nil || w.Resize.Pod != larger || w.Pod.Name != "larger" || !SameSize(w.Pod, sized("", "1", "1Ki")) {
		t.Errorf("taken: %+v", w)
	}
	w.Resize.Reason = corev1.PodReasonDeferred
	if w = w.Take(sized("labels", "2", "1Ki")); w.Resize.Reason != corev1.PodReasonDeferred {
		t.Error("why it waits is forgotten")
	}
	if w = w.Take(sized("other", "3", "1Ki")); w.Resize.Reason != "" || w.Pod.Name != "other" {
		t.Error("why the one before waited is said of the next")
	}
	if w = w.Take(sized("back", "1", "1Ki")); w.Resize != nil {
		t.Error("what is as it was waits")
	}
}

// TestFits has the kubelet's words for changes that a node cannot take over.
func TestFits(t *testing.T) {
	node := corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Ki"), "pods": resource.MustParse("3")}
	self, other := sized("self", "1", "0"), sized("other", "500m", "24")
	other.UID = "other"
	others := []Wanted{{Pod: self}, {Pod: other}}
	for _, c := range []struct {
		pod             *corev1.Pod
		reason, message string
	}{
		{sized("a", "1500m", "1000"), "", ""},
		{sized("a", "1501m", "1000"), "Deferred", "Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000"},
		{sized("a", "2001m", "1000"), "Infeasible", "Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000"},
		{sized("a", "1", "1025"), "Infeasible", "Node didn't have enough capacity: memory, requested: 1025, capacity: 1024"},
	} {
		if reason, message := Fits(node, others, c.pod); reason != c.reason || message != c.message {
			t.Errorf("%s: %s, want %s: %s", reason, message, c.reason, c.message)
		}
	}
}

// TestOwnResources: what a pod itself may take is the limit of its containers that state none, and changes as theirs do.
func TestOwnResources(t *testing.T) {
	whole := func(memory string) *corev1.Pod {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "free"}, sized("", "1", "8").Spec.Containers[0]}}}
		pod.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse(memory)}}
		return pod
	}
	w := Wanted{Pod: whole("1Ki")}.Take(whole("2Ki"))
	if w.Resize == nil || !SameSize(w.Pod, whole("1024")) {
		t.Fatalf("taken: %+v", w)
	}
	var live []Container
	for _, c := range w.Pod.Spec.Containers {
		live = append(live, Container{Name: c.Name, State: Running, Resources: &c.Resources, PodResources: w.Pod.Spec.Resources})
	}
	if len(Outgrown(w.Pod, live)) != 0 {
		t.Error("what nobody has changed is to be changed")
	}
	larger, smaller := whole("2Ki"), whole("512")
	if those := Outgrown(larger, live); len(those) != 1 || those[0].Name != "free" {
		t.Errorf("to be changed: %+v", those)
	}
	larger.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{
		{ResourceName: "memory", RestartPolicy: corev1.RestartContainer}}
	if len(Outgrown(larger, live)) != 0 || !restartsFor(larger, &larger.Spec.Containers[0], live[0]) {
		t.Error("a container that is to be restarted for memory is not")
	}
	for pod, want := range map[*corev1.Pod]string{larger: "2Ki", smaller: "1Ki"} {
		if got := Largest(pod, live).Spec.Resources.Limits["memory"]; !got.Equal(resource.MustParse(want)) {
			t.Errorf("meanwhile the pod has %s, want %s", &got, want)
		}
	}
}

// TestLargest: while it changes, a pod's cgroup holds what its containers have and what they are to have.
func TestLargest(t *testing.T) {
	pod := sized("a", "1", "1Ki")
	had := func(cpu, memory string) []Container {
		r := sized("a", cpu, memory).Spec.Containers[0].Resources
		return []Container{{Name: "main", State: Running, Resources: &r}, {Name: "main", State: Exited, Resources: &r}}
	}
	if got := Largest(pod, had("2", "512")); !SameSize(got, sized("a", "2", "1Ki")) {
		t.Errorf("largest: %v", got.Spec.Containers[0].Resources)
	}
	if got := Largest(pod, had("500m", "2Ki")); !SameSize(got, sized("a", "1", "2Ki")) || !SameSize(pod, sized("a", "1", "1Ki")) {
		t.Errorf("largest: %v", got.Spec.Containers[0].Resources)
	}
	unbounded := had("1", "1Ki")
	unbounded[0].Resources.Limits = nil
	if got := Largest(pod, unbounded); len(got.Spec.Containers[0].Resources.Limits) != 0 {
		t.Errorf("bounded while a container is not: %v", got.Spec.Containers[0].Resources)
	}
	if got := ResizeNews("Pod resize started", pod, ""); !strings.HasPrefix(got, `Pod resize started: {"containers":[{"name":"main",`) {
		t.Error(got)
	}
}
