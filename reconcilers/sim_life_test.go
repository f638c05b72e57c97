package reconcilers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store"
	"lockstep/store/view"
)

func shop(t *testing.T, seed uint64, deployments ...*appsv1.Deployment) *sim {
	s := newSim(t, seed)
	s.put(namespaceOf("shop"))
	for _, d := range deployments {
		s.put(d)
	}
	s.settle()
	return s
}

func serviceOf(name string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	svc.Spec.Selector = map[string]string{"app": name}
	svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	return svc
}

func (s *sim) expectEvents(want ...string) {
	s.t.Helper()
	have := s.events()
	for _, w := range want {
		if !slices.ContainsFunc(have, func(e string) bool { return strings.HasPrefix(e, w) }) {
			s.t.Errorf("no event %q among %q", w, have)
		}
	}
}

func TestNamespaceTakesEverythingWithIt(t *testing.T) {
	s := shop(t, 1, deploymentOf("web", 3, "one"), deploymentOf("cart", 2, "one"))
	s.put(serviceOf("web"))
	s.settle()
	s.delete(kinds.For[*corev1.Namespace]().Key("", "shop"))
	for range 4 {
		s.step.Step(t.Context())
	}
	ns, _ := view.Get[*corev1.Namespace](s.store.View(), "", "shop")
	if ns.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("the namespace is %s", ns.Status.Phase)
	}
	s.settle()
	for _, k := range kinds.All {
		for o := range s.store.View().List(k.GroupResource(), "shop") {
			if k.Resource != "events" {
				t.Errorf("%v is left", kinds.KeyOf(o))
			}
		}
	}
	if _, ok := view.Get[*corev1.Namespace](s.store.View(), "", "shop"); ok {
		t.Error("the namespace is left")
	}
}

func TestDeploymentTakesItsPodsWithIt(t *testing.T) {
	s := shop(t, 2, deploymentOf("web", 3, "one"))
	s.delete(kinds.KeyOf(s.get("web")))
	s.settle()
	v := s.store.View()
	if n := v.Len(kinds.For[*appsv1.ReplicaSet]().GroupResource()) + v.Len(kinds.For[*corev1.Pod]().GroupResource()); n != 0 {
		t.Errorf("%d replica sets and pods are left", n)
	}
}

// TestRollback goes back to a template that is in the history: its replica set is used again, with a new revision.
func TestRollback(t *testing.T) {
	d := deploymentOf("web", 3, "one")
	s := shop(t, 3, d)
	for _, image := range []string{"two", "one"} {
		d.Spec.Template.Spec.Containers[0].Image = image
		s.put(d)
		s.settle()
		s.expectDone(d, image)
	}
	sets := slices.Collect(view.List[*appsv1.ReplicaSet](s.store.View(), "shop"))
	if len(sets) != 2 {
		t.Fatalf("%d replica sets, want 2", len(sets))
	}
	for _, rs := range sets {
		revision, history := rs.Annotations["deployment.kubernetes.io/revision"],
			rs.Annotations["deployment.kubernetes.io/revision-history"]
		if rs.Spec.Template.Spec.Containers[0].Image == "one" && (revision != "3" || history != "1") {
			t.Errorf("the first template has revision %s, history %s; want 3 and 1", revision, history)
		}
	}
	if revision := s.get("web").Annotations["deployment.kubernetes.io/revision"]; revision != "3" {
		t.Errorf("the deployment has revision %s, want 3", revision)
	}
	s.expectEvents("ScalingReplicaSet: Scaled up replica set web-", "SuccessfulCreate: Created pod: web-",
		"SuccessfulDelete: Deleted pod: web-")
}

// TestStuckRollout: pods that never become ready keep the old ones in service, miss the deadline, and are cleaned up by
// the next push.
func TestStuckRollout(t *testing.T) {
	deadline := int32(30)
	d := deploymentOf("web", 4, "one")
	d.Spec.ProgressDeadlineSeconds = &deadline
	s := shop(t, 4, d)
	s.broken = "broken"
	d.Spec.Template.Spec.Containers[0].Image = "broken"
	s.put(d)
	s.settle()
	for range 40 {
		s.clock.Step(time.Second)
		s.beat()
		s.settle()
	}
	live := s.get("web")
	c := live.Status.Conditions[slices.IndexFunc(live.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
		return c.Type == appsv1.DeploymentProgressing
	})]
	if c.Reason != "ProgressDeadlineExceeded" || c.Status != corev1.ConditionFalse ||
		!strings.HasSuffix(c.Message, "has timed out progressing.") {
		t.Errorf("Progressing = %+v", c)
	}
	if live.Status.AvailableReplicas < 3 {
		t.Errorf("%d pods are available, want at least 3", live.Status.AvailableReplicas)
	}
	d.Spec.Template.Spec.Containers[0].Image = "two"
	s.put(d)
	s.settle()
	s.expectDone(d, "two")
}

