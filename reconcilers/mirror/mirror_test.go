package mirror

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestMoreThanOneSliceHolds: Kubernetes mirrors a thousand addresses of a subset, the ready ones first.
func TestMoreThanOneSliceHolds(t *testing.T) {
	addresses := func(from, n int) (list []corev1.EndpointAddress) {
		for i := from; i < from+n; i++ {
			list = append(list, corev1.EndpointAddress{IP: fmt.Sprintf("192.0.%d.%d", i/256, i%256)})
		}
		return list
	}
	port := []corev1.EndpointPort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	bad := []corev1.EndpointAddress{{IP: "nowhere"}}
	for _, c := range []struct {
		ready, unready  []corev1.EndpointAddress
		kept, keptReady int
		invalid, beyond int
	}{
		{addresses(0, capacity), nil, capacity, capacity, 0, 0},
		{addresses(0, capacity-1), addresses(2000, 3), capacity, capacity - 1, 0, 2},
		{append(bad, addresses(0, 10)...), addresses(2000, 3), 13, 10, 1, 0},
	} {
		e := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{Addresses: c.ready, NotReadyAddresses: c.unready, Ports: port}}}
		made, invalid, skipped := slicesOf(e)
		if len(made) != 1 || len(made[0].Endpoints) != c.kept || invalid != c.invalid || skipped != c.beyond {
			t.Fatalf("%d slices, %d invalid, %d skipped", len(made), invalid, skipped)
		}
		ready := 0
		for _, endpoint := range made[0].Endpoints {
			if *endpoint.Conditions.Ready {
				ready++
			}
		}
		if ready != c.keptReady {
			t.Errorf("%d of them are ready, want %d", ready, c.keptReady)
		}
	}
}
