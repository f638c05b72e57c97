package api

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
)

// TestNodeLetsGoOfItsVolumes: a volume that is being deleted goes when the node that has its data takes its finalizer away, which no
// other node can, nor can that one before.
func TestNodeLetsGoOfItsVolumes(t *testing.T) {
	s := newTestServer(t, nil, testNode("n1"), testNode("n2"))
	volume := func(name, node string) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{ObjectMeta: named("", name), Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/data/" + name},
			},
		}}
		pv.Labels = map[string]string{kinds.LocalPathNode: node}
		pv.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}
		pv.Finalizers = []string{kinds.LocalPath}
		strategy.Default(pv)
		s.put(pv)
		return pv
	}
	going := func(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
		changed := pv.DeepCopy()
		now := metav1.Now().Rfc3339Copy()
		changed.DeletionTimestamp = &now
		s.put(changed)
		return changed
	}
	mine, used, theirs := going(volume("mine", "n1")), volume("used", "n1"), going(volume("theirs", "n2"))
	if _, err := s.server.hub.Wait(t.Context(), s.store.View().Revision()); err != nil {
		t.Fatal(err)
	}
	of := func(node string) typedcorev1.PersistentVolumeInterface {
		return kubernetes.NewForConfigOrDie(s.node(node)).CoreV1().PersistentVolumes()
	}
	n1, n2 := of("n1"), of("n2")
	list, err := n1.List(t.Context(), metav1.ListOptions{LabelSelector: kinds.LocalPathNode + "=n1"})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("n1 lists %v, %v", list, err)
	}
	for _, selector := range []string{"", kinds.LocalPathNode + "=n2", kinds.LocalPathNode} {
		if _, err := n1.List(t.Context(), metav1.ListOptions{LabelSelector: selector}); !apierrors.IsForbidden(err) {
			t.Errorf("n1 lists %q: %v", selector, err)
		}
	}
	let := func(c typedcorev1.PersistentVolumeInterface, o *corev1.PersistentVolume, change func(*corev1.PersistentVolume)) error {
		pv := s.store.View().Get(kinds.KeyOf(o)).(*corev1.PersistentVolume).DeepCopy()
		pv.Finalizers = nil
		change(pv)
		_, err := c.Update(t.Context(), pv, metav1.UpdateOptions{})
		return err
	}
	only := func(*corev1.PersistentVolume) {}
	for what, err := range map[string]error{
		"another's":          let(n1, theirs, only),
		"mine, by another":   let(n2, mine, only),
		"one in use":         let(n1, used, only),
		"more than that":     let(n1, mine, func(pv *corev1.PersistentVolume) { pv.Labels[kinds.LocalPathNode] = "n2" }),
		"where another's is": let(n1, mine, func(pv *corev1.PersistentVolume) { pv.Spec.HostPath.Path = "/etc" }),
	} {
		if !apierrors.IsMethodNotSupported(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := n1.Delete(t.Context(), used.Name, metav1.DeleteOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("a node deletes a volume: %v", err)
	}
	for _, pv := range []*corev1.PersistentVolume{mine, used, theirs} {
		if s.store.View().Get(kinds.KeyOf(pv)) == nil {
			t.Errorf("%s is gone", pv.Name)
		}
	}
	if err := let(n1, mine, only); err != nil {
		t.Error(err)
	}
	if s.store.View().Get(kinds.KeyOf(mine)) != nil {
		t.Error("nobody keeps it, and it is there")
	}
	changed := mine.DeepCopy()
	changed.Finalizers = nil
	if _, err := n1.Update(t.Context(), changed, metav1.UpdateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what is gone: %v", err)
	}
}
