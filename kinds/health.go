package kinds

import (
	"fmt"
	"iter"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// State of an object's health.
type State int

const (
	// Progressing: not healthy yet, and no cause is known why it should not become so.
	Progressing State = iota
	Healthy
	// Failed: a cause is known. It may become Healthy later all the same.
	Failed
)

// Health is a judgement of an object. Cause says what is missing or wrong, "CrashLoopBackOff, 2/3 ready"; empty where Healthy.
type Health struct {
	State State
	Cause string
	// Silence names the silent node that it is about, "node b has been silent for 40 s"; empty: none.
	Silence string
	// Drift is what is different from what was pushed although nothing is wrong, and is not repaired; empty: nothing.
	Drift string
	// Waits says that the cause is somebody else's to end, a gate: what wants pods tells it, too.
	Waits bool
	// Again is when the judgement may change although nothing else does; zero: never.
	Again time.Time
}

// Text is everything that is said of it; empty where Healthy.
func (h Health) Text() string {
	if h.Silence != "" {
		return h.Silence + "; " + h.Cause
	}
	return h.Cause
}

// Rule is how objects of a kind are judged.
type Rule struct {
	// Judge judges an object that is there and is not being deleted. It is pure.
	Judge func(Object, Sight) Health
	// Reads are the kinds that Judge looks at besides the object: in no other may it look.
	Reads []Read
	// Follows: it fails because what it leads to does, which is told first.
	Follows bool
}

// Read is a kind that a rule looks at.
type Read struct {
	Of schema.GroupVersionKind
	// Wakes says whether a change may change a judgement, either state being nil where there is none; nil: any may.
	Wakes func(old, new Object) bool
}

// Sight is what a rule sees: all objects, as they are at one moment. What it returns is shared.
type Sight interface {
	// Get returns the object, or nil if there is none.
	Get(Key) Object
	// List yields the objects of a kind in a namespace, or in all of them for an empty namespace, in order of their names.
	List(of schema.GroupResource, namespace string) iter.Seq[Object]
	// Controlled yields the objects whose controller has that uid, in order of their names.
	Controlled(types.UID) iter.Seq[Object]
	// Pod judges a pod. Who asks reads podReads.
	Pod(*corev1.Pod) Health
	// Silence says since when a node that counts as silent has not been heard of; empty for any other.
	Silence(node string) string
	// Once returns what find did when it was first asked by that name: what many objects depend on is found once for all.
	Once(name string, find func() any) any
	// Now is the moment.
	Now() time.Time
}

// once is Once of a T.
func once[T any](see Sight, name string, find func() T) T {
	return see.Once(name, func() any { return find() }).(T)
}

// onceThere is for what only states something: nothing can become of it, and nothing can go wrong.
func onceThere() Rule {
	return Rule{Judge: func(Object, Sight) Health { return Health{State: Healthy} }}
}

// judged is the rule of a kind whose Go type is T.
func judged[T Object](judge func(T, Sight) Health, reads ...Read) Rule {
	return Rule{Judge: func(o Object, see Sight) Health { return judge(o.(T), see) }, Reads: reads}
}

// podReads is what judging pods looks at. That a node is silent is told by its pods, which are then made unready; its
// heartbeats only tell for how long.
func podReads() []Read {
	never := func(_, _ Object) bool { return false }
	return []Read{
		{Of: core().WithKind("Pod")}, {core().WithKind("Node"), never}, {coordination().WithKind("Lease"), never},
	}
}

// podsOf returns the first failure among the pods that an object controls, in the order of their names, else Progressing.
func podsOf(controller types.UID, see Sight) Health {
	return worst(pods(see.Controlled(controller)), see)
}

// worst is the first failure, one for a silent node before all others: nothing that was heard of its pods still holds.
func worst(pods iter.Seq[*corev1.Pod], see Sight) Health {
	var again time.Time
	first := Health{}
	for p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		h := see.Pod(p)
		if h.Silence != "" {
			return h
		}
		if h.State == Failed && first.State != Failed || h.Waits && first.Cause == "" {
			first = h
		}
		if !h.Again.IsZero() && (again.IsZero() || h.Again.Before(again)) {
			again = h.Again
		}
	}
	if first.State == Failed {
		return first
	}
	if first.Waits {
		return Health{Cause: first.Cause, Waits: true, Again: again}
	}
	return Health{Again: again}
}

// pods are those among objects.
func pods(objects iter.Seq[Object]) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for o := range objects {
			if p, ok := o.(*corev1.Pod); ok && !yield(p) {
				return
			}
		}
	}
}

// failed is the failure of what wants pods, of which one fails as h says.
func (h Health) failed(count string) Health {
	if h.Silence != "" {
		return Health{State: Failed, Cause: count, Silence: h.Silence}
	}
	return failed(h.Cause, count)
}

// progressing is what wants pods and has so many of them, of which one waits as h says, or none.
func (h Health) progressing(count string) Health {
	if !h.Waits {
		return Health{Cause: count, Again: h.Again}
	}
	return Health{Cause: failed(h.Cause, count).Cause, Waits: true, Again: h.Again}
}

// failed is a failure by a cause of what has so many of what it wants: "CrashLoopBackOff: exit code 1" with "2/3 ready" is
// "CrashLoopBackOff, 2/3 ready: exit code 1".
func failed(cause, count string) Health {
	reason, detail, ok := strings.Cut(cause, ": ")
	if ok {
		detail = ": " + detail
	}
	return Health{State: Failed, Cause: reason + ", " + count + detail}
}

// ready counts what is ready of what is wanted.
func ready(n, want int32) string { return fmt.Sprintf("%d/%d ready", min(n, want), want) }

// replicas is how many are wanted where it may not be stated: one.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
