package kinds

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds/podstatus"
	"lockstep/kinds/v1alpha1"
)

// group is a version of a group, with what registers all its types.
type group struct {
	schema.GroupVersion
	install func(*runtime.Scheme) error
}

func core() group { return group{corev1.SchemeGroupVersion, corev1.AddToScheme} }
func apps() group { return group{appsv1.SchemeGroupVersion, appsv1.AddToScheme} }
func autoscaling() group {
	return group{autoscalingv2.SchemeGroupVersion, autoscalingv2.AddToScheme}
}
func batch() group { return group{batchv1.SchemeGroupVersion, batchv1.AddToScheme} }
func coordination() group {
	return group{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme}
}
func events() group    { return group{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme} }
func discovery() group { return group{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme} }
func policy() group    { return group{policyv1.SchemeGroupVersion, policyv1.AddToScheme} }
func rbac() group      { return group{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme} }
func scheduling() group {
	return group{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme}
}
func networking() group {
	return group{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme}
}
func node() group     { return group{nodev1.SchemeGroupVersion, nodev1.AddToScheme} }
func storage() group  { return group{storagev1.SchemeGroupVersion, storagev1.AddToScheme} }
func lockstep() group { return group{v1alpha1.GroupVersion, v1alpha1.AddToScheme} }

