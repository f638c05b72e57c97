package rights

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store/view"
)

// CheckNode: a node registers itself, with labels that are its own business and any taints, and no address range; after
// that it changes nothing but such labels and its annotations.
func CheckNode(self string, _ *view.View, new, old kinds.Object) error {
	n := new.(*corev1.Node)
	if n.Name != self {
		return fmt.Errorf("node %s may write only itself, not node %s", self, n.Name)
	}
	var before corev1.Node
	if old != nil {
		before = *old.(*corev1.Node)
		if !reflect.DeepEqual(n.Spec, before.Spec) {
			return fmt.Errorf("node %s may not change its spec after it has registered", self)
		}
		if !reflect.DeepEqual(n.OwnerReferences, before.OwnerReferences) || !slices.Equal(n.Finalizers, before.Finalizers) {
			return fmt.Errorf("node %s may not change its owners or finalizers", self)
		}
		for _, asks := range []string{kinds.DrainNode, kinds.DrainLocalData, kinds.RemoveNode, kinds.LeaveData, kinds.StatedCapacity} {
			if n.Annotations[asks] != before.Annotations[asks] {
				return fmt.Errorf("node %s may not change its annotation %s", self, asks)
			}
		}
	} else if err := unowned(n); err != nil {
		return err
	} else if n.Spec.PodCIDR != "" || len(n.Spec.PodCIDRs) > 0 {
		return fmt.Errorf("node %s may not choose its pods' addresses", self)
	}
	return checkLabels(self, n.Labels, before.Labels)
}

// unowned refuses what would bind an object's end to another's, or to somebody's consent.
func unowned(o kinds.Object) error {
	if len(o.GetOwnerReferences()) > 0 || len(o.GetFinalizers()) > 0 {
		return fmt.Errorf("%s may not have owners or finalizers", kinds.KeyOf(o))
	}
	return nil
}

// checkLabels lets a node change labels without Kubernetes' prefixes, and those that a kubelet may.
func checkLabels(self string, new, old map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(union(new, old))) {
		was, had := old[key]
		is, has := new[key]
		if had == has && was == is || nodesOwn(key) {
			continue
		}
		return fmt.Errorf("node %s may not set or change its label %s", self, key)
	}
	return nil
}

func nodesOwn(label string) bool {
	prefix, _, found := strings.Cut(label, "/")
	if !found {
		return true
	}
	for _, reserved := range []string{"kubernetes.io", "k8s.io", "lockstep.dev"} {
		if prefix == reserved || strings.HasSuffix(prefix, "."+reserved) {
			restricted := prefix == corev1.LabelNamespaceNodeRestriction ||
				strings.HasSuffix(prefix, "."+corev1.LabelNamespaceNodeRestriction)
			return !restricted && kubeletapis.IsKubeletLabel(label)
		}
	}
	return true
}

func union(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, b)
	return out
}

// CheckNodeStatus keeps everything but the status: the strategy does that for the spec. Of the status it keeps what is attached, which is
// not the node's to say, and the conditions that programs have set, of which the node may have heard or not.
func CheckNodeStatus(_ string, _ *view.View, new, old kinds.Object) error {
	keepMeta(new, old)
	keepTheirs(new, old)
	new.(*corev1.Node).Status.VolumesAttached = old.(*corev1.Node).Status.VolumesAttached
	return nil
}

// CheckPodStatus keeps the pod's metadata: labels decide which services send it packets. What programs have said for the pod's
// readiness gates stays, too: the node tells what it has heard, which may be older.
func CheckPodStatus(self string, _ *view.View, new, old kinds.Object) error {
	if kinds.NodeOf(old) != self {
		return fmt.Errorf("node %s may not write the status of a pod that is not bound to it", self)
	}
	keepMeta(new, old)
	was, is := old.(*corev1.Pod), new.(*corev1.Pod)
	if gates := podstatus.Gates(was); len(gates) > 0 {
		is.Status = ungated(is.Status, gates)
		for _, c := range was.Status.Conditions {
			if slices.Contains(gates, c.Type) {
				is.Status.Conditions = append(is.Status.Conditions, c)
			}
		}
	}
	return nil
}

// keepMeta takes the metadata from old; a conflicting resourceVersion was found before.
func keepMeta(new, old kinds.Object) {
	kept := reflect.ValueOf(old.DeepCopyObject()).Elem().FieldByName("ObjectMeta")
	reflect.ValueOf(new).Elem().FieldByName("ObjectMeta").Set(kept)
}

// CheckEvent: a node tells what happened to itself, to its pods, and to the volumes that it keeps.
func CheckEvent(self string, v *view.View, new, old kinds.Object) error {
	for _, o := range []kinds.Object{new, old} {
		e, ok := o.(*corev1.Event)
		if !ok || e == nil {
			continue
		}
		for _, host := range []string{e.Source.Host, e.ReportingInstance} {
			if host != "" && host != self {
				return fmt.Errorf("node %s may not report as %s", self, host)
			}
		}
		if err := checkSubject(self, v, e.InvolvedObject); err != nil {
			return err
		}
	}
	return unowned(new)
}

