// Package cluster makes the objects that every cluster has.
package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/ingress"
	"lockstep/reconcilers/apiservers"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// Options say where the cluster's own services are.
type Options struct {
	// API is the service address of the API servers, one a family; empty: no service.
	API []netip.Addr
	// Services are the service networks, one a family; empty: no ServiceCIDR.
	Services []netip.Prefix
	// DNS is the service address of the cluster's DNS, one a family; empty: no service.
	DNS []netip.Addr
	// Stated says that a source states an object, or is about to; nil: none does.
	Stated func(*view.View, kinds.Key) bool
}

// unselected is why slices are shared with the loop that makes them of pods.
const unselected = "the API servers' service selects no pods"

// New returns the reconciler of the cluster's own namespaces, classes and services.
func New(o Options) loop.Reconciler {
	all := func(kind *kinds.Kind, how string) loop.Read {
		return loop.Read{Kind: kind, How: how, Keys: own}
	}
	return loop.Reconciler{
		Name:      "cluster",
		Component: "cluster-controller",
		Single:    true,
		Records:   true,
		Reads: []loop.Read{
			all(kinds.For[*corev1.Namespace](), "the cluster's own"),
			all(kinds.For[*schedulingv1.PriorityClass](), "the cluster's own"),
			{Kind: kinds.For[*networkingv1.ServiceCIDR](), How: "the cluster's own", Keys: loop.Cluster},
			{Kind: kinds.For[*storagev1.StorageClass](), How: "the cluster's own", Keys: ofStorage},
			{Kind: kinds.For[*networkingv1.IngressClass](), How: "the cluster's own", Keys: ofIngress},
			all(kinds.For[*corev1.Service](), "the cluster's own"),
			all(kinds.For[*discoveryv1.EndpointSlice](), "the API servers'"),
			{Kind: kinds.For[*coordinationv1.Lease](), How: "an API server's, unless it was renewed in time", Keys: ofServer,
				Changed: apiservers.Changed},
		},
		Writes: []loop.Write{
			{Kind: kinds.For[*corev1.Namespace](), Create: true},
			{Kind: kinds.For[*schedulingv1.PriorityClass](), Create: true},
			{Kind: kinds.For[*networkingv1.ServiceCIDR](), Create: true, Delete: true, Fields: []string{"status.conditions"}},
			{Kind: kinds.For[*storagev1.StorageClass](), Create: true},
			{Kind: kinds.For[*networkingv1.IngressClass](), Create: true},
			{
				Kind: kinds.For[*corev1.Service](), Create: true, Fields: []string{"spec.type", "spec.selector", "spec.ports"},
				Shared: map[string]string{"spec.ports": "the cluster's own services have no node ports, which are all that is allocated"},
			},
			{
				Kind: kinds.For[*discoveryv1.EndpointSlice](), Create: true, Fields: []string{"metadata.labels", "endpoints", "ports"},
				Shared: map[string]string{"metadata.labels": unselected, "endpoints": unselected, "ports": unselected},
			},
			{Kind: kinds.For[*coordinationv1.Lease](), Delete: true},
		},
		Decide: func(v *view.View, _ kinds.Key, now time.Time) (loop.Decision, error) { return decide(v, o, now), nil },
	}
}

func own(_ *view.View, o kinds.Object) []kinds.Key {
	name := o.GetNamespace() + "/" + o.GetName()
	if slices.Contains(namespaces(), o.GetName()) || admission.SystemClass(o.GetName()) ||
		name == "kube-system/kube-dns" || name == "default/kubernetes" ||
		strings.HasPrefix(name, "default/kubernetes-ipv") {
		return []kinds.Key{loop.ClusterKey()}
	}
	return nil
}

func ofServer(_ *view.View, o kinds.Object) []kinds.Key {
	if !apiservers.Is(o) {
		return nil
	}
	return []kinds.Key{loop.ClusterKey()}
}

func ofStorage(_ *view.View, o kinds.Object) []kinds.Key {
	if o.GetName() != kinds.LocalPathClass {
		return nil
	}
	return []kinds.Key{loop.ClusterKey()}
}

