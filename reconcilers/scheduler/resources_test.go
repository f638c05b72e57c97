package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestPlainly: the short way to what a pod requests comes to what the long one does, and is the way of plain pods.
func TestPlainly(t *testing.T) {
	plain := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 31))
		list := func() corev1.ResourceList {
			out := corev1.ResourceList{}
			for name, texts := range map[string][]string{
				"cpu": {"100m", "1", "0", "2500u", "1.5", "9223372036854776"}, "memory": {"1Gi", "128M", "0", "100m", "1.5Ki", "9E"},
				"ephemeral-storage": {"1Gi", "500m"}, "example.com/gpu": {"1"}, "pods": {"1"},
			} {
				if r.IntN(3) == 0 {
					out[corev1.ResourceName(name)] = resource.MustParse(one(r, texts...))
				}
			}
			return out
		}
		p := pod("p", "", nil)
		p.Spec.Containers = nil
		for i := range r.IntN(4) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i),
				Resources: corev1.ResourceRequirements{Requests: list()}})
		}
		switch r.IntN(8) {
		case 0:
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: list()}}}
		case 1:
			p.Spec.Overhead = list()
		case 2:
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list()}
		case 3:
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c0", AllocatedResources: list(),
				Resources: &corev1.ResourceRequirements{Requests: list()}}}
		case 4:
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c0"}}
		}
		a, cpu, memory, ok := plainly(p)
		if !ok {
			continue
		}
		plain++
		wantCPU, wantMemory := weightOf(p)
		if want := requestsOf(p); !a.equal(want) || cpu != wantCPU || memory != wantMemory {
			t.Fatalf("seed %d: %+v, %d, %d, want %+v, %d, %d", seed, a, cpu, memory, want, wantCPU, wantMemory)
		}
	}
	if plain < 200 {
		t.Errorf("%d pods are plain", plain)
	}
}

// TestRequestsOfAnySize: what is more than any machine has is that, and nothing less, however much of it there is.
func TestRequestsOfAnySize(t *testing.T) {
	for name, text := range map[corev1.ResourceName]string{
		"cpu": "9223372036854776", "memory": "10E", "ephemeral-storage": "9223372036854775807", "example.com/gpu": "1e30",
	} {
		p := pod("p", "", nil)
		p.Spec.Containers = make([]corev1.Container, 100)
		for i := range p.Spec.Containers {
			p.Spec.Containers[i].Resources.Requests = corev1.ResourceList{name: resource.MustParse(text)}
		}
		var sum amounts
		for range 1000 {
			sum.add(requestsOf(p), 1)
		}
		most := max(sum.cpu, sum.memory, sum.storage, sum.scalar[name])
		if least := min(sum.cpu, sum.memory, sum.storage, sum.scalar[name]); least < 0 || most < 1<<53 {
			t.Errorf("%s %s: %+v", name, text, sum)
		}
	}
}
