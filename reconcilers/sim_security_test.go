package reconcilers

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/pod-security-admission/api"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestPodsAreRefusedByTheirNamespace: pods that violate what their namespace enforces are not made, which is said in Kubernetes'
// words, and those that are there stay; when the namespace takes them they are made.
func TestPodsAreRefusedByTheirNamespace(t *testing.T) {
	s := newSim(t, 3)
	ns := namespaceOf("shop")
	s.put(ns)
	set := statefulSetOf(1, "one")
	s.put(set)
	s.settle()
	if images, _ := s.members(set); len(images) != 1 {
		t.Fatalf("pods %v", images)
	}
	ns.Labels = map[string]string{api.EnforceLevelLabel: "baseline"}
	s.put(ns)
	set.Spec.Replicas = new(int32(2))
	set.Spec.Template.Spec.HostNetwork = true
	s.put(set)
	for range 50 {
		s.step.Step(t.Context())
	}
	s.expectEvents(`FailedCreate: Create Pod db-1 in StatefulSet db failed error: pods "db-1" is forbidden: ` +
		`violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`)
	live, _ := view.Get[*appsv1.StatefulSet](s.store.View(), "shop", "db")
	failure := ""
	for _, c := range live.Status.Conditions {
		if c.Type == kinds.StatefulSetReplicaFailure {
			failure = c.Message
		}
	}
	if !strings.Contains(failure, "violates PodSecurity") {
		t.Errorf("conditions tell %q", failure)
	}
	if images, _ := s.members(set); len(images) != 1 || images["db-0"] == "" {
		t.Errorf("pods %v, want the one that was there", images)
	}
	ns.Labels = nil
	s.put(ns)
	s.settle()
	if images, available := s.members(set); len(images) != 2 || available != 2 {
		t.Errorf("pods %v", images)
	}
}