func ofIngress(_ *view.View, o kinds.Object) []kinds.Key {
	if o.GetName() != ingress.Class {
		return nil
	}
	return []kinds.Key{loop.ClusterKey()}
}

func namespaces() []string { return []string{"default", "kube-system", "kube-node-lease"} }

func decide(v *view.View, o Options, now time.Time) loop.Decision {
	servers, until := apiservers.Running(v, now)
	d := loop.Decision{Again: until}
	for _, lease := range apiservers.Gone(v, now) {
		d.Drops = append(d.Drops, loop.DropOf(lease, "its API server has been gone for long"))
	}
	complete := true
	for _, name := range namespaces() {
		if _, ok := view.Get[*corev1.Namespace](v, "", name); ok {
			continue
		}
		complete = false
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		d.Wants = append(d.Wants, loop.Want{Object: ns, Reason: "every cluster has it"})
	}
	for _, class := range admission.SystemClasses() {
		if _, ok := view.Get[*schedulingv1.PriorityClass](v, "", class.Name); !ok {
			d.Wants = append(d.Wants, loop.Want{Object: class, Reason: "every cluster has it"})
		}
	}
	serviceNetworks(v, o.Services, now, &d)
	for _, class := range []kinds.Object{storageClass(), ingressClass(v)} {
		if key := kinds.KeyOf(class); v.Get(key) == nil && (o.Stated == nil || !o.Stated(v, key)) {
			d.Wants = append(d.Wants, loop.Want{Object: class, Reason: "every cluster has it"})
		}
	}
	if !complete {
		return d // what lives in them comes next, which the namespaces' creation wakes
	}
	if len(o.API) > 0 {
		d.Wants = append(d.Wants, wantService(v, apiService(o.API, servers)))
		for _, addr := range o.API {
			if slice := apiSlice(addr, servers); len(slice.Endpoints) > 0 {
				d.Wants = append(d.Wants, wantSlice(v, slice))
			}
		}
	}
	if len(o.DNS) > 0 {
		d.Wants = append(d.Wants, wantService(v, dnsService(o.DNS)))
	}
	return d
}

// serviceNetworks keeps the ServiceCIDR that Kubernetes' API server makes of its flags, under its name and with its words. The networks
// of one cannot be changed: a cluster that was given others gets another object.
func serviceNetworks(v *view.View, networks []netip.Prefix, now time.Time, d *loop.Decision) {
	if len(networks) == 0 {
		return
	}
	want := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}}
	for _, n := range networks {
		want.Spec.CIDRs = append(want.Spec.CIDRs, n.Masked().String())
	}
	switch old, ok := view.Get[*networkingv1.ServiceCIDR](v, "", want.Name); {
	case !ok:
		d.Wants = append(d.Wants, loop.Want{Object: want, Reason: "every cluster has it"})
	case !slices.Equal(old.Spec.CIDRs, want.Spec.CIDRs):
		d.Drops = append(d.Drops, loop.DropOf(old, "the cluster has other service networks"))
	case len(old.Status.Conditions) == 0:
		changed := old.DeepCopy()
		changed.Status.Conditions = []metav1.Condition{{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(now),
			Message: "Kubernetes default Service CIDR is ready",
		}}
		d.Wants = append(d.Wants, loop.Want{Object: changed, Reason: "it is in use"})
	}
}

// storageClass is the class of claims that name none. It is made where there is no other of its name, and then left alone: a source
// may state it, too.
func storageClass() *storagev1.StorageClass {
	late, remove, grows := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete, true
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: kinds.LocalPathClass, Annotations: map[string]string{
			"storageclass.kubernetes.io/is-default-class": "true",
		}},
		Provisioner: kinds.LocalPath, VolumeBindingMode: &late, ReclaimPolicy: &remove, AllowVolumeExpansion: &grows,
	}
}

// ingressClass is the class of what the nodes serve themselves, and of Ingresses that name none, unless those have another one by then.
// It is made as the class of claims is.
func ingressClass(v *view.View) *networkingv1.IngressClass {
	c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: ingress.Class},
		Spec: networkingv1.IngressClassSpec{Controller: ingress.Controller}}
	known := ingress.Classes{}
	for other := range view.List[*networkingv1.IngressClass](v, "") {
		known[other.Name] = other
	}
	if ingress.Default(known) == nil {
		c.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	}
	return c
}