func TestFailedPodIsReplaced(t *testing.T) {
	d := deploymentOf("web", 2, "one")
	s := shop(t, 5, d)
	list, _ := s.active(s.get("web"))
	failed := list[0].DeepCopy()
	failed.Status.Phase = corev1.PodFailed
	s.write(store.Write{Key: kinds.KeyOf(failed), Object: failed, If: store.Anyway, Reason: "node"})
	s.settle()
	s.expectDone(d, "one")
}

// TestAdoptionAndRelease: an orphan that matches is adopted instead of a pod being created, one that does not match any
// more is released and replaced.
func TestAdoptionAndRelease(t *testing.T) {
	s := newSim(t, 6)
	s.put(namespaceOf("shop"))
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orphan", Labels: map[string]string{"app": "web"}}}
	orphan.Spec.Containers = []corev1.Container{{Name: "main", Image: "one"}}
	s.put(orphan)
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	three := int32(3)
	rs.Spec.Replicas, rs.Spec.Selector = &three, &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	rs.Spec.Template.Labels, rs.Spec.Template.Spec = map[string]string{"app": "web"}, orphan.Spec
	s.put(rs)
	s.settle()
	names := func() (names []string) {
		live, _ := view.Get[*appsv1.ReplicaSet](s.store.View(), "shop", "web")
		for o := range s.store.View().Controlled(live.UID) {
			names = append(names, o.GetName())
		}
		return names
	}
	if list := names(); len(list) != 3 || !slices.Contains(list, "orphan") {
		t.Errorf("the replica set has %v, want 3 with the orphan", list)
	}
	adopted, _ := view.Get[*corev1.Pod](s.store.View(), "shop", "orphan")
	changed := adopted.DeepCopy()
	changed.Labels["app"] = "debug"
	s.put(changed)
	s.settle()
	if list := names(); len(list) != 3 || slices.Contains(list, "orphan") {
		t.Errorf("the replica set has %v, want 3 without the released one", list)
	}
	if released, ok := view.Get[*corev1.Pod](s.store.View(), "shop", "orphan"); !ok || metav1.GetControllerOf(released) != nil {
		t.Errorf("the released pod: %v", released)
	}
}

// TestServices: addresses are given and come free, slices follow the pods.
func TestServices(t *testing.T) {
	s := shop(t, 7, deploymentOf("web", 3, "one"))
	svc := serviceOf("web")
	svc.Spec.Type = corev1.ServiceTypeNodePort
	s.put(svc)
	s.settle()
	get := func(name string) *corev1.Service {
		svc, _ := view.Get[*corev1.Service](s.store.View(), "shop", name)
		return svc
	}
	live := get("web")
	if live.Spec.ClusterIP == "" || live.Spec.ClusterIPs[0] != live.Spec.ClusterIP || live.Spec.Ports[0].NodePort < 30000 {
		t.Errorf("the service is %+v", live.Spec)
	}
	slices := slices.Collect(s.store.View().SlicesOfService("shop", "web"))
	if len(slices) != 1 || len(slices[0].Endpoints) != 3 || !*slices[0].Endpoints[0].Conditions.Ready {
		t.Fatalf("slices = %+v", slices)
	}
	if slices[0].Labels[discoveryv1.LabelManagedBy] != "endpointslice-controller.k8s.io" {
		t.Errorf("labels = %v", slices[0].Labels)
	}

	other := serviceOf("other")
	other.Spec.ClusterIP = live.Spec.ClusterIP
	s.put(other)
	s.settle()
	s.expectEvents("ClusterIPAlreadyAllocated: Cluster IP " + live.Spec.ClusterIP + " is already allocated to service shop/web")
	s.delete(kinds.KeyOf(other))

	named := serviceOf("web")
	named.Spec.Type, named.Spec.ExternalName, named.Spec.Selector = corev1.ServiceTypeExternalName, "example.org", nil
	s.put(named)
	s.settle()
	if live := get("web"); live.Spec.ClusterIP != "" || live.Spec.Ports[0].NodePort != 0 {
		t.Errorf("the address was not given back: %+v", live.Spec)
	}
	for slice := range s.store.View().SlicesOfService("shop", "web") {
		t.Errorf("slice %s is left", slice.Name)
	}
}

// TestManyEndpoints fills slices of a hundred.
func TestManyEndpoints(t *testing.T) {
	s := shop(t, 8, deploymentOf("web", 120, "one"))
	s.put(serviceOf("web"))
	s.settle()
	sizes := map[int]int{}
	for slice := range s.store.View().SlicesOfService("shop", "web") {
		sizes[len(slice.Endpoints)]++
	}
	if sizes[100] != 1 || sizes[20] != 1 {
		t.Errorf("slices by size: %v, want one of 100 and one of 20", sizes)
	}
}

