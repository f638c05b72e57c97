package strategy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
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
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/yaml"

	"lockstep/kinds"
	"lockstep/kinds/template"
	"lockstep/kinds/v1alpha1"
)

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "shop", Name: name}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "cart:1"}}}
}

func aDeployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: named(name), Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()},
	}}
}

func aReplicaSet(name string) *appsv1.ReplicaSet {
	d := aDeployment(name)
	return &appsv1.ReplicaSet{ObjectMeta: named(name), Spec: appsv1.ReplicaSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template}}
}

func aDaemonSet(name string) *appsv1.DaemonSet {
	d := aDeployment(name)
	return &appsv1.DaemonSet{ObjectMeta: named(name), Spec: appsv1.DaemonSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template}}
}

func aReplicationController(name string) *corev1.ReplicationController {
	d := aDeployment(name)
	return &corev1.ReplicationController{ObjectMeta: named(name), Spec: corev1.ReplicationControllerSpec{Template: &d.Spec.Template}}
}

func aJob(name string) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: named(name), Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: podSpec()}}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	return j
}

func aService(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: named(name), Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name},
		Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}
}

func aClaim(name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: named(name), Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		},
	}}
}

// examples has a valid, undefaulted object of every kind in the table.
func examples() []kinds.Object {
	cluster := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	ready, port, protocol := true, int32(80), corev1.ProtocolTCP
	holder, seconds, disk := "a", int32(40), "disk-1"
	return []kinds.Object{
		&v1alpha1.Source{ObjectMeta: cluster("shop"), Spec: v1alpha1.SourceSpec{URL: "https://git.example/shop.git"}},
		&corev1.Namespace{ObjectMeta: cluster("shop")},
		&corev1.Node{ObjectMeta: cluster("a")},
		&coordinationv1.Lease{
			ObjectMeta: named("a"),
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds},
		},
		&nodev1.RuntimeClass{ObjectMeta: cluster("sandboxed"), Handler: "runsc"},
		&schedulingv1.PriorityClass{ObjectMeta: cluster("gold"), Value: 1000},
		&storagev1.StorageClass{ObjectMeta: cluster("local"), Provisioner: "kubernetes.io/no-provisioner"},
		&networkingv1.IngressClass{ObjectMeta: cluster("edge"), Spec: networkingv1.IngressClassSpec{Controller: "example.com/edge"}},
		&networkingv1.Ingress{ObjectMeta: named("cart"), Spec: networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: "cart", Port: networkingv1.ServiceBackendPort{Number: 80}},
		}}},
		&networkingv1.ServiceCIDR{ObjectMeta: cluster("kubernetes"), Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.43.0.0/16"}}},
		&storagev1.CSIDriver{ObjectMeta: cluster("csi.example.com")},
		&storagev1.CSINode{ObjectMeta: cluster("a"), Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
			{Name: "csi.example.com", NodeID: "a", TopologyKeys: []string{"example.com/zone"}},
		}}},
		&storagev1.VolumeAttachment{ObjectMeta: cluster("csi-1"), Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "csi.example.com", NodeName: "a", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &disk},
		}},
		&storagev1.CSIStorageCapacity{ObjectMeta: named("cart"), StorageClassName: "local"},
		&corev1.PersistentVolume{ObjectMeta: cluster("disk-1"), Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/disk-1"}},
		}},
		aClaim("cart"),
		&corev1.LimitRange{ObjectMeta: named("cart"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		}}}},
		&corev1.ResourceQuota{ObjectMeta: named("cart"), Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")},
		}},
		&corev1.ServiceAccount{ObjectMeta: named("cart")},
		&rbacv1.ClusterRole{ObjectMeta: cluster("system:reader"), Rules: []rbacv1.PolicyRule{{
			Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"},
		}}},
		&rbacv1.Role{ObjectMeta: named("cart"), Rules: []rbacv1.PolicyRule{{
			Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"},
		}}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: cluster("system:reader"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:reader"},
		},
		&rbacv1.RoleBinding{ObjectMeta: named("cart"), RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "cart"}},
		&corev1.Secret{ObjectMeta: named("cart"), StringData: map[string]string{"password": "s3cret"}},
		&corev1.ConfigMap{ObjectMeta: named("cart"), Data: map[string]string{"colour": "red"}},
		aService("cart"),
		aDeployment("cart"),
		aReplicaSet("cart"),
		&policyv1.PodDisruptionBudget{ObjectMeta: named("cart"), Spec: policyv1.PodDisruptionBudgetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}},
		}},
		&appsv1.StatefulSet{ObjectMeta: named("cart"), Spec: appsv1.StatefulSetSpec{
			Selector: aDeployment("cart").Spec.Selector, Template: aDeployment("cart").Spec.Template,
		}},
		aDaemonSet("cart"),
		&appsv1.ControllerRevision{
			ObjectMeta: named("cart-6d4b"), Revision: 1,
			Data: runtime.RawExtension{Raw: []byte(`{"spec":{"template":{"$patch":"replace","spec":{"containers":[{"name":"main"}]}}}}`)},
		},
		aReplicationController("cart"),
		aJob("cart"),
		&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: named("cart"), Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "cart"},
			MaxReplicas:    5,
		}},
		&batchv1.CronJob{ObjectMeta: named("cart"), Spec: batchv1.CronJobSpec{
			Schedule: "*/5 * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: aJob("cart").Spec},
		}},
		&corev1.PodTemplate{ObjectMeta: named("cart"), Template: aDeployment("cart").Spec.Template},
		&corev1.Pod{ObjectMeta: named("cart"), Spec: podSpec()},
		&corev1.Endpoints{ObjectMeta: named("cart"), Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "10.42.0.2"}}, Ports: []corev1.EndpointPort{{Port: port, Protocol: protocol}},
		}}},
		&discoveryv1.EndpointSlice{
			ObjectMeta: named("cart"), AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{
				Addresses:  []string{"10.42.0.2"},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			}},
			Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}},
		},
		&corev1.Event{
			ObjectMeta:     named("cart.1"),
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "cart", APIVersion: "v1"},
			Reason:         "Started", Message: "Started container main", Type: corev1.EventTypeNormal,
		},
	}
}

