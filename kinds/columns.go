package kinds

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Columns are what the rest of the program asks of a kind. A row states each of them: no answer is a mistake, which a test
// finds, so that a new kind is nowhere treated as if it were one of the old.
type Columns struct {
	Namespaced bool
	// Declarable kinds may stand in a manifest; the others are made by the cluster itself.
	Declarable bool
	// Status says that the kind has a status subresource.
	Status bool
	// Conditions are the types of those in the status that nodes and the cluster set, beside lockstep.dev/…, where programs may set
	// others; nil: they may set none.
	Conditions []string
	// Categories are names for several kinds together ("all").
	Categories []string
	// Adoptable: one without a controller is adopted by whoever selects it; the view finds these.
	Adoptable Answer
	// Generation: Kubernetes counts it, from 1 at creation.
	Generation Answer
	// StatusFollows: in protobuf the status is the last of three fields, after metadata and spec, and its defaults come of
	// nothing else. Most writes change nothing else, and an update whose first two are known is read from there.
	StatusFollows Answer
	// Expires: it goes by itself after a time, and nobody deletes it with its owner or namespace.
	Expires Answer
	// Confidential: no error, plan, status or page shows what it holds, and viewers do not read it.
	Confidential Answer
	// Indexes are those of the view that have its objects, beside uids and owners; None, where there are none.
	Indexes []Indexed
	// Health is the rule by which an object of the kind is healthy.
	Health Rule
	// Pods returns what an object says of the pod that it is or the pods that it makes, and the path of the specification; nil
	// for one of a kind that makes none.
	Pods func(Object) (meta *metav1.ObjectMeta, spec *corev1.PodSpec, path string)
	// Controllers are those that write to objects of the kind what a manifest may state, too, or remove them; Uncontrolled, where
	// there are none.
	Controllers []Controller
	// Scale returns how many pods an object wants and has; nil for one of a kind that is not scaled.
	Scale func(Object) *Scale
}

// Scale is what the subresource scale tells.
type Scale struct {
	Wanted   *int32 // nil: not stated
	Replicas int32
	Selector *metav1.LabelSelector
}

// Answer is a yes or a no. The zero value is neither.
type Answer int8

// The answers.
const (
	Yes Answer = 1
	No  Answer = -1
)

// Index is one that a view keeps for the kinds that ask for it.
type Index int

// The indexes.
const (
	// ByNode has pods by the node they are bound to, and under the empty name those that are not bound.
	ByNode Index = iota
	// ByService has endpoint slices by namespace/name of the service that their label names.
	ByService
	// Indexes is how many there are.
	Indexes
)

// Indexed says under which value an index has an object; not ok: it has not.
type Indexed struct {
	Index
	Value func(Object) (value string, ok bool)
}

// None are no indexes.
func None() []Indexed { return []Indexed{} }

func by[T Object](index Index, value func(T) (string, bool)) []Indexed {
	return []Indexed{{index, func(o Object) (string, bool) { return value(o.(T)) }}}
}

func noPods(Object) (*metav1.ObjectMeta, *corev1.PodSpec, string) { return nil, nil, "" }

func inTemplate(template func(Object) *corev1.PodTemplateSpec) func(Object) (*metav1.ObjectMeta, *corev1.PodSpec, string) {
	return func(o Object) (*metav1.ObjectMeta, *corev1.PodSpec, string) {
		t := template(o)
		return &t.ObjectMeta, &t.Spec, "spec.template.spec"
	}
}

func noScale(Object) *Scale { return nil }

// Scalable says whether objects of the kind have a scale.
func (k *Kind) Scalable() bool { return k.Scale(k.New()) != nil }