// TestSilentNode: its pods leave the endpoints, and come back with the node.
func TestSilentNode(t *testing.T) {
	s := shop(t, 10, deploymentOf("web", 6, "one"))
	s.put(serviceOf("web"))
	s.settle()
	ready := func() (n int) {
		for slice := range s.store.View().SlicesOfService("shop", "web") {
			for _, e := range slice.Endpoints {
				if *e.Conditions.Ready {
					n++
				}
			}
		}
		return n
	}
	onNode := 0
	for range s.store.View().PodsOnNode("n1") {
		onNode++
	}
	s.pass(45*time.Second, "n0", "n2")
	node, _ := view.Get[*corev1.Node](s.store.View(), "", "n1")
	c := node.Status.Conditions[0]
	if c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" {
		t.Errorf("Ready = %+v", c)
	}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeUnreachable && t.Effect == corev1.TaintEffectNoSchedule
	}) {
		t.Errorf("taints = %v", node.Spec.Taints)
	}
	if got := ready(); got != 6-onNode {
		t.Errorf("%d endpoints are ready, want %d", got, 6-onNode)
	}
	s.expectEvents("NodeNotReady: Node n1 status is now: NodeNotReady", "NodeNotReady: Node is not ready")

	// The node is back: it renews its lease, says that it is ready, and tells how its pods are.
	s.beat()
	back := node.DeepCopy()
	back.Status.Conditions[0].Status, back.Status.Conditions[0].Reason = corev1.ConditionTrue, "KubeletReady"
	s.write(store.Write{Key: kinds.KeyOf(back), Object: back, If: store.Anyway, Reason: "node"})
	s.settle()
	node, _ = view.Get[*corev1.Node](s.store.View(), "", "n1")
	if len(node.Spec.Taints) != 0 {
		t.Errorf("taints are left: %v", node.Spec.Taints)
	}
	if got := ready(); got != 6 {
		t.Errorf("%d endpoints are ready, want 6", got)
	}
	for p := range s.store.View().PodsOnNode("n1") {
		if !podstatus.Ready(&p.Status) {
			t.Errorf("pod %s is not ready", p.Name)
		}
	}
}

// TestVanishedNode: pods of a node that is not there any more are removed, and replaced elsewhere.
func TestVanishedNode(t *testing.T) {
	d := deploymentOf("web", 6, "one")
	s := shop(t, 10, d)
	s.write(store.Write{Key: kinds.For[*corev1.Node]().Key("", "n1"), If: store.Anyway, Reason: "test"})
	s.pass(time.Minute, "n0", "n2")
	for p := range s.store.View().PodsOnNode("n1") {
		t.Errorf("pod %s is left", p.Name)
	}
}

// TestHashCollision: a replica set of somebody else has the name that the new one would get.
func TestHashCollision(t *testing.T) {
	d := deploymentOf("web", 2, "one")
	s := shop(t, 11, d)
	name := ""
	for rs := range view.List[*appsv1.ReplicaSet](s.store.View(), "shop") {
		name = rs.Name
	}
	s.delete(kinds.KeyOf(s.get("web")))
	s.settle()
	zero := int32(0)
	squatter := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	squatter.Spec.Replicas, squatter.Spec.Selector = &zero, &metav1.LabelSelector{MatchLabels: map[string]string{"app": "squatter"}}
	squatter.Spec.Template.Labels, squatter.Spec.Template.Spec = map[string]string{"app": "squatter"}, d.Spec.Template.Spec
	s.put(squatter)
	s.put(d)
	s.settle()
	s.expectDone(d, "one")
	if count := s.get("web").Status.CollisionCount; count == nil || *count != 1 {
		t.Errorf("collisionCount = %v, want 1", count)
	}
}

// TestRefusedPods: pods that validation refuses are not tried a hundred times, and the deployment says why there are
// none.
func TestRefusedPods(t *testing.T) {
	s := newSim(t, 12)
	s.put(namespaceOf("shop"))
	d := deploymentOf("web", 50, "one")
	d.Spec.Template.Spec.PriorityClassName = "no-such-class"
	s.put(d)
	for range 50 {
		s.step.Step(t.Context())
	}
	live := s.get("web")
	i := slices.IndexFunc(live.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
		return c.Type == appsv1.DeploymentReplicaFailure
	})
	if i < 0 || live.Status.Conditions[i].Reason != "FailedCreate" ||
		!strings.Contains(live.Status.Conditions[i].Message, "no-such-class") {
		t.Errorf("conditions = %+v", live.Status.Conditions)
	}
	s.expectEvents("FailedCreate: Error creating: pods \"web-")
}

// TestHistoryLimit keeps as many old replica sets as the deployment says.
func TestHistoryLimit(t *testing.T) {
	limit := int32(2)
	d := deploymentOf("web", 1, "zero")
	d.Spec.RevisionHistoryLimit = &limit
	s := shop(t, 13, d)
	for n := range 5 {
		d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("image-", n)
		s.put(d)
		s.settle()
	}
	if n := s.store.View().Len(kinds.For[*appsv1.ReplicaSet]().GroupResource()); n != 3 {
		t.Errorf("%d replica sets, want the new one and 2 old", n)
	}
}
