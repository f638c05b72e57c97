package plan

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/ingress"
	"lockstep/store/view"
)

// after is a view once an inventory is carried out, as far as admission asks for it: what it reads is created first.
type after struct {
	inventory []Desired
	view      *view.View
	rules     Rules
	entries   map[apischema.GroupResource]map[kinds.Key]kinds.Object // nil: is to go
	sizes     map[kinds.Key][]kinds.Key                              // by scalers
	left      map[kinds.Key]string                                   // by unscaled, where it was asked
}

// changed are the objects of a kind that the inventory states and the view has not, or not so.
func (a *after) changed(of apischema.GroupResource) map[kinds.Key]kinds.Object {
	if changed, known := a.entries[of]; known {
		return changed
	}
	changed := map[kinds.Key]kinds.Object{}
	for i := range a.inventory {
		entry := &a.inventory[i]
		if entry.State == Applied || entry.Key.GroupResource() != of {
			continue
		}
		changed[entry.Key] = nil
		if o, err := decode(entry.Key, entry.Object); err == nil && entry.State != Pruning {
			a.rules.Default(o)
			changed[entry.Key] = o
		}
	}
	if a.entries == nil {
		a.entries = map[apischema.GroupResource]map[kinds.Key]kinds.Object{}
	}
	a.entries[of] = changed
	return changed
}

// Get is that of a view.
func (a *after) Get(k kinds.Key) kinds.Object {
	if o, ok := a.changed(k.GroupResource())[k]; ok {
		return o
	}
	return a.view.Get(k)
}

// List is that of a view, with what is new at the end.
func (a *after) List(of apischema.GroupResource, namespace string) iter.Seq[kinds.Object] {
	return func(yield func(kinds.Object) bool) {
		changed := a.changed(of)
		for o := range a.view.List(of, namespace) {
			if _, ok := changed[kinds.KeyOf(o)]; !ok && !yield(o) {
				return
			}
		}
		for _, k := range slices.SortedFunc(maps.Keys(changed), compare) {
			if o := changed[k]; o != nil && (namespace == "" || k.Namespace == namespace) && !yield(o) {
				return
			}
		}
	}
}

// admission finds what admission would refuse once the steps are carried out: pods of what they write, a second default among
// the priority classes, claims that may not grow, Ingresses that ask for what is not done. What is unchanged is looked at where it
// would lose its class.
func (d *decision) admission(steps []Step, then *after) Problems {
	var problems Problems
	refuse := func(entry *Desired, field, reason string) {
		problems = append(problems, Problem{Origin: entry.Origin, Key: entry.Key, Field: field, Message: field + ": " + reason})
	}
	written := make(map[kinds.Key]bool, len(steps))
	for i := range steps {
		s := &steps[i]
		if s.Verb != Create && s.Verb != Update {
			continue
		}
		written[s.Key] = true
		if c, ok := s.Object.(*schedulingv1.PriorityClass); ok && c.GlobalDefault {
			if other := anotherDefault(c, then); other != "" {
				refuse(&s.Entry, "globalDefault",
					fmt.Sprintf("PriorityClass %s is already marked as default. Only one default can exist", other))
			}
		}
		if claim, ok := s.Object.(*corev1.PersistentVolumeClaim); ok && s.Verb == Update {
			if err := admission.Resize(claim, s.Live.(*corev1.PersistentVolumeClaim), then); err != nil {
				refuse(&s.Entry, err.Field, err.Detail)
			}
		}
		if field, reason := refusedPods(s.Object, then); reason != "" {
			refuse(&s.Entry, field, reason)
		}
		if reason := insecure(s, then); reason != "" {
			refuse(&s.Entry, "spec", reason)
		}
		if i, ok := s.Object.(*networkingv1.Ingress); ok {
			for _, f := range unserved(i, then) {
				refuse(&s.Entry, f.Field, f.Message)
			}
		}
	}
	problems = append(problems, d.takenUp(written, then)...)
	if !loses(then) {
		return problems
	}
	for i := range d.inventory {
		entry := &d.inventory[i]
		if written[entry.Key] || entry.State != Applied {
			continue
		}
		if o, err := decode(entry.Key, entry.Object); err == nil {
			if field, reason := withoutClass(o, then); reason != "" {
				refuse(entry, field, reason)
			}
		}
	}
	return problems
}

// unserved is what Lockstep's ingress does not do of what an Ingress asks for, where it is to serve it.
func unserved(i *networkingv1.Ingress, in *after) []ingress.Fault {
	classes := admission.IngressClasses(in)
	if !classes.Ours(i) {
		return nil
	}
	_, faults := ingress.Read(i)
	return faults
}