func TestEveryKindIsCreatedUpdatedAndPrinted(t *testing.T) {
	seen := map[*kinds.Kind]bool{}
	for _, o := range examples() {
		k := kinds.Of(o)
		seen[k] = true
		t.Run(k.Kind, func(t *testing.T) {
			o.SetUID("1")
			o.SetResourceVersion("7")
			Default(o)
			twice := o.DeepCopyObject().(kinds.Object)
			Default(twice)
			if diff := cmp.Diff(o, twice); diff != "" {
				t.Errorf("defaulting twice changes the object:\n%s", diff)
			}
			if errs := PrepareCreate(o); len(errs) > 0 {
				t.Fatalf("PrepareCreate: %v", errs)
			}
			if counted := o.GetGeneration() == 1; counted != (k.Generation == kinds.Yes) {
				t.Errorf("Kubernetes counts its generation: %v; its row says %v", counted, k.Generation)
			}
			stored := o.DeepCopyObject().(kinds.Object)
			same := o.DeepCopyObject().(kinds.Object)
			same.SetResourceVersion("")
			if errs := PrepareUpdate(same, o); len(errs) > 0 {
				t.Fatalf("PrepareUpdate with no change: %v", errs)
			}
			if diff := cmp.Diff(stored, same); diff != "" {
				t.Errorf("an update with no change changes the object:\n%s", diff)
			}
			if diff := cmp.Diff(stored, o); diff != "" {
				t.Errorf("PrepareUpdate changed the old object:\n%s", diff)
			}
			if k.Status {
				if errs := PrepareStatus(same, o); len(errs) > 0 {
					t.Fatalf("PrepareStatus with no change: %v", errs)
				}
				if diff := cmp.Diff(stored, same); diff != "" {
					t.Errorf("a status update with no change changes the object:\n%s", diff)
				}
			}
			table, err := Table(k, []kinds.Object{o}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(table.Rows) != 1 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
				t.Errorf("table has %d rows, want 1 with %d cells", len(table.Rows), len(table.ColumnDefinitions))
			}
			if diff := cmp.Diff(stored, o); diff != "" {
				t.Errorf("Table changed the object:\n%s", diff)
			}
			for label, value := range SelectableFields(o) {
				if _, _, err := FieldSelector(k, label, value); err != nil {
					t.Errorf("cannot select by %s: %v", label, err)
				}
			}
		})
	}
	for _, k := range kinds.All {
		if !seen[k] {
			t.Errorf("no example of %s", k.Kind)
		}
	}
}