// table has a row a kind, in the order in which a revision's objects are created: what others refer to comes first.
func table() []*Kind {
	return []*Kind{
		row[v1alpha1.Source, v1alpha1.SourceList](lockstep(), "sources", "", Columns{
			Status: true, Adoptable: No, Generation: Yes, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.Namespace, corev1.NamespaceList](core(), "namespaces", "ns", Columns{
			Conditions: namespaceConditions(),
			Declarable: true, Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.Node, corev1.NodeList](core(), "nodes", "no", Columns{
			Conditions: nodeConditions(),
			Declarable: true, Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: judged(nodeHealth, heartbeats()...), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[coordinationv1.Lease, coordinationv1.LeaseList](coordination(), "leases", "", Columns{
			Namespaced: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList](networking(), "servicecidrs", "", Columns{
			Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[nodev1.RuntimeClass, nodev1.RuntimeClassList](node(), "runtimeclasses", "", Columns{
			Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](scheduling(), "priorityclasses", "pc", Columns{
			Declarable: true, Adoptable: No, Generation: Yes, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[networkingv1.IngressClass, networkingv1.IngressClassList](networking(), "ingressclasses", "", Columns{
			Declarable: true, Adoptable: No, Generation: Yes, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[storagev1.CSIDriver, storagev1.CSIDriverList](storage(), "csidrivers", "", Columns{
			Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[storagev1.CSINode, storagev1.CSINodeList](storage(), "csinodes", "", Columns{
			Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[storagev1.StorageClass, storagev1.StorageClassList](storage(), "storageclasses", "sc", Columns{
			Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.PersistentVolume, corev1.PersistentVolumeList](core(), "persistentvolumes", "pv", Columns{
			Declarable: true, Status: true, Adoptable: No, Generation: No, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList](storage(), "volumeattachments", "", Columns{
			Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList](storage(), "csistoragecapacities", "", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.LimitRange, corev1.LimitRangeList](core(), "limitranges", "limits", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.ResourceQuota, corev1.ResourceQuotaList](core(), "resourcequotas", "quota", Columns{
			Namespaced: true, Declarable: true, Status: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No,
			Indexes: None(), Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.ServiceAccount, corev1.ServiceAccountList](core(), "serviceaccounts", "sa", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[rbacv1.ClusterRole, rbacv1.ClusterRoleList](rbac(), "clusterroles", "", Columns{
			Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[rbacv1.Role, rbacv1.RoleList](rbac(), "roles", "", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList](rbac(), "clusterrolebindings", "", Columns{
			Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(), Confidential: No,
			Health: judged(clusterRoleBindingHealth, roleReads()...), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[rbacv1.RoleBinding, rbacv1.RoleBindingList](rbac(), "rolebindings", "", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: judged(roleBindingHealth, roleReads()...), Pods: noPods, Scale: noScale,
			Controllers: Uncontrolled(),
		}),
		row[corev1.Secret, corev1.SecretList](core(), "secrets", "", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: Yes, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.ConfigMap, corev1.ConfigMapList](core(), "configmaps", "cm", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](core(), "persistentvolumeclaims", "pvc", Columns{
			Conditions: claimConditions(),
			Namespaced: true, Declarable: true, Status: true, Adoptable: No, Generation: No, StatusFollows: Yes, Expires: No,
			Indexes: None(), Confidential: No, Health: claimRule(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](policy(), "poddisruptionbudgets", "pdb", Columns{
			Conditions: conditions(policyv1.DisruptionAllowedCondition, BudgetsShare),
			Namespaced: true, Declarable: true, Status: true,
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: judged(budgetHealth, budgetReads()...), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.Service, corev1.ServiceList](core(), "services", "svc", Columns{
			Conditions: conditions[string](),
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: serviceRule(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[networkingv1.Ingress, networkingv1.IngressList](networking(), "ingresses", "ing", Columns{
			Namespaced: true, Declarable: true, Status: true,
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: ingressRule(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[appsv1.Deployment, appsv1.DeploymentList](apps(), "deployments", "deploy", Columns{
			Conditions: conditions(appsv1.DeploymentAvailable, appsv1.DeploymentProgressing, appsv1.DeploymentReplicaFailure),
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: deploymentRule(), Pods: inTemplate(deploymentTemplate), Scale: deploymentScale,
			Controllers: deploymentControllers(),
		}),
		row[appsv1.ReplicaSet, appsv1.ReplicaSetList](apps(), "replicasets", "rs", Columns{
			Conditions: conditions(appsv1.ReplicaSetReplicaFailure),
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: Yes, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: judged(replicaSetHealth, podReads()...), Pods: inTemplate(replicaSetTemplate),
			Scale: replicaSetScale, Controllers: replicaSetControllers(),
		}),
		row[appsv1.StatefulSet, appsv1.StatefulSetList](apps(), "statefulsets", "sts", Columns{
			Conditions: conditions(StatefulSetReplicaFailure),
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(), Confidential: No,
			Health: judged(statefulSetHealth, podReads()...), Pods: inTemplate(statefulSetTemplate), Scale: statefulSetScale,
			Controllers: Uncontrolled(),
		}),
		row[appsv1.DaemonSet, appsv1.DaemonSetList](apps(), "daemonsets", "ds", Columns{
			Conditions: conditions[string](),
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: judged(daemonSetHealth, podReads()...), Pods: inTemplate(daemonSetTemplate),
			Scale: noScale, Controllers: daemonSetControllers(),
		}),
		row[appsv1.ControllerRevision, appsv1.ControllerRevisionList](apps(), "controllerrevisions", "", Columns{
			Namespaced: true, Adoptable: Yes, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.ReplicationController, corev1.ReplicationControllerList](core(), "replicationcontrollers", "rc", Columns{
			Conditions: conditions(corev1.ReplicationControllerReplicaFailure),
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: judged(replicationControllerHealth, podReads()...),
			Pods: inTemplate(replicationControllerTemplate), Scale: replicationControllerScale, Controllers: Uncontrolled(),
		}),
		row[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList](
			autoscaling(), "horizontalpodautoscalers", "hpa", Columns{
				Namespaced: true, Declarable: true, Status: true, Categories: all(),
				Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
				Confidential: No, Health: judged(autoscalerHealth), Pods: noPods, Scale: noScale, Controllers: autoscalerControllers(),
			}),
		row[batchv1.CronJob, batchv1.CronJobList](batch(), "cronjobs", "cj", Columns{
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: cronJobPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[batchv1.Job, batchv1.JobList](batch(), "jobs", "", Columns{
			Conditions: jobConditions(),
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: No, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: None(),
			Confidential: No, Health: judged(jobHealth, podReads()...), Pods: inTemplate(jobTemplate), Scale: noScale,
			Controllers: Uncontrolled(),
		}),
		row[corev1.PodTemplate, corev1.PodTemplateList](core(), "podtemplates", "", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: Yes, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.Pod, corev1.PodList](core(), "pods", "po", Columns{
			Namespaced: true, Declarable: true, Status: true, Categories: all(),
			Adoptable: Yes, Generation: Yes, StatusFollows: Yes, Expires: No, Indexes: by(ByNode, nodeOf),
			Confidential: No, Health: judged(podHealth, podReads()...), Pods: itself, Scale: noScale, Controllers: podControllers(),
		}),
		row[corev1.Endpoints, corev1.EndpointsList](core(), "endpoints", "ep", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: No, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](discovery(), "endpointslices", "", Columns{
			Namespaced: true, Declarable: true, Adoptable: No, Generation: Yes, StatusFollows: No, Expires: No,
			Indexes:      by(ByService, serviceOf),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
		row[corev1.Event, corev1.EventList](core(), "events", "ev", Columns{
			Namespaced: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: Yes, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
	}
}

// shown has a row for each kind as which the API shows objects of another one of the table.
func shown() []*Kind {
	return []*Kind{
		row[eventsv1.Event, eventsv1.EventList](events(), "events", "ev", Columns{
			Namespaced: true, Adoptable: No, Generation: No, StatusFollows: No, Expires: Yes, Indexes: None(),
			Confidential: No, Health: onceThere(), Pods: noPods, Scale: noScale, Controllers: Uncontrolled(),
		}),
	}
}

// all is the category that `kubectl get all` shows.
func all() []string { return []string{"all"} }

func row[O, L any](g group, resource, short string, c Columns) *Kind {
	object := reflect.TypeFor[O]()
	k := &Kind{
		GroupVersionKind: g.WithKind(object.Name()),
		Resource:         resource,
		Singular:         strings.ToLower(object.Name()),
		Columns:          c,
		install:          g.install,
		object:           object,
		list:             reflect.TypeFor[L](),
	}
	if short != "" {
		k.ShortNames = []string{short}
	}
	if f, ok := object.FieldByName("Status"); ok {
		k.status = f.Index
	}
	return k
}

func serviceRule() Rule {
	rule := judged(serviceHealth, append(podReads(), Read{core().WithKind("Node"), rulesChanged})...)
	rule.Follows = true
	return rule
}

// serviceHealth: healthy unless a node lacks its rules, or pods it selects are wanted and none of them is ready.
func serviceHealth(s *corev1.Service, see Sight) Health {
	if ruled(s) {
		if cause := once(see, "service rules", func() string { return withoutRules(see) }); cause != "" {
			return Health{State: Failed, Cause: cause}
		}
	}
	if class := s.Spec.LoadBalancerClass; class != nil && len(s.Status.LoadBalancer.Ingress) == 0 {
		return Health{Cause: "waits for an address of the load balancer " + *class}
	}
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.PublishNotReadyAddresses {
		return Health{State: Healthy}
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	var wanted []*corev1.Pod
	for p := range pods(see.List(schema.GroupResource{Resource: "pods"}, s.Namespace)) {
		if p.DeletionTimestamp != nil || podstatus.Finished(&p.Status) || !selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		if podstatus.Ready(&p.Status) {
			return Health{State: Healthy}
		}
		wanted = append(wanted, p)
	}
	if len(wanted) == 0 {
		return Health{State: Healthy}
	}
	count := ready(0, int32(len(wanted)))
	h := worst(slices.Values(wanted), see)
	if h.State == Failed {
		return h.failed(count)
	}
	return h.progressing(count)
}

func deploymentTemplate(o Object) *corev1.PodTemplateSpec {
	return &o.(*appsv1.Deployment).Spec.Template
}

func deploymentSelector(o Object) *metav1.LabelSelector { return o.(*appsv1.Deployment).Spec.Selector }

func deploymentScale(o Object) *Scale {
	d := o.(*appsv1.Deployment)
	return &Scale{d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector}
}

// The deployment controller's (Kubernetes, pkg/controller/deployment/util).
const deploymentAnnotations = "deployment.kubernetes.io/"

func deploymentControllers() []Controller {
	return []Controller{{Of: apps().WithKind("Deployment"), Annotations: deploymentAnnotations}}
}

func deploymentRule() Rule {
	return judged(deploymentHealth, append(podReads(), Read{Of: apps().WithKind("ReplicaSet")})...)
}

// deploymentHealth: the newest template is in all replicas, and these are available.
func deploymentHealth(d *appsv1.Deployment, see Sight) Health {
	want := replicas(d.Spec.Replicas)
	s := d.Status
	count := ready(s.ReadyReplicas, want)
	current := s.ObservedGeneration >= d.Generation
	if current && s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want {
		return Health{State: Healthy}
	}
	rs, h := newest(d, see), Health{}
	if rs != nil {
		h = podsOf(rs.UID, see)
	}
	if h.State == Failed {
		return h.failed(count)
	}
	if current && slices.ContainsFunc(s.Conditions, deadlineExceeded) {
		return failed("ProgressDeadlineExceeded", count)
	}
	if rs != nil {
		if cause, ok := replicaFailure(rs.Status.Conditions); ok {
			return failed(cause, count)
		}
	}
	cause := count
	switch {
	case !current && s.ObservedGeneration > 0:
		// The counts are of what was stated before.
		cause = "change not observed yet, " + count
	case s.UpdatedReplicas < want:
		cause = fmt.Sprintf("%d/%d updated, %s", min(s.UpdatedReplicas, want), want, count)
	}
	return h.progressing(cause)
}

func deadlineExceeded(c appsv1.DeploymentCondition) bool {
	return c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded"
}

// newest returns the replica set of the deployment that has its template, or nil: the one with the highest revision.
func newest(d *appsv1.Deployment, see Sight) *appsv1.ReplicaSet {
	var sets []*appsv1.ReplicaSet
	for o := range see.Controlled(d.UID) {
		if rs, ok := o.(*appsv1.ReplicaSet); ok {
			sets = append(sets, rs)
		}
	}
	if len(sets) == 0 || d.Status.ObservedGeneration < d.Generation {
		return nil
	}
	return slices.MaxFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Name, b.Name))
	})
}

func revision(rs *appsv1.ReplicaSet) int {
	n := 0
	fmt.Sscanf(rs.Annotations[deploymentAnnotations+"revision"], "%d", &n)
	return n
}

func replicaSetTemplate(o Object) *corev1.PodTemplateSpec {
	return &o.(*appsv1.ReplicaSet).Spec.Template
}

func replicaSetSelector(o Object) *metav1.LabelSelector { return o.(*appsv1.ReplicaSet).Spec.Selector }

func replicaSetScale(o Object) *Scale {
	rs := o.(*appsv1.ReplicaSet)
	return &Scale{rs.Spec.Replicas, rs.Status.Replicas, rs.Spec.Selector}
}

// replicaSetControllers removes those past the limit of a Deployment's history, and sets the size of those that it has.
func replicaSetControllers() []Controller {
	return []Controller{{
		Of: apps().WithKind("Deployment"), Annotations: deploymentAnnotations, Copies: true,
		Removes: RemovesAny, Selects: deploymentSelector, Fields: []string{"replicas", "minReadySeconds"},
	}}
}

// replicaSetHealth: all replicas are there, and available.
func replicaSetHealth(rs *appsv1.ReplicaSet, see Sight) Health {
	want := replicas(rs.Spec.Replicas)
	count := ready(rs.Status.ReadyReplicas, want)
	if rs.Status.ObservedGeneration >= rs.Generation && rs.Status.Replicas == want && rs.Status.AvailableReplicas == want {
		return Health{State: Healthy}
	}
	h := podsOf(rs.UID, see)
	if h.State == Failed {
		return h.failed(count)
	}
	if cause, ok := replicaFailure(rs.Status.Conditions); ok {
		return failed(cause, count)
	}
	return h.progressing(count)
}

func replicaFailure(conditions []appsv1.ReplicaSetCondition) (string, bool) {
	for _, c := range conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			return c.Reason + ": " + refusedPod(c.Message), true
		}
	}
	return "", false
}

// refusedPod is why a pod was refused, without its name, which is another one each time.
func refusedPod(message string) string {
	if _, why, ok := strings.Cut(message, " is forbidden: "); ok {
		return why
	}
	return message
}

func statefulSetTemplate(o Object) *corev1.PodTemplateSpec {
	return &o.(*appsv1.StatefulSet).Spec.Template
}

func statefulSetScale(o Object) *Scale {
	s := o.(*appsv1.StatefulSet)
	return &Scale{s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector}
}

// StatefulSetReplicaFailure is the condition that tells why pods of a StatefulSet cannot be had, named as a ReplicaSet's is.
const StatefulSetReplicaFailure appsv1.StatefulSetConditionType = "ReplicaFailure"

// statefulSetHealth: all replicas are there, and available, and those that an update is to reach have the newest template.
func statefulSetHealth(set *appsv1.StatefulSet, see Sight) Health {
	want := replicas(set.Spec.Replicas)
	s := set.Status
	count := ready(s.ReadyReplicas, want)
	current := s.ObservedGeneration >= set.Generation
	toUpdate := updatable(set, want)
	if current && s.Replicas == want && s.AvailableReplicas == want && s.UpdatedReplicas >= toUpdate {
		return Health{State: Healthy}
	}
	h := podsOf(set.UID, see)
	if h.Silence == "" {
		if held := heldBySilence(set.UID, see); held.Silence != "" {
			h = held
		}
	}
	if h.State == Failed {
		return h.failed(count)
	}
	for _, c := range s.Conditions {
		if c.Type == StatefulSetReplicaFailure && c.Status == corev1.ConditionTrue {
			return failed(c.Reason+": "+c.Message, count)
		}
	}
	cause := count
	switch {
	case !current && s.ObservedGeneration > 0:
		// The counts are of what was stated before.
		cause = "change not observed yet, " + count
	case s.UpdatedReplicas < toUpdate:
		cause = fmt.Sprintf("%d/%d updated, %s", s.UpdatedReplicas, toUpdate, count)
	}
	return h.progressing(cause)
}

// heldBySilence is the failure of a pod that is told to end on a silent node: nothing else gets its name until the node answers.
func heldBySilence(controller types.UID, see Sight) Health {
	for p := range pods(see.Controlled(controller)) {
		if p.DeletionTimestamp == nil {
			continue
		}
		if h := see.Pod(p); h.Silence != "" {
			return h
		}
	}
	return Health{}
}

// updatable is how many replicas an update reaches by itself: none where each waits to be deleted, else those above the partition.
func updatable(set *appsv1.StatefulSet, want int32) int32 {
	u := set.Spec.UpdateStrategy
	switch {
	case u.Type == appsv1.OnDeleteStatefulSetStrategyType:
		return 0
	case u.RollingUpdate != nil && u.RollingUpdate.Partition != nil:
		return max(0, want-*u.RollingUpdate.Partition)
	}
	return want
}

func itself(o Object) (*metav1.ObjectMeta, *corev1.PodSpec, string) {
	p := o.(*corev1.Pod)
	return &p.ObjectMeta, &p.Spec, "spec"
}

func nodeOf(p *corev1.Pod) (string, bool) { return p.Spec.NodeName, true }

func podControllers() []Controller {
	return []Controller{
		{Of: apps().WithKind("ReplicaSet"), Removes: RemovesSurplus, Selects: replicaSetSelector},
		{Of: core().WithKind("ReplicationController"), Removes: RemovesSurplus, Selects: replicationControllerSelector},
		{Of: apps().WithKind("StatefulSet"), Removes: RemovesSurplus, Selects: statefulSetSelector, Named: inStatefulSet},
		{Of: batch().WithKind("Job"), Removes: RemovesAny, Selects: jobSelector},
		{Of: apps().WithKind("DaemonSet"), Removes: RemovesAny, Selects: daemonSetSelector},
	}
}

func statefulSetSelector(o Object) *metav1.LabelSelector {
	return o.(*appsv1.StatefulSet).Spec.Selector
}

// inStatefulSet says that a pod's name is the set's with an ordinal.
func inStatefulSet(set, pod Object) bool {
	ordinal, ok := strings.CutPrefix(pod.GetName(), set.GetName()+"-")
	return ok && ordinal != "" && strings.Trim(ordinal, "0123456789") == ""
}

// podHealth: it is ready, or has succeeded.
func podHealth(p *corev1.Pod, see Sight) Health { return see.Pod(p) }

// SliceMirror is the value of the label managed-by of slices that are made from Endpoints: Kubernetes' own controller's.
const SliceMirror = "endpointslicemirroring-controller.k8s.io"

func serviceOf(s *discoveryv1.EndpointSlice) (string, bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	return s.Namespace + "/" + name, name != ""
}