// takenUp finds what Lockstep's ingress does not do of Ingresses that are unchanged, where the revision changes their class.
func (d *decision) takenUp(written map[kinds.Key]bool, then *after) (problems Problems) {
	if len(then.changed(kinds.For[*networkingv1.IngressClass]().GroupResource())) == 0 {
		return nil
	}
	kind := kinds.For[*networkingv1.Ingress]().GroupResource()
	for i := range d.inventory {
		entry := &d.inventory[i]
		if entry.Key.GroupResource() != kind || written[entry.Key] || entry.State == Pruning {
			continue
		}
		o, ok := then.Get(entry.Key).(*networkingv1.Ingress)
		if !ok {
			continue
		}
		for _, f := range unserved(o, then) {
			problems = append(problems, Problem{Origin: entry.Origin, Key: entry.Key, Field: f.Field, Message: f.Field + ": " + f.Message})
		}
	}
	return problems
}

func anotherDefault(c *schedulingv1.PriorityClass, in admission.Cluster) string {
	for o := range in.List(kinds.Of(c).GroupResource(), "") {
		if other := o.(*schedulingv1.PriorityClass); other.GlobalDefault && other.Name != c.Name {
			return other.Name
		}
	}
	return ""
}

// refusedPods says why the pods that an object makes, or claims that are made for them, would be refused, and for which of its fields.
func refusedPods(o kinds.Object, in *after) (field, reason string) {
	if field, reason = withoutClass(o, in); reason != "" {
		return field, reason
	}
	if pod, at := podOf(o); pod != nil {
		if err := in.rules.Admit(pod, in); err != nil {
			return at + strings.TrimPrefix(err.Field, "spec"), err.Detail
		}
	}
	for _, c := range templatesOf(o) {
		if err := in.rules.Admit(c.claim, in); err != nil {
			return c.at + "." + err.Field, err.Detail
		}
	}
	return "", ""
}

// claimTemplate is a claim as a template has it made, and the path of the template.
type claimTemplate struct {
	claim *corev1.PersistentVolumeClaim
	at    string
}

// templatesOf are the claims that are made for the pods of an object, or for the pod that it is.
func templatesOf(o kinds.Object) (out []claimTemplate) {
	if set, ok := o.(*appsv1.StatefulSet); ok {
		for i := range set.Spec.VolumeClaimTemplates {
			out = append(out, claimTemplate{set.Spec.VolumeClaimTemplates[i].DeepCopy(), fmt.Sprintf("spec.volumeClaimTemplates[%d]", i)})
		}
	}
	if _, spec, at := kinds.Of(o).Pods(o); spec != nil {
		for i := range spec.Volumes {
			if v := spec.Volumes[i].Ephemeral; v != nil && v.VolumeClaimTemplate != nil {
				claim := &corev1.PersistentVolumeClaim{Spec: *v.VolumeClaimTemplate.Spec.DeepCopy()}
				out = append(out, claimTemplate{claim, fmt.Sprintf("%s.volumes[%d].ephemeral.volumeClaimTemplate", at, i)})
			}
		}
	}
	for _, c := range out {
		c.claim.Namespace = o.GetNamespace()
	}
	return out
}

// podOf returns a pod as an object makes them, and the path of the template's spec; nil: it makes none.
func podOf(o kinds.Object) (pod *corev1.Pod, at string) {
	meta, spec, at := kinds.Of(o).Pods(o)
	if _, itself := o.(*corev1.Pod); itself || spec == nil {
		return nil, ""
	}
	pod = &corev1.Pod{ObjectMeta: *meta.DeepCopy(), Spec: *spec.DeepCopy()}
	pod.Namespace = o.GetNamespace()
	return pod, at
}

func loses(in *after) bool {
	for _, kind := range []*kinds.Kind{kinds.For[*schedulingv1.PriorityClass](), kinds.For[*nodev1.RuntimeClass]()} {
		for _, c := range in.changed(kind.GroupResource()) {
			if c == nil {
				return true
			}
		}
	}
	return false
}

// withoutClass says that the pods that an object makes, or is to be, have a class that goes. A pod that is there has what it needs.
func withoutClass(o kinds.Object, in *after) (field, reason string) {
	_, spec, at := kinds.Of(o).Pods(o)
	if _, itself := o.(*corev1.Pod); spec == nil || itself && in.view.Get(kinds.KeyOf(o)) != nil {
		return "", ""
	}
	for _, named := range []struct {
		kind        *kinds.Kind
		name, field string
	}{
		{kinds.For[*schedulingv1.PriorityClass](), spec.PriorityClassName, ".priorityClassName"},
		{kinds.For[*nodev1.RuntimeClass](), ptr.Deref(spec.RuntimeClassName, ""), ".runtimeClassName"},
	} {
		if c, changed := in.changed(named.kind.GroupResource())[named.kind.Key("", named.name)]; changed && c == nil {
			return at + named.field, fmt.Sprintf("%s %s is removed by this revision", named.kind.Kind, named.name)
		}
	}
	return "", ""
}
