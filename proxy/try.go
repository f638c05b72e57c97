package proxy

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/internal/thread"
	"lockstep/proxy/rules"
)

// Try makes the service link and rules of every form in a network namespace of its own, which ends with it, and returns
// what kept it from that: programs that are absent, what the kernel lacks, and what this process may not do are all
// found so. The machine's own links and rules stay as they are.
func Try(ctx context.Context) error {
	b, err := detect(ctx, rules.IPv4)
	if err != nil {
		return err
	}
	return thread.Own(func() error { return b.try(ctx) })
}

func (b *backend) try(ctx context.Context) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot make a network namespace: %w", err)
	}
	in := example()
	if _, err := ensureLink(in, rules.IPv4); err != nil {
		return err
	}
	want := rules.NewCompiler(rules.IPv4).Compile(in).Chains
	text, _ := toward(observed{}, want, nil).text()
	if err := b.restore(ctx, text); err != nil {
		return fmt.Errorf("cannot write service rules: %w", err)
	}
	return nil
}

// example is an input whose rules have every match and target that a service can ask for.
func example() rules.Input {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	name, local, udp := "p", "here", corev1.ProtocolUDP
	in := rules.Input{
		Node: rules.Node{
			Name:      local,
			Addresses: []netip.Addr{addr("192.0.2.1")},
			PodCIDRs:  []netip.Prefix{prefix("10.42.0.0/24")},
		},
		PodNetworks:     []netip.Prefix{prefix("10.42.0.0/16")},
		ServiceNetworks: []netip.Prefix{prefix("10.43.0.0/16")},
		LocalServices:   []netip.Addr{addr("10.43.0.10")},
		LocalhostPorts:  true,
		HostPorts:       []rules.HostPort{{Pod: "a/b", PodIP: addr("10.42.0.2"), Port: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}},
	}
	for i, ports := range [][]corev1.Protocol{{corev1.ProtocolTCP, udp}, {udp}} {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: string(rune('a' + i))}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: fmt.Sprintf("10.43.1.%d", i+1),
			ExternalIPs:     []string{fmt.Sprintf("192.0.2.%d", i+10)},
			SessionAffinity: corev1.ServiceAffinityClientIP, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
		}}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "a",
				Name:      service.Name,
				Labels:    map[string]string{discoveryv1.LabelServiceName: service.Name},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
		}
		for j, protocol := range ports {
			portName, number := name+string(rune('a'+j)), int32(80+j)
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: portName, Protocol: protocol, Port: number,
				TargetPort: intstr.FromInt32(number), NodePort: 30000 + int32(10*i) + number})
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &portName, Protocol: &protocol, Port: &number})
		}
		if i == 0 { // the other one has nobody behind it
			for _, a := range []string{"10.42.0.2", "10.42.0.3", "10.42.1.2"} {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &local})
			}
		}
		in.Services, in.Slices = append(in.Services, service), append(in.Slices, slice)
	}
	return in
}
