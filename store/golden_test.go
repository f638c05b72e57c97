package store_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds what this release stores, by etcd key. Only a change of the data format may change it.
const golden = "testdata/values-format1.json"

// samples are objects of the kinds whose defaults Kubernetes has changed before.
func samples() []kinds.Object {
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Generation: 1,
			CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0)), Labels: map[string]string{"app": name, "tier": "x"},
		}
	}
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: "main", Image: "example/main:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/"}}},
		Env: []corev1.EnvVar{{
			Name:      "NODE",
			ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}},
		}},
	}}, Volumes: []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}},
	}}}}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: spec}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	prefix := networkingv1.PathTypePrefix
	return []kinds.Object{
		&corev1.Namespace{ObjectMeta: meta("", "shop")},
		&corev1.Node{ObjectMeta: meta("", "node-1")},
		&corev1.LimitRange{ObjectMeta: meta("shop", "limits"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		}}}},
		&corev1.ResourceQuota{ObjectMeta: meta("shop", "quota"), Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")},
		}},
		&schedulingv1.PriorityClass{ObjectMeta: meta("", "gold"), Value: 1000},
		&nodev1.RuntimeClass{ObjectMeta: meta("", "sandboxed"), Handler: "runsc", Overhead: &nodev1.Overhead{
			PodFixed: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("120Mi")}}},
		&networkingv1.IngressClass{ObjectMeta: meta("", "edge"), Spec: networkingv1.IngressClassSpec{Controller: "example.com/edge"}},
		&networkingv1.Ingress{ObjectMeta: meta("shop", "web"), Spec: networkingv1.IngressSpec{
			Rules: []networkingv1.IngressRule{{Host: "shop.example.org", IngressRuleValue: networkingv1.IngressRuleValue{
				HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix,
					Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web",
						Port: networkingv1.ServiceBackendPort{Name: "http"}}}}}}}}},
			TLS: []networkingv1.IngressTLS{{Hosts: []string{"shop.example.org"}, SecretName: "cert"}}}},
		&storagev1.StorageClass{ObjectMeta: meta("", "local"), Provisioner: "kubernetes.io/no-provisioner"},
		&storagev1.CSIDriver{ObjectMeta: meta("", "csi.example.com")},
		&storagev1.CSIStorageCapacity{ObjectMeta: meta("shop", "local-a"), StorageClassName: "local"},
		&corev1.PersistentVolume{ObjectMeta: meta("", "disk-1"), Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/disk-1"}},
		}},
		&corev1.PersistentVolumeClaim{ObjectMeta: meta("shop", "data"), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			},
		}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: meta("", "ada"), Subjects: []rbacv1.Subject{{Kind: "User", Name: "ada"}},
			RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: meta("shop", "staff"), Subjects: []rbacv1.Subject{{Kind: "Group", Name: "staff"}},
			RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "cart"},
		},
		&corev1.Secret{ObjectMeta: meta("shop", "s"), Data: map[string][]byte{"k": []byte("v")}},
		&corev1.ConfigMap{ObjectMeta: meta("shop", "c"), Data: map[string]string{"k": "v", "a": "b"}},
		&corev1.Service{ObjectMeta: meta("shop", "web"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}},
		&corev1.Pod{ObjectMeta: meta("shop", "web-1"), Spec: spec},
		&appsv1.ReplicaSet{ObjectMeta: meta("shop", "web-rs"), Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}},
		&appsv1.DaemonSet{ObjectMeta: meta("shop", "web-ds"), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
		&corev1.ReplicationController{ObjectMeta: meta("shop", "web-rc"), Spec: corev1.ReplicationControllerSpec{Template: &template}},
		&appsv1.Deployment{ObjectMeta: meta("shop", "web"), Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}},
		&policyv1.PodDisruptionBudget{ObjectMeta: meta("shop", "web"), Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector}},
		&appsv1.StatefulSet{ObjectMeta: meta("shop", "db"), Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}},
		&appsv1.ControllerRevision{ObjectMeta: meta("shop", "web-rev"), Revision: 1, Data: runtime.RawExtension{Raw: []byte(
			`{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"main"}]}}}}`)}},
		&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: meta("shop", "web"), Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MaxReplicas:    5,
		}},
		&batchv1.CronJob{ObjectMeta: meta("shop", "often"), Spec: batchv1.CronJobSpec{
			Schedule: "0 * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}},
		}},
		&batchv1.Job{ObjectMeta: meta("shop", "once"), Spec: batchv1.JobSpec{Selector: selector, Template: template}},
		&discoveryv1.EndpointSlice{ObjectMeta: meta("shop", "web-x"), AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.2"}}}},
		&corev1.Endpoints{ObjectMeta: meta("shop", "db"), Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "192.0.2.7"}}, Ports: []corev1.EndpointPort{{Port: 5432}},
		}}},
		&v1alpha1.Source{ObjectMeta: meta("", "apps"), Spec: v1alpha1.SourceSpec{URL: "https://git.example/apps.git"}},
	}
}

