package reconcilers

import (
	"context"
	"errors"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/controller/history"
)

// oracle records what Kubernetes' algorithm writes.
type oracle struct {
	world *statefulWorld
	mu    sync.Mutex
	statefulWrites
}

func (o *oracle) CreatePod(_ context.Context, p *corev1.Pod, set *appsv1.StatefulSet) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	p = p.DeepCopy()
	p.Namespace = set.Namespace
	o.made = append(o.made, p)
	return nil
}

func (o *oracle) GetPod(_, name string) (*corev1.Pod, error) {
	if p := o.world.pods[name]; p != nil {
		return p, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
}

func (o *oracle) UpdatePod(p *corev1.Pod, _ *appsv1.StatefulSet) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.made = append(o.made, p.DeepCopy())
	return nil
}

func (o *oracle) DeletePod(p *corev1.Pod) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deleted = append(o.deleted, p.Name)
	return nil
}

func (o *oracle) CreateClaim(c *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet) error {
	return o.UpdateClaim(c, set)
}

// GetClaim shows what is written at once, as a server does.
func (o *oracle) GetClaim(_, name string) (*corev1.PersistentVolumeClaim, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.claims {
		if c.Name == name {
			return c, nil
		}
	}
	if c := o.world.claims[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name)
}

func (o *oracle) UpdateClaim(c *corev1.PersistentVolumeClaim, _ *appsv1.StatefulSet) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claims = slices.DeleteFunc(o.claims, func(was *corev1.PersistentVolumeClaim) bool { return was.Name == c.Name })
	o.claims = append(o.claims, c.DeepCopy())
	return nil
}

func (*oracle) UpdateStatefulSetStatus(context.Context, *appsv1.StatefulSet, *appsv1.StatefulSetStatus) error {
	return nil
}

func (o *oracle) ListControllerRevisions(metav1.Object, schema.GroupVersionKind, labels.Selector) (
	list []*appsv1.ControllerRevision, _ error,
) {
	for _, r := range o.world.revisions {
		list = append(list, r.DeepCopy())
	}
	return list, nil
}

func (o *oracle) CreateControllerRevision(_ metav1.Object, r *appsv1.ControllerRevision, _ *int32) (*appsv1.ControllerRevision, error) {
	if o.world.revisions[r.Name] != nil {
		return nil, errors.New("the name is taken")
	}
	o.revisions = append(o.revisions, r.DeepCopy())
	return r, nil
}

func (o *oracle) DeleteControllerRevision(r *appsv1.ControllerRevision) error {
	o.gone = append(o.gone, r.Name)
	return nil
}

func (o *oracle) UpdateControllerRevision(r *appsv1.ControllerRevision, number int64) (*appsv1.ControllerRevision, error) {
	r = r.DeepCopy()
	r.Revision = number
	o.revisions = append(o.revisions, r)
	return r, nil
}

func (*oracle) AdoptControllerRevision(metav1.Object, schema.GroupVersionKind, *appsv1.ControllerRevision) (
	*appsv1.ControllerRevision, error,
) {
	return nil, errors.New("nothing is to adopt")
}

func (*oracle) ReleaseControllerRevision(metav1.Object, *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	return nil, errors.New("nothing is to release")
}

var _ history.Interface = (*oracle)(nil)
