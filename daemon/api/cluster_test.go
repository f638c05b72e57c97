package api

import (
	"encoding/json"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(namespace + "-" + name + "-uid"),
		CreationTimestamp: metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func owned(m metav1.ObjectMeta, kind string, owner metav1.Object) metav1.ObjectMeta {
	yes := true
	m.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "apps/v1", Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes,
	}}
	return m
}

// testPod is a running pod on a node; it uses the Secret and the ConfigMap named after it.
func testPod(namespace, name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named(namespace, name)}
	p.Labels = map[string]string{"app": "cart"}
	p.Spec.NodeName = node
	p.Spec.Containers = []corev1.Container{{
		Name: "main", Image: "registry.example/cart:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
		EnvFrom: []corev1.EnvFromSource{{
			SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
		}},
	}}
	p.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
	}}}
	if node != "" {
		p.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.42.0.5", PodIPs: []corev1.PodIP{{IP: "10.42.0.5"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "main", Ready: true, Image: "registry.example/cart:1",
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		}
	}
	strategy.Default(p)
	return p
}

func testNode(name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: named("", name)}
	n.Labels = map[string]string{corev1.LabelHostname: name}
	n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.42.0.0/24", []string{"10.42.0.0/24"}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	n.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourcePods: resource.MustParse("110")}
	n.Status.Allocatable = n.Status.Capacity
	n.Status.NodeInfo = corev1.NodeSystemInfo{
		KubeletVersion:          "v1.37.2",
		OSImage:                 "Debian",
		KernelVersion:           "6.1",
		ContainerRuntimeVersion: "containerd://1.6.20",
	}
	return n
}

// testCluster is one of every kind: a deployment with its replica set and pods on two nodes, behind a service.
func testCluster() []kinds.Object {
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "cart"}},
		Spec:       testPod("", "", "").Spec,
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}}
	two := int32(2)
	deployment := &appsv1.Deployment{
		ObjectMeta: named("shop", "cart"),
		Spec:       appsv1.DeploymentSpec{Replicas: &two, Selector: selector, Template: template},
	}
	deployment.Generation = 1
	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: 1, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2,
		Conditions: []appsv1.DeploymentCondition{{
			Type:   appsv1.DeploymentAvailable,
			Status: corev1.ConditionTrue,
			Reason: "MinimumReplicasAvailable",
		}},
	}
	set := &appsv1.ReplicaSet{
		ObjectMeta: owned(named("shop", "cart-1"), "Deployment", deployment),
		Spec:       appsv1.ReplicaSetSpec{Replicas: &two, Selector: selector, Template: template},
	}
	set.Status = appsv1.ReplicaSetStatus{Replicas: 2, ReadyReplicas: 2, AvailableReplicas: 2}
	one, other := testPod("shop", "cart-1-a", "n1"), testPod("shop", "cart-1-b", "n2")
	one.ObjectMeta = owned(one.ObjectMeta, "ReplicaSet", set)
	other.ObjectMeta = owned(other.ObjectMeta, "ReplicaSet", set)
	service := &corev1.Service{ObjectMeta: named("shop", "cart"), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.43.0.20", ClusterIPs: []string{"10.43.0.20"}, Selector: selector.MatchLabels,
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
	}}
	yes, port, protocol, portName := true, int32(8080), corev1.ProtocolTCP, "http"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: named("shop", "cart-x"), AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.5"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
		Ports:     []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "cart"}
	source := &v1alpha1.Source{ObjectMeta: named("", "main")}
	source.Spec = v1alpha1.SourceSpec{URL: "https://bot:hunter2@git.example/shop.git", Branch: "main"}
	source.Status = v1alpha1.SourceStatus{
		Seen: "abc123", Accepted: "abc123", Applied: "abc123", State: "success",
		Message: "5 objects in sync and healthy", Objects: 5, Healthy: 5,
	}
	event := &corev1.Event{
		ObjectMeta: named("shop", "cart-1-a.1"), Reason: "Started", Message: "Started container main",
		Type: corev1.EventTypeNormal, Count: 1,
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "shop", Name: "cart-1-a", UID: one.UID},
		Source:         corev1.EventSource{Component: "kubelet", Host: "n1"},
		FirstTimestamp: one.CreationTimestamp, LastTimestamp: one.CreationTimestamp,
	}
	holder, renewed := "n1", metav1.NewMicroTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	lease := &coordinationv1.Lease{
		ObjectMeta: named("kube-node-lease", "n1"),
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &renewed},
	}
	namespace := &corev1.Namespace{ObjectMeta: named("", "shop"), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
	objects := []kinds.Object{
		source, namespace, testNode("n1"), testNode("n2"), lease, &corev1.ServiceAccount{ObjectMeta: named("shop", "default")},
		&corev1.Secret{ObjectMeta: named("shop", "cart-1-a"), Data: map[string][]byte{"password": []byte("canary-7f3a")}},
		&corev1.Secret{ObjectMeta: named("shop", "cart-1-b"), Data: map[string][]byte{"password": []byte("canary-7f3b")}},
		&corev1.ConfigMap{ObjectMeta: named("shop", "cart-1-a"), Data: map[string]string{"k": "v"}},
		&corev1.ConfigMap{ObjectMeta: named("shop", "cart-1-b"), Data: map[string]string{"k": "v"}},
		service, deployment, set, one, other, slice, event,
	}
	for _, o := range objects {
		strategy.Default(o)
	}
	return objects
}

// record is an inventory record, as sync writes it, of an object of source main.
func (s *testServer) record(key kinds.Key, file string, line int) *view.Record {
	s.t.Helper()
	data, err := json.Marshal(map[string]any{
		"source": "main", "key": key, "file": file, "line": line, "commit": "abc123", "author": "Ada <ada@example.com>",
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return &view.Record{Table: string(plan.Inventory), Name: "main/" + key.Path(), Data: data}
}

// declare stores an inventory record.
func (s *testServer) declare(key kinds.Key, file string, line int) {
	s.t.Helper()
	s.commit(store.Write{Record: s.record(key, file, line), If: store.Anyway, Reason: "test"})
}

// declareAll says where the deployment and the service come from.
func (s *testServer) declareAll() {
	s.declare(kinds.Key{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "cart"}, "shop/cart.yaml", 14)
	s.declare(kinds.Key{Resource: "services", Namespace: "shop", Name: "cart"}, "shop/cart.yaml", 60)
}
