package scheduler

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// group is the pods that affinity and spreading take for alike: of one namespace, with the same labels, and asking the same of
// where other pods are.
type group struct {
	key       string
	namespace string
	labels    labels.Set
	owner     types.UID // of the controller that spreads them by default, or empty
	leaving   bool      // they are being deleted
	terms     *terms    // nil: they ask nothing of where others are
	nodes     map[*nodeInfo]int64
}

// terms are what pods ask of where others are.
type terms struct {
	needs, avoids []term // required affinity and anti-affinity
	likes         []term // what is preferred; anti-affinity has negative weights
}

// term names pods, and the label of nodes by which they are near.
type term struct {
	namespaces []string
	spaces     labels.Selector // further namespaces, by their labels
	roams      bool            // there may be such
	pods       labels.Selector
	topology   string
	weight     int64 // of a preference
}

// all are the terms of each sort; of nil there are none.
func (t *terms) all() iter.Seq[*term] {
	return func(yield func(*term) bool) {
		if t == nil {
			return
		}
		for _, list := range [][]term{t.needs, t.avoids, t.likes} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// names says whether the pods of a group are among those that the term names.
func (t *term) names(g *group, c *cluster) bool {
	return (slices.Contains(t.namespaces, g.namespace) || t.roams && t.spaces.Matches(c.namespaceLabels(g.namespace))) &&
		t.pods.Matches(g.labels)
}

// appendGroup appends the key of a pod's group.
func appendGroup(b []byte, p *corev1.Pod) []byte {
	b = append(append(b, p.Namespace...), 0)
	if p.DeletionTimestamp != nil {
		b = append(b, '-')
	}
	b = append(append(b, spreader(p)...), 0)
	var room [16]string // pods have fewer labels than that
	names := room[:0]
	for name := range p.Labels {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = append(append(append(append(b, name...), '='), p.Labels[name]...), 0)
	}
	if a := p.Spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		both := corev1.Affinity{PodAffinity: a.PodAffinity, PodAntiAffinity: a.PodAntiAffinity}
		text, err := both.Marshal()
		if err != nil {
			text = []byte(p.UID) // alike to nobody
		}
		b = append(append(strconv.AppendInt(append(b, 1), int64(len(text)), 10), ' '), text...)
	}
	return b
}

// newGroup fails where a selector cannot be understood; the group is of use without its terms then.
func newGroup(key string, p *corev1.Pod) (*group, error) {
	g := &group{
		key: key, namespace: p.Namespace, labels: p.Labels, owner: spreader(p), leaving: p.DeletionTimestamp != nil,
		nodes: map[*nodeInfo]int64{},
	}
	a := p.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return g, nil
	}
	t := &terms{}
	var err error
	read := func(into *[]term, weight int64, from *corev1.PodAffinityTerm) {
		one, wrong := newTerm(p.Namespace, from)
		one.weight = weight
		*into, err = append(*into, one), cmp.Or(err, wrong)
	}
	if a := a.PodAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			read(&t.needs, 0, &a.RequiredDuringSchedulingIgnoredDuringExecution[i])
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			read(&t.likes, int64(w.Weight), &w.PodAffinityTerm)
		}
	}
	if a := a.PodAntiAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			read(&t.avoids, 0, &a.RequiredDuringSchedulingIgnoredDuringExecution[i])
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			read(&t.likes, -int64(w.Weight), &w.PodAffinityTerm)
		}
	}
	if err != nil {
		return g, fmt.Errorf("cannot read the pod affinity: %w", err)
	}
	g.terms = t
	return g, nil
}

// newTerm reads a term as Kubernetes does: one that names no namespace means the pod's own.
func newTerm(namespace string, from *corev1.PodAffinityTerm) (t term, err error) {
	t = term{namespaces: from.Namespaces, topology: from.TopologyKey, roams: from.NamespaceSelector != nil}
	if len(from.Namespaces) == 0 && from.NamespaceSelector == nil {
		t.namespaces = []string{namespace}
	}
	if t.spaces, err = metav1.LabelSelectorAsSelector(from.NamespaceSelector); err != nil {
		return t, err
	}
	t.pods, err = metav1.LabelSelectorAsSelector(from.LabelSelector)
	return t, err
}

// spreader is the controller whose pods Kubernetes spreads by default.
func spreader(p *corev1.Pod) types.UID {
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		switch ref.Kind {
		case "ReplicaSet", "StatefulSet", "ReplicationController":
			return ref.UID
		}
	}
	return ""
}

// members is a set of groups.
type members map[*group]struct{}

// groups are indexed by what they are looked for by.
type groups struct {
	all    map[string]*group
	spaces map[string]members    // by namespace
	owners map[types.UID]members // by owner
	social members               // those that ask something of where others are
	aims   map[string]members    // of these, those that name a namespace, by it
	roams  members               // and those that name namespaces by their labels
}

func newGroups() groups {
	return groups{all: map[string]*group{}, spaces: map[string]members{}, owners: map[types.UID]members{}, social: members{},
		aims: map[string]members{}, roams: members{}}
}

func (s *groups) add(g *group) {
	s.all[g.key] = g
	into(s.spaces, g.namespace, g)
	if g.owner != "" {
		into(s.owners, g.owner, g)
	}
	if g.terms != nil {
		s.social[g] = struct{}{}
	}
	for t := range g.terms.all() {
		for _, namespace := range t.namespaces {
			into(s.aims, namespace, g)
		}
		if t.roams {
			s.roams[g] = struct{}{}
		}
	}
}

func (s *groups) remove(g *group) {
	delete(s.all, g.key)
	outOf(s.spaces, g.namespace, g)
	outOf(s.owners, g.owner, g)
	delete(s.social, g)
	for t := range g.terms.all() {
		for _, namespace := range t.namespaces {
			outOf(s.aims, namespace, g)
		}
		delete(s.roams, g)
	}
}

func into[K comparable](sets map[K]members, k K, g *group) {
	if sets[k] == nil {
		sets[k] = members{}
	}
	sets[k][g] = struct{}{}
}

func outOf[K comparable](sets map[K]members, k K, g *group) {
	if delete(sets[k], g); len(sets[k]) == 0 {
		delete(sets, k)
	}
}
