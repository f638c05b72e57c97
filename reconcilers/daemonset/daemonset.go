// Package daemonset keeps a pod of every DaemonSet on each node that is to have one.
package daemonset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/controller/daemon/util"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
	"lockstep/reconcilers/revisions"
	"lockstep/store/view"
)

// hashLabel is the label of revisions and pods that has the hash of their template.
const hashLabel = appsv1.DefaultDaemonSetUniqueLabelKey

// burst bounds how many pods one decision creates, and how many it deletes: Kubernetes' BurstReplicas.
const burst = 250

// New returns the reconciler of daemon sets.
func New() loop.Reconciler {
	return loop.Reconciler{
		Name:      "daemonset",
		Component: "daemonset-controller",
		Owner:     kinds.For[*appsv1.DaemonSet](),
		Reads: []loop.Read{
			{
				Kind: kinds.For[*corev1.Pod](),
				How:  "its controller; an orphan: those that select it",
				Keys: loop.ClaimantKeys(selectorOf),
			},
			{Kind: kinds.For[*corev1.Node](), How: "all of them, where its labels or taints change", Keys: all, Changed: eligibility},
			revisions.Reads(selectorOf),
		},
		Writes: []loop.Write{
			{
				Kind: kinds.For[*corev1.Pod](), Create: true, Delete: true, Fields: []string{"metadata.ownerReferences"}, Children: true,
				Shared: map[string]string{"metadata.ownerReferences": loop.OwnReference},
			},
			revisions.Writes(),
			{Kind: kinds.For[*appsv1.DaemonSet](), Fields: []string{"status"}},
		},
		Decide: decide,
	}
}

func selectorOf(ds *appsv1.DaemonSet) *metav1.LabelSelector { return ds.Spec.Selector }

func all(v *view.View, _ kinds.Object) (keys []kinds.Key) {
	for ds := range view.List[*appsv1.DaemonSet](v, "") {
		keys = append(keys, kinds.KeyOf(ds))
	}
	return keys
}

// eligibility says that a change of a node may change which daemons it is to have.
func eligibility(old, new kinds.Object) bool {
	return !equality.Semantic.DeepEqual(old.GetLabels(), new.GetLabels()) ||
		!equality.Semantic.DeepEqual(old.(*corev1.Node).Spec.Taints, new.(*corev1.Node).Spec.Taints)
}

// decision is what is known of one daemon set, and what becomes of it.
type decision struct {
	loop.Decision
	ds  *appsv1.DaemonSet
	now time.Time
	// hash is that of the present template's revision, generation the older number of it that Kubernetes' pods carry, too; nil:
	// there is none.
	hash       string
	generation *int64
	places     []*place // by the names of their nodes
	template   corev1.PodTemplateSpec
}

func decide(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
	ds, ok := v.Get(key).(*appsv1.DaemonSet)
	if !ok {
		return loop.Decision{}, nil
	}
	claims, err := pods.Claim(v, ds, ds.Spec.Selector)
	if err != nil {
		return loop.Decision{}, err
	}
	history, err := revisions.Of(v, revisions.Owner{
		Object: ds, Selector: claims.Selector, Template: &ds.Spec.Template, HashLabel: hashLabel,
		Collisions: ds.Status.CollisionCount,
	})
	if err != nil {
		return loop.Decision{}, err
	}
	d := decision{ds: ds, now: now, hash: history.Update.Labels[hashLabel]}
	wants, drops := history.Plan(ds.Spec.RevisionHistoryLimit, func(name string) bool {
		hash := history.Named(name).Labels[hashLabel]
		return slices.ContainsFunc(claims.Mine, func(p *corev1.Pod) bool {
			return p.Labels[hashLabel] == hash
		})
	})
	d.Wants, d.Drops = append(wants, claims.Others()...), drops
	if ds.DeletionTimestamp != nil {
		d.Wants = append(d.Wants, claims.Keep("needed", claims.Mine...)...)
		return d.Decision, nil
	}
	// An annotation that is no number is none: the hash decides.
	d.generation, _ = util.GetTemplateGeneration(ds)
	d.template = util.CreatePodTemplate(ds.Spec.Template, d.generation, d.hash)
	d.findPlaces(v, claims.Mine)
	for _, p := range d.places {
		d.manage(p)
	}
	if ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if err := d.roll(); err != nil {
			return loop.Decision{}, err
		}
	}
	d.act(claims)
	d.report(history.Collisions)
	return d.Decision, nil
}

// updated says that a pod has the present template.
func (d *decision) updated(p *corev1.Pod) bool { return util.IsPodUpdated(p, d.hash, d.generation) }

// again asks to decide anew at that time; zero: never.
func (d *decision) again(at time.Time) {
	if !at.IsZero() && (d.Again.IsZero() || at.Before(d.Again)) {
		d.Again = at
	}
}