// TestSamples wants a sample of each kind that is declared, so that the next release is held to what this one stores.
func TestSamples(t *testing.T) {
	sampled := map[*kinds.Kind]bool{
		kinds.For[*corev1.ServiceAccount](): true, // has no defaults
		kinds.For[*corev1.PodTemplate]():    true, // has those of other templates
		kinds.For[*rbacv1.ClusterRole]():    true, // has none
		kinds.For[*rbacv1.Role]():           true, // has none
	}
	for _, o := range samples() {
		sampled[kinds.Of(o)] = true
	}
	for _, k := range kinds.All {
		if k.Declarable && !sampled[k] {
			t.Errorf("no sample of %s: add one, and write the golden file anew", k.Kind)
		}
	}
}

// TestGolden opens a store on the golden values: nothing is written, and writing each object back as it was read stores
// the same bytes. So neither a new release nor a new version of Kubernetes' libraries rolls what runs.
func TestGolden(t *testing.T) {
	client := etcdtest.Client(t)
	opts := store.Options{Default: strategy.Default, Version: "golden"}
	if *update {
		writeGolden(t, open(t, client, opts))
	}
	data, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]byte{}
	if err := json.Unmarshal(data, &values); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), client, opts); err != nil {
		t.Fatal(err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if _, err := client.Put(t.Context(), key, string(values[key])); err != nil {
			t.Fatal(err)
		}
	}
	before, err := client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, client, opts)
	v := wait(t, s, before.Header.Revision)
	for _, want := range samples() {
		if v.Get(kinds.KeyOf(want)) == nil {
			t.Errorf("%v is not in the view", kinds.KeyOf(want))
		}
	}
	if r, ok := v.Record("desired", "apps/core/pods/shop/web-1"); !ok || string(r.Data) != `{"source":"apps"}` {
		t.Errorf("record %s, %v", r.Data, ok)
	}
	if after, err := client.Get(t.Context(), "x"); err != nil || after.Header.Revision != before.Header.Revision {
		t.Errorf("opening wrote something: revision %d after %d, %v", after.Header.Revision, before.Header.Revision, err)
	}
	for _, want := range samples() {
		o := v.Get(kinds.KeyOf(want))
		commit(t, s, put(o, kinds.Revision(o)))
		key := "/lockstep/objects/" + kinds.KeyOf(o).Path()
		resp, err := client.Get(t.Context(), key)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%s: %v, %v", key, resp, err)
		}
		if string(resp.Kvs[0].Value) != string(values[key]) {
			t.Errorf("%v is stored differently than it was:\n%q\n%q", kinds.KeyOf(o), resp.Kvs[0].Value, values[key])
		}
	}
}

// writeGolden stores the samples as declared objects are, with defaults, and keeps the bytes.
func writeGolden(t *testing.T, s *store.Store) {
	for _, o := range samples() {
		strategy.Default(o)
		commit(t, s, put(o, store.Anyway))
	}
	rev := commit(t, s, store.Group{{If: store.Anyway, Record: &view.Record{
		Table: "desired", Name: "apps/core/pods/shop/web-1", Data: []byte(`{"source":"apps"}`),
	}}})
	wait(t, s, rev)
	values := store.RawValues(t, s)
	data, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(golden, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
