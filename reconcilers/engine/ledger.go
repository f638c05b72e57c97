package engine

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/store/view"
)

// ledger knows what is being created where a quota counts it, and is not in the view yet. Keys are decided side by side: each
// would find the same room. It forgets what the view has, so it holds at most what is on its way.
type ledger struct {
	mu       sync.Mutex
	promised map[kinds.Object]int64 // the revision that has it; zero: not written yet
}

// written tells what became of an object that was promised.
func (l *ledger) written(o kinds.Object, revision int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.promised[o]; !ok {
		return
	}
	if err != nil {
		delete(l.promised, o)
	} else {
		l.promised[o] = revision
	}
}

// reached forgets what every view from now on has.
func (l *ledger) reached(revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for o, at := range l.promised {
		if at != 0 && at <= revision {
			delete(l.promised, o)
		}
	}
}

// charging is a decision that charges what it creates to the quotas of its namespaces. From the first that there is until it is
// closed, no other charges anything.
type charging struct {
	ledger *ledger
	view   func() *view.View // the newest
	now    time.Time
	quotas *admission.Quotas // nil: the ledger is not held
	seen   map[string]bool   // namespaces of which the promises are counted
}

func (c *charging) charge(o kinds.Object) *field.Error {
	namespace := o.GetNamespace()
	if namespace == "" || !limited(c.view(), namespace) {
		return nil
	}
	if c.quotas == nil {
		c.ledger.mu.Lock()
		v := c.view()
		c.quotas, c.seen = admission.NewQuotas(v, v, c.now), map[string]bool{}
	}
	if !c.seen[namespace] {
		c.seen[namespace] = true
		c.count(namespace)
	}
	err := c.quotas.Charge(o, nil)
	if err == nil {
		if c.ledger.promised == nil {
			c.ledger.promised = map[kinds.Object]int64{}
		}
		c.ledger.promised[o] = 0
	}
	return err
}

// count adds what is promised in a namespace.
func (c *charging) count(namespace string) {
	for o := range c.ledger.promised {
		if o.GetNamespace() == namespace {
			c.quotas.Promise(o)
		}
	}
}

func (c *charging) close() {
	if c.quotas != nil {
		c.ledger.mu.Unlock()
	}
}

func limited(v *view.View, namespace string) bool {
	for range view.List[*corev1.ResourceQuota](v, namespace) {
		return true
	}
	return false
}
