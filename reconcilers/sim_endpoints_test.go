package reconcilers

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/store/view"
)

// TestHandWrittenEndpoints pushes, changes and prunes Endpoints while their service comes, goes, selects pods and does not, and
// while somebody else's slice of it does. At rest the Endpoints that are stated are as stated, their slices say the same where the
// service selects nothing, and those of the service are what its slices make of it where nobody states them.
func TestHandWrittenEndpoints(t *testing.T) {
	for seed := range short.Of(100) {
		s := shop(t, seed, deploymentOf("web", 2, "one"))
		s.faults = 20
		key := kinds.For[*corev1.Endpoints]().Key("shop", "web")
		service := kinds.For[*corev1.Service]().Key("shop", "web")
		other := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "other", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
			},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"203.0.113.9"}}},
			Ports: []discoveryv1.EndpointPort{{Port: new(int32(9))}},
		}
		var pushed *corev1.Endpoints
		there := func(k kinds.Key) bool { return s.store.View().Get(k) != nil }
		for step := range 12 {
			switch s.rand.IntN(6) {
			case 0, 1:
				e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
				for i := range 1 + s.rand.IntN(3) {
					e.Subsets = append(e.Subsets, corev1.EndpointSubset{
						Addresses: []corev1.EndpointAddress{{IP: fmt.Sprintf("192.0.2.%d", 1+s.rand.IntN(20))}},
						Ports:     []corev1.EndpointPort{{Name: fmt.Sprint("p", i), Port: int32(80 + i)}},
					})
				}
				s.stated[key], pushed = true, e
				if old, ok := s.store.View().Get(key).(*corev1.Endpoints); ok {
					e.ObjectMeta = *old.ObjectMeta.DeepCopy() // sync changes what the file states, and no more
				}
				s.put(e)
			case 2:
				s.stated[key] = false
				if there(key) {
					s.delete(key)
				}
			case 3:
				svc := serviceOf("web")
				if s.rand.IntN(2) == 0 {
					svc.Spec.Selector = nil
				}
				s.put(svc)
			case 4:
				if there(service) {
					s.delete(service)
				}
			case 5:
				if there(kinds.KeyOf(other)) {
					s.delete(kinds.KeyOf(other))
				} else {
					s.put(other)
				}
			}
			s.run(s.rand.IntN(30))
			if step%3 == 2 {
				s.settle()
				if s.stated[key] && !there(key) { // with the service whose they were when they were pushed: sync repairs that
					pushed.ObjectMeta = metav1.ObjectMeta{Namespace: "shop", Name: "web"}
					s.put(pushed)
					s.settle()
				}
				checkEndpoints(t, seed, s.store.View(), s.stated[key])
			}
		}
	}
}

func checkEndpoints(t *testing.T, seed uint64, v *view.View, stated bool) {
	t.Helper()
	e, there := view.Get[*corev1.Endpoints](v, "shop", "web")
	svc, served := view.Get[*corev1.Service](v, "shop", "web")
	if stated && (!there || metav1.GetControllerOf(e) != nil) {
		t.Fatalf("seed %d: what is stated is %+v", seed, e)
	}
	var mirrored, all []string
	for slice := range v.SlicesOfService("shop", "web") {
		for _, endpoint := range slice.Endpoints {
			for _, port := range slice.Ports {
				text := fmt.Sprint(endpoint.Addresses[0], ":", *port.Port)
				if slice.Labels[discoveryv1.LabelManagedBy] == kinds.SliceMirror {
					mirrored = append(mirrored, text)
				} else {
					all = append(all, text)
				}
			}
		}
	}
	var said []string
	if there {
		for _, subset := range e.Subsets {
			for _, a := range subset.Addresses {
				for _, port := range subset.Ports {
					said = append(said, fmt.Sprint(a.IP, ":", port.Port))
				}
			}
		}
	}
	want := mirrored
	switch {
	case stated && (!served || len(svc.Spec.Selector) > 0):
		if len(mirrored) > 0 {
			t.Fatalf("seed %d: mirrored %v", seed, mirrored)
		}
		return
	case !stated && there:
		want = all
	case !stated && !there && served && len(all) > 0:
		t.Fatalf("seed %d: there are no Endpoints of %v", seed, all)
	}
	slices.Sort(said)
	slices.Sort(want)
	if !slices.Equal(slices.Compact(said), slices.Compact(want)) {
		t.Fatalf("seed %d: Endpoints say %v, slices %v", seed, said, want)
	}
}