// keeping says whether a volume of the node's is the one, or is bound to the claim, that an event is about. What is gone is nobody's.
func keeping(self string, v *view.View, about corev1.ObjectReference) bool {
	name := about.Name
	if about.Kind == "PersistentVolumeClaim" {
		c, ok := view.Get[*corev1.PersistentVolumeClaim](v, about.Namespace, about.Name)
		if !ok || c.Spec.VolumeName == "" {
			return false
		}
		name = c.Spec.VolumeName
	}
	pv, ok := view.Get[*corev1.PersistentVolume](v, "", name)
	if !ok || kinds.LocalPathOf(pv) != self {
		return false
	}
	ref := pv.Spec.ClaimRef
	return about.Kind == "PersistentVolume" || ref != nil && ref.Namespace == about.Namespace && ref.Name == about.Name
}

func checkSubject(self string, v *view.View, about corev1.ObjectReference) error {
	switch about.Kind {
	case "Node":
		if about.Name == self {
			return nil
		}
	case "Pod":
		// The last events of a pod may come when it is gone already; where another has its name, the node that has that
		// one speaks of it, whatever uid is named.
		if p, ok := view.Get[*corev1.Pod](v, about.Namespace, about.Name); !ok || p.Spec.NodeName == self {
			return nil
		}
	case "PersistentVolume", "PersistentVolumeClaim":
		if keeping(self, v, about) {
			return nil
		}
	}
	return fmt.Errorf("node %s may report only about itself, its pods and the volumes that it keeps", self)
}

// CheckVolume: a node notes that it has made a volume of its own, or lets go of one that is being deleted, and changes nothing else of it.
func CheckVolume(self string, _ *view.View, new, old kinds.Object) error {
	was := old.(*corev1.PersistentVolume)
	var allowed *corev1.PersistentVolume
	what := ""
	switch {
	case kinds.LocalPathOf(was) != self:
		return fmt.Errorf("node %s does not keep the volume %s", self, was.Name)
	case was.DeletionTimestamp == nil:
		allowed, what = kinds.LocalPathMark(was), "note that it has made"
	case !slices.Contains(was.Finalizers, kinds.LocalPath):
		return fmt.Errorf("node %s may not change the volume %s, which it has let go", self, was.Name)
	default:
		allowed, what = kinds.LocalPathLetGo(was), "let go"
	}
	asked := new.(*corev1.PersistentVolume).DeepCopy()
	allowed.ManagedFields, asked.ManagedFields = nil, nil
	allowed.TypeMeta, asked.ResourceVersion = asked.TypeMeta, allowed.ResourceVersion
	if !equality.Semantic.DeepEqual(allowed, asked) {
		return fmt.Errorf("node %s may only %s the volume %s", self, what, was.Name)
	}
	return nil
}

// CheckClaimStatus: a node tells that the volume of a claim that its pods mount has grown there, too.
func CheckClaimStatus(self string, _ *view.View, new, old kinds.Object) error {
	was, is := old.(*corev1.PersistentVolumeClaim), new.(*corev1.PersistentVolumeClaim)
	if !kinds.GrowsOnNode(was) || !equality.Semantic.DeepEqual(is.Status, kinds.Grown(was).Status) {
		return fmt.Errorf("node %s may only say of the claim %s/%s that its volume has grown as it was to", self, was.Namespace, was.Name)
	}
	keepMeta(new, old)
	return nil
}

// CheckCSINode: a node tells of its own drivers, and what it tells ends with it.
func CheckCSINode(self string, v *view.View, new, _ kinds.Object) error {
	if new.GetName() != self {
		return fmt.Errorf("node %s may write only its own CSINode, not %s", self, new.GetName())
	}
	n, ok := view.Get[*corev1.Node](v, "", self)
	if !ok {
		return fmt.Errorf("node %s is not there", self)
	}
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: self, UID: n.UID}
	if owners := new.GetOwnerReferences(); len(owners) != 1 || !equality.Semantic.DeepEqual(owners[0], owner) {
		return fmt.Errorf("the CSINode of node %s is owned by the node alone", self)
	}
	if len(new.GetFinalizers()) > 0 {
		return fmt.Errorf("the CSINode of node %s may not have finalizers", self)
	}
	return nil
}

// CheckLease: a node renews its own heartbeat.
func CheckLease(self string, _ *view.View, new, _ kinds.Object) error {
	if new.GetNamespace() != nodeLeases || new.GetName() != self {
		return fmt.Errorf("node %s may write only its own lease", self)
	}
	if len(new.GetFinalizers()) > 0 {
		return errors.New("a heartbeat has no finalizers")
	}
	new.SetManagedFields(nil)
	return nil
}
