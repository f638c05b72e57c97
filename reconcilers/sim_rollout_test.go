package reconcilers

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/reconcilers/apiservers"
	"lockstep/reconcilers/looptest"
	"lockstep/store/view"
)

func namespaceOf(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// TestClusterComesUp: the cluster's own objects are there, valid by Kubernetes' rules, and nothing more is written once
// they are.
func TestClusterComesUp(t *testing.T) {
	s := newSim(t, 1)
	v := s.store.View()
	for _, name := range []string{"default", "kube-system", "kube-node-lease"} {
		if _, ok := view.Get[*corev1.Namespace](v, "", name); !ok {
			t.Errorf("no namespace %s", name)
		}
		if _, ok := view.Get[*corev1.ServiceAccount](v, name, "default"); !ok {
			t.Errorf("no default service account in %s", name)
		}
	}
	api, _ := view.Get[*corev1.Service](v, "default", "kubernetes")
	if api == nil || api.Spec.ClusterIP != "10.43.0.1" {
		t.Errorf("default/kubernetes = %v", api)
	}
	dns, _ := view.Get[*corev1.Service](v, "kube-system", "kube-dns")
	if dns == nil || dns.Spec.ClusterIP != "10.43.0.10" {
		t.Errorf("kube-system/kube-dns = %v", dns)
	}
	slice, _ := view.Get[*discoveryv1.EndpointSlice](v, "default", "kubernetes")
	if slice == nil || len(slice.Endpoints) != 1 || slice.Endpoints[0].Addresses[0] != "192.0.2.1" || *slice.Ports[0].Port != 6443 {
		t.Errorf("slice of default/kubernetes = %v", slice)
	}
	cidrs := map[string]bool{}
	for node := range view.List[*corev1.Node](v, "") {
		cidrs[node.Spec.PodCIDR] = true
	}
	if len(cidrs) != 3 || !cidrs["10.42.0.0/24"] || !cidrs["10.42.1.0/24"] || !cidrs["10.42.2.0/24"] {
		t.Errorf("pod CIDRs = %v", cidrs)
	}
	before := writes(s)
	s.clock.Step(time.Minute)
	s.beat()
	s.settle()
	if after := writes(s); after != before {
		t.Errorf("an idle cluster wrote %d times", after-before)
	}
}

// writes counts revisions that are not heartbeats, nor renewals of the API server's lease.
func writes(s *sim) (n int) {
	_, changes, _ := s.store.History(s.t.Context(), 0, s.store.View().Revision())
	for _, c := range changes {
		if c.New == nil || !apiservers.Is(c.New) {
			n++
		}
	}
	return n
}

// TestRollouts drives rolling updates of random shapes through random orders of events, and checks after every single
// write that there are never more pods than allowed, and never fewer available.
func TestRollouts(t *testing.T) {
	for seed := range short.Of(120) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSim(t, seed)
			s.put(namespaceOf("shop"))
			d := deploymentOf("web", 1+s.rand.Int32N(8), "one")
			shapes := []intstr.IntOrString{
				intstr.FromInt32(0), intstr.FromInt32(1), intstr.FromInt32(3), intstr.FromString("25%"),
				intstr.FromString("50%"),
			}
			surge, unavailable := shapes[s.rand.IntN(len(shapes))], shapes[s.rand.IntN(len(shapes))]
			if surge.IntValue() == 0 && surge.Type == intstr.Int && unavailable.IntValue() == 0 && unavailable.Type == intstr.Int {
				surge = shapes[1]
			}
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}
			d.Spec.MinReadySeconds = s.rand.Int32N(3)
			s.put(d)
			s.settle()
			s.expectDone(d, "one")

			most, least := bounds(d)
			s.check = func() {
				list, available := s.active(s.get("web"))
				if len(list) > most {
					t.Fatalf("%d pods, allowed are %d", len(list), most)
				}
				if available < least {
					t.Fatalf("%d pods available, at least %d must be", available, least)
				}
			}
			s.faults = s.rand.IntN(30)
			for n := range 1 + s.rand.IntN(4) {
				d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("image-%d", s.rand.IntN(3))
				d.Annotations = map[string]string{"push": fmt.Sprint(n)}
				s.put(d)
				s.run(s.rand.IntN(120))
			}
			s.settle()
			s.expectDone(d, d.Spec.Template.Spec.Containers[0].Image)
		})
	}
}

