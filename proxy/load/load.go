// Package load makes clusters of any size to measure a proxy with.
package load

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/proxy/rules"
)

// Input is a cluster of services of one TCP port, 80, at 10.43.x.y, each with endpoints at port
// 8080 of pods on other nodes. It holds up to 60,000 services. The last service's address is
// Address(services - 1).
func Input(services, endpoints int) rules.Input {
	in := rules.Input{
		Node: rules.Node{
			Name: "here", Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.1")},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")},
		},
		PodNetworks:     []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceNetworks: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		LocalServices:   []netip.Addr{netip.MustParseAddr("10.43.0.10")},
	}
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		in.Services = append(in.Services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "load", Name: name, ResourceVersion: "1"},
			Spec: corev1.ServiceSpec{
				ClusterIP: Address(i).String(),
				Ports:     []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
			},
		})
		port, portName, protocol := int32(8080), "http", corev1.ProtocolTCP
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "load", Name: name + "-1", ResourceVersion: "1",
				Labels: map[string]string{discoveryv1.LabelServiceName: name},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
		}
		for e := range endpoints {
			n := i*endpoints + e
			slice.Endpoints = append(slice.Endpoints, endpoint(fmt.Sprintf("10.42.%d.%d", 1+n/250%250, 1+n%250)))
		}
		in.Slices = append(in.Slices, slice)
	}
	return in
}

// Address is the cluster IP of the i-th service.
func Address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 43, byte(1 + i/250), byte(1 + i%250)})
}

// Change is the input with the first endpoint of the i-th service at another address, one of its
// own for each version. The input itself stays as it is.
func Change(in rules.Input, i, version int) rules.Input {
	slice := in.Slices[i].DeepCopy()
	slice.ResourceVersion = fmt.Sprintf("%d", version+2)
	slice.Endpoints[0] = endpoint(fmt.Sprintf("10.42.%d.%d", 251+version/250%4, 1+version%250))
	in.Slices = slices.Clone(in.Slices)
	in.Slices[i] = slice
	return in
}

func endpoint(address string) discoveryv1.Endpoint {
	node, ready := "there", true
	return discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
}