// The fields that Kubernetes' own strategies select by are the reference for ours.
func TestSelectableFieldsAreKubernetes(t *testing.T) {
	for _, o := range examples() {
		want := referenceFields(t, o)
		for label, value := range want {
			// Kubernetes keeps a few fields that no version of its API lets anybody name.
			if _, _, err := FieldSelector(kinds.Of(o), label, value); err != nil {
				delete(want, label)
			}
		}
		if diff := cmp.Diff(want, SelectableFields(o)); diff != "" {
			t.Errorf("%s: fields differ from Kubernetes' (-want +got):\n%s", kinds.KeyOf(o), diff)
		}
	}
}

// TestGracefulDeletion: where Kubernetes' strategy gives an object time to end, ours does.
func TestGracefulDeletion(t *testing.T) {
	graceful := 0
	for _, k := range kinds.All {
		r := registryOf(k)
		if _, ok := r.main.(rest.RESTGracefulDeleteStrategy); ok && r.remove == nil {
			t.Errorf("%s goes at once", k.Kind)
		} else if ok {
			graceful++
		}
		if k.Status != (r.status != nil) {
			t.Errorf("%s has a status: %v, and its strategy says otherwise", k.Kind, k.Status)
		}
	}
	if graceful == 0 {
		t.Error("no kind has a graceful deletion")
	}
}

func TestCreateRefuses(t *testing.T) {
	cases := map[string]struct {
		object kinds.Object
		want   string
	}{
		"a bad name":   {&corev1.ConfigMap{ObjectMeta: named("Cart_1")}, "metadata.name: Invalid value"},
		"no namespace": {&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cart"}}, "metadata.namespace: Required value"},
		"a bad label": {
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", Labels: map[string]string{"a b": "c"}}},
			"metadata.labels: Invalid value",
		},
		"no containers": {&corev1.Pod{ObjectMeta: named("cart")}, "spec.containers: Required value"},
		"a class of the system": {&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "system-mine"}},
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only"},
		"too high a priority": {&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Value: 1000000001},
			"value: Forbidden: maximum allowed value of a user defined priority is 1000000000"},
		"dual stack": {func() kinds.Object {
			s := aService("cart")
			s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
			return s
		}(), "spec.ipFamilyPolicy"},
		"a source of nothing": {&v1alpha1.Source{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, "spec.url: Required value"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			Default(c.object)
			errs := PrepareCreate(c.object)
			if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), c.want) {
				t.Errorf("got %v, want an error with %q", errs, c.want)
			}
		})
	}
}