// bounds are the most pods and the fewest available ones that Kubernetes promises during a rolling update.
func bounds(d *appsv1.Deployment) (most, least int) {
	replicas := int(*d.Spec.Replicas)
	surge, _ := intstr.GetScaledValueFromIntOrPercent(d.Spec.Strategy.RollingUpdate.MaxSurge, replicas, true)
	unavailable, _ := intstr.GetScaledValueFromIntOrPercent(d.Spec.Strategy.RollingUpdate.MaxUnavailable, replicas, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return replicas + surge, replicas - unavailable
}

// expectDone wants exactly the deployment's pods, of the image, and a status that says so.
func (s *sim) expectDone(d *appsv1.Deployment, image string) {
	s.t.Helper()
	live := s.get(d.Name)
	list, available := s.active(live)
	if len(list) != int(*d.Spec.Replicas) || available != len(list) {
		s.t.Errorf("%d pods, %d of them available; want %d", len(list), available, *d.Spec.Replicas)
	}
	for _, p := range list {
		if p.Spec.Containers[0].Image != image {
			s.t.Errorf("pod %s has image %s, want %s", p.Name, p.Spec.Containers[0].Image, image)
		}
	}
	st := live.Status
	if st.ObservedGeneration != live.Generation || st.Replicas != *d.Spec.Replicas || st.UpdatedReplicas != st.Replicas ||
		st.ReadyReplicas != st.Replicas || st.AvailableReplicas != st.Replicas || st.UnavailableReplicas != 0 {
		s.t.Errorf("status = %+v, generation %d", st, live.Generation)
	}
	progressing := ""
	for _, c := range st.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			progressing = c.Reason
		}
	}
	if progressing != "NewReplicaSetAvailable" && st.Replicas > 0 {
		s.t.Errorf("Progressing says %q", progressing)
	}
}

// TestEverythingAtOnce lets a deployment be scaled, paused, changed, and its pods be killed and relabelled, in random
// orders, and wants it whole in the end.
func TestEverythingAtOnce(t *testing.T) {
	for seed := range short.Of(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSim(t, 1000+seed)
			s.faults = s.rand.IntN(30)
			s.put(namespaceOf("shop"))
			d := deploymentOf("web", 4, "one")
			if seed%4 == 3 {
				d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
				s.check = func() { s.expectOneTemplate() }
			}
			s.put(d)
			pictures := map[*view.View]string{}
			for range 12 {
				if v := s.store.View(); seed%10 == 0 { // a picture takes longer than all else
					pictures[v] = looptest.Fingerprint(v)
				}
				switch s.rand.IntN(6) {
				case 0:
					replicas := s.rand.Int32N(8)
					d.Spec.Replicas = &replicas
				case 1:
					d.Spec.Paused = !d.Spec.Paused
				case 2, 3:
					d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("image-%d", s.rand.IntN(3))
				case 4:
					if list, _ := s.active(s.get("web")); len(list) > 0 {
						s.delete(kinds.KeyOf(list[s.rand.IntN(len(list))]))
					}
				case 5:
					if list, _ := s.active(s.get("web")); len(list) > 0 && seed%4 != 3 {
						p := list[s.rand.IntN(len(list))].DeepCopy()
						p.Labels["app"] = "debug"
						s.put(p)
					}
				}
				s.put(d)
				s.run(s.rand.IntN(60))
			}
			d.Spec.Paused = false
			s.put(d)
			s.settle()
			s.expectDone(d, d.Spec.Template.Spec.Containers[0].Image)
			for v, before := range pictures {
				if looptest.Fingerprint(v) != before {
					t.Errorf("an object of the view at revision %d was changed", v.Revision())
				}
			}
		})
	}
}

// expectOneTemplate: with Recreate no two templates' pods run at the same time.
func (s *sim) expectOneTemplate() {
	s.t.Helper()
	d, ok := view.Get[*appsv1.Deployment](s.store.View(), "shop", "web")
	if !ok {
		return
	}
	sets := map[string]bool{}
	for rs := range s.store.View().Controlled(d.UID) {
		for o := range s.store.View().Controlled(rs.GetUID()) {
			if p, ok := o.(*corev1.Pod); ok && p.Labels["app"] == "web" && p.Status.Phase != corev1.PodFailed {
				sets[rs.GetName()] = true
			}
		}
	}
	if len(sets) > 1 {
		s.t.Fatalf("pods of %d templates exist: %v", len(sets), sets)
	}
}
