package endpoints

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestMoreThanOneObjectHolds(t *testing.T) {
	addresses := func(n int) (list []corev1.EndpointAddress) {
		for i := range n {
			list = append(list, corev1.EndpointAddress{IP: fmt.Sprintf("10.42.%d.%d", i/256, i%256)})
		}
		return list
	}
	kept, whole := cut([]corev1.EndpointSubset{
		{NotReadyAddresses: addresses(10)}, {Addresses: addresses(capacity - 5), NotReadyAddresses: addresses(3)},
		{NotReadyAddresses: addresses(1)},
	})
	if ready, rest := len(kept[0].Addresses), len(kept[0].NotReadyAddresses); whole || len(kept) != 2 || rest != 5 {
		t.Errorf("%d subsets, whole %v, the first with %d ready and %d not", len(kept), whole, ready, rest)
	}
	if kept, whole := cut([]corev1.EndpointSubset{{Addresses: addresses(capacity)}}); !whole || len(kept[0].Addresses) != capacity {
		t.Errorf("a full object is cut: whole %v, %d addresses", whole, len(kept[0].Addresses))
	}
}