func TestPodIsAdmitted(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: named("cart"), Spec: podSpec()}
	Default(p)
	if errs := PrepareCreate(p); len(errs) > 0 {
		t.Fatal(errs)
	}
	got, err := yaml.Marshal(map[string]any{
		"account": p.Spec.ServiceAccountName, "priority": p.Spec.Priority, "preemption": p.Spec.PreemptionPolicy,
		"tolerations": p.Spec.Tolerations, "phase": p.Status.Phase, "qos": p.Status.QOSClass, "generation": p.Generation,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `account: default
generation: 1
phase: Pending
preemption: PreemptLowerPriority
priority: 0
qos: BestEffort
tolerations:
- effect: NoExecute
  key: node.kubernetes.io/not-ready
  operator: Exists
  tolerationSeconds: 300
- effect: NoExecute
  key: node.kubernetes.io/unreachable
  operator: Exists
  tolerationSeconds: 300
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	again := p.DeepCopy()
	Admit(again)
	if diff := cmp.Diff(p, again); diff != "" {
		t.Errorf("admitting twice changes the pod:\n%s", diff)
	}
}

func TestPodManifestCanBeAppliedAgain(t *testing.T) {
	stated := []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
	live := &corev1.Pod{ObjectMeta: named("cart"), Spec: podSpec()}
	live.UID, live.ResourceVersion = "1", "7"
	live.Spec.Tolerations = stated
	Default(live)
	if errs := PrepareCreate(live); len(errs) > 0 {
		t.Fatal(errs)
	}
	again := live.DeepCopy()
	again.Spec.Tolerations, again.Spec.Priority, again.Spec.PreemptionPolicy = stated, nil, nil
	if errs := PrepareUpdate(again, live); len(errs) > 0 {
		t.Fatal(errs)
	}
	if diff := cmp.Diff(live, again); diff != "" {
		t.Error(diff)
	}
}

func TestSecretKeepsItsStringDataAsData(t *testing.T) {
	s := &corev1.Secret{ObjectMeta: named("cart"), StringData: map[string]string{"password": "s3cret"}}
	Default(s)
	if errs := PrepareCreate(s); len(errs) > 0 {
		t.Fatal(errs)
	}
	if string(s.Data["password"]) != "s3cret" || s.StringData != nil {
		t.Errorf("data %q, stringData %q", s.Data, s.StringData)
	}
}

func TestGenerationCountsChangesOfTheSpec(t *testing.T) {
	old := aDeployment("cart")
	old.ResourceVersion, old.UID = "7", "1"
	Default(old)
	if errs := PrepareCreate(old); len(errs) > 0 {
		t.Fatal(errs)
	}
	scaled, labelled := old.DeepCopy(), old.DeepCopy()
	scaled.Spec.Replicas = new(int32(3))
	scaled.Status.Replicas = 9
	labelled.Labels = map[string]string{"tier": "front"}
	if errs := PrepareUpdate(scaled, old); len(errs) > 0 || scaled.Generation != 2 || scaled.Status.Replicas != 0 {
		t.Errorf("scaled: %v, generation %d, status %v", errs, scaled.Generation, scaled.Status)
	}
	if errs := PrepareUpdate(labelled, old); len(errs) > 0 || labelled.Generation != 1 {
		t.Errorf("labelled: %v, generation %d", errs, labelled.Generation)
	}
	status := old.DeepCopy()
	status.Status.Replicas = 2
	status.Spec.Replicas = new(int32(5))
	if errs := PrepareStatus(status, old); len(errs) > 0 || status.Status.Replicas != 2 || *status.Spec.Replicas != 1 {
		t.Errorf("status: %v, %v", errs, status)
	}
}

func TestImmutableFieldsAreRefused(t *testing.T) {
	old := aDeployment("cart")
	old.ResourceVersion, old.UID = "7", "1"
	Default(old)
	changed := old.DeepCopy()
	changed.Spec.Selector.MatchLabels = map[string]string{"app": "till"}
	changed.Spec.Template.Labels = map[string]string{"app": "till"}
	errs := PrepareUpdate(changed, old)
	if len(errs) != 1 || errs[0].Field != "spec.selector" {
		t.Errorf("got %v, want one error about spec.selector", errs)
	}
}

func TestServiceKeepsWhatWasAllocated(t *testing.T) {
	old := aService("cart")
	old.ResourceVersion, old.UID = "7", "1"
	old.Spec.Type = corev1.ServiceTypeNodePort
	Default(old)
	if errs := PrepareCreate(old); len(errs) > 0 {
		t.Fatal(errs)
	}
	if old.Spec.ClusterIP != "" || len(old.Spec.IPFamilies) != 1 || *old.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("created as %+v", old.Spec)
	}

	allocated := old.DeepCopy()
	allocated.Spec.ClusterIP, allocated.Spec.ClusterIPs = "10.43.0.7", []string{"10.43.0.7"}
	allocated.Spec.Ports[0].NodePort = 30080
	if errs := PrepareUpdate(allocated, old); len(errs) > 0 {
		t.Fatalf("allocation: %v", errs)
	}

	again := aService("cart")
	again.Spec.Type = corev1.ServiceTypeNodePort
	Default(again)
	if errs := PrepareUpdate(again, allocated); len(errs) > 0 {
		t.Fatalf("applied again: %v", errs)
	}
	if diff := cmp.Diff(allocated.Spec, again.Spec); diff != "" {
		t.Error(diff)
	}

	internal := allocated.DeepCopy()
	internal.Spec.Type = corev1.ServiceTypeClusterIP
	if errs := PrepareUpdate(internal, allocated); len(errs) > 0 || internal.Spec.Ports[0].NodePort != 0 {
		t.Errorf("to ClusterIP: %v, %+v", errs, internal.Spec)
	}

	moved := allocated.DeepCopy()
	moved.Spec.ClusterIP = "10.43.0.8"
	if errs := PrepareUpdate(moved, allocated); len(errs) == 0 {
		t.Error("another address was accepted")
	}

	alias := allocated.DeepCopy()
	alias.Spec.Type, alias.Spec.ExternalName = corev1.ServiceTypeExternalName, "cart.example"
	if errs := PrepareUpdate(alias, allocated); len(errs) > 0 || alias.Spec.ClusterIP != "" || alias.Spec.ClusterIPs != nil {
		t.Errorf("to ExternalName: %v, %+v", errs, alias.Spec)
	}
}

func TestTableColumns(t *testing.T) {
	table, err := Table(kinds.For[*corev1.Pod](), nil, &metav1.TableOptions{IncludeObject: metav1.IncludeNone})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	want := "Name Ready Status Restarts Age IP Node Nominated Node Readiness Gates"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("columns %q, want %q", got, want)
	}
	if len(table.Rows) > 0 {
		t.Errorf("rows %v", table.Rows)
	}
}

func TestTableRowsCarryWhatIsAsked(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: named("cart"), Spec: podSpec()}
	for include, want := range map[metav1.IncludeObjectPolicy]runtime.Object{
		metav1.IncludeNone:     nil,
		metav1.IncludeObject:   p,
		metav1.IncludeMetadata: metadataOf(p),
	} {
		table, err := Table(kinds.Of(p), []kinds.Object{p}, &metav1.TableOptions{IncludeObject: include, NoHeaders: true})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, table.Rows[0].Object.Object); diff != "" || table.ColumnDefinitions != nil {
			t.Errorf("%s: %s", include, diff)
		}
	}
}

func BenchmarkPrepare(b *testing.B) {
	p := &corev1.Pod{ObjectMeta: named("cart"), Spec: podSpec()}
	p.UID, p.ResourceVersion = "1", "7"
	Default(p)
	b.Run("default", func(b *testing.B) {
		for b.Loop() {
			Default(p.DeepCopy())
		}
	})
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			if errs := PrepareCreate(p.DeepCopy()); len(errs) > 0 {
				b.Fatal(errs)
			}
		}
	})
	PrepareCreate(p)
	b.Run("status", func(b *testing.B) {
		for b.Loop() {
			if errs := PrepareStatus(p.DeepCopy(), p); len(errs) > 0 {
				b.Fatal(errs)
			}
		}
	})
	b.Run("fields", func(b *testing.B) {
		for b.Loop() {
			SelectableFields(p)
		}
	})
}

// TestRevisionsAreDefaulted: what a revision keeps of a template that lacks a default of today is, once read, the template as it
// is read today; one that lacks nothing is left as it was stored.
func TestRevisionsAreDefaulted(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: named("cart"), Spec: appsv1.StatefulSetSpec{Template: aDeployment("cart").Spec.Template}}
	Default(set)
	of := func(tpl *corev1.PodTemplateSpec) *appsv1.ControllerRevision {
		data, err := template.Encode(tpl)
		if err != nil {
			t.Fatal(err)
		}
		return &appsv1.ControllerRevision{ObjectMeta: named("cart-1"), Data: data}
	}
	before := set.Spec.Template.DeepCopy()
	before.Spec.Containers[0].TerminationMessagePolicy, before.Spec.SchedulerName = "", ""
	whole, lacking := of(&set.Spec.Template), of(before)
	stored := string(whole.Data.Raw)
	for _, r := range []*appsv1.ControllerRevision{whole, lacking} {
		Default(r)
		if kept, err := template.Of(r); err != nil || cmp.Diff(&set.Spec.Template, kept) != "" {
			t.Errorf("it keeps %s, %v", cmp.Diff(&set.Spec.Template, kept), err)
		}
	}
	if got := string(whole.Data.Raw); got != stored {
		t.Errorf("one that lacks nothing was\n%s\nand is\n%s", stored, got)
	}
	other := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`{"spec":{}}`)}}
	if Default(other); string(other.Data.Raw) != `{"spec":{}}` {
		t.Errorf("one that keeps no template is %s", other.Data.Raw)
	}
}