func wantService(v *view.View, want *corev1.Service) loop.Want {
	old, ok := view.Get[*corev1.Service](v, want.Namespace, want.Name)
	if !ok {
		return loop.Want{Object: want, Reason: "every cluster has it"}
	}
	changed := old.DeepCopy()
	changed.Spec.Type, changed.Spec.Selector, changed.Spec.Ports = want.Spec.Type, want.Spec.Selector, want.Spec.Ports
	if equality.Semantic.DeepEqual(changed, old) {
		return loop.Want{Object: old, Reason: "as it should be"}
	}
	return loop.Want{Object: changed, Reason: "differs from what it is in every cluster"}
}

func wantSlice(v *view.View, want *discoveryv1.EndpointSlice) loop.Want {
	old, ok := view.Get[*discoveryv1.EndpointSlice](v, want.Namespace, want.Name)
	if !ok {
		return loop.Want{Object: want, Reason: "API servers are running"}
	}
	changed := old.DeepCopy()
	changed.Labels, changed.Endpoints, changed.Ports = want.Labels, want.Endpoints, want.Ports
	if equality.Semantic.DeepEqual(changed, old) {
		return loop.Want{Object: old, Reason: "as it should be"}
	}
	return loop.Want{Object: changed, Reason: "the API servers' addresses changed"}
}

// apiService is default/kubernetes, as Kubernetes' API server makes it.
func apiService(addrs []netip.Addr, servers []netip.AddrPort) *corev1.Service {
	port := int32(6443)
	if len(servers) > 0 {
		port = int32(servers[0].Port())
	}
	return service("default", "kubernetes", map[string]string{"component": "apiserver", "provider": "kubernetes"}, addrs,
		corev1.ServicePort{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(port)})
}

// LabelProxy tells proxies to leave a service alone unless they are the one that its value names: Kubernetes'
// LabelServiceProxyName (k8s.io/kubernetes/pkg/proxy/apis).
const LabelProxy = "service.kubernetes.io/service-proxy-name"

// dnsService is kube-system/kube-dns under the name that tools look for. It has no endpoints, and no proxy may refuse
// its address for that: every node answers there itself.
func dnsService(addrs []netip.Addr) *corev1.Service {
	labels := map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "LockstepDNS", LabelProxy: "lockstep-dns"}
	return service("kube-system", "kube-dns", labels, addrs,
		corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)},
		corev1.ServicePort{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(53)})
}

func service(namespace, name string, labels map[string]string, addrs []netip.Addr, ports ...corev1.ServicePort) *corev1.Service {
	cluster, none, policy := corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceAffinityNone, corev1.IPFamilyPolicySingleStack
	if len(addrs) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Ports: ports, ClusterIP: addrs[0].String(),
			IPFamilyPolicy: &policy, SessionAffinity: none, InternalTrafficPolicy: &cluster,
		},
	}
	for _, addr := range addrs {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, addr.String())
		family := corev1.IPv4Protocol
		if addr.Is6() {
			family = corev1.IPv6Protocol
		}
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, family)
	}
	return s
}

// apiSlice is the slice of the API servers, which are sorted, of the address's family. Kubernetes names the first family's like the
// service; so does this.
func apiSlice(addr netip.Addr, servers []netip.AddrPort) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "kubernetes",
			Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	if addr.Is6() {
		slice.Name, slice.AddressType = "kubernetes-ipv6", discoveryv1.AddressTypeIPv6
	}
	ready := true
	name, protocol := "https", corev1.ProtocolTCP
	for _, server := range servers {
		if server.Addr().Unmap().Is6() != addr.Is6() {
			continue
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{server.Addr().Unmap().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
		if len(slice.Ports) == 0 {
			port := int32(server.Port())
			slice.Ports = []discoveryv1.EndpointPort{{Name: &name, Protocol: &protocol, Port: &port}}
		}
	}
	return slice
}
