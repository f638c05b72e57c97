package engine

import (
	"math/rand/v2"
	"sync"

	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// suffixLength and suffixAlphabet are Kubernetes' (k8s.io/apiserver/pkg/storage/names): no vowels, no look-alikes.
	suffixLength   = 5
	suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	// baseLength leaves room for the suffix in a DNS label of 63.
	baseLength = 63 - suffixLength
)

// names finds names for objects that have only a generateName.
type names struct {
	mu   sync.Mutex
	rand *rand.Rand
}

func newNames(seed uint64) *names {
	if seed == 0 {
		seed = rand.Uint64()
	}
	return &names{rand: rand.New(rand.NewPCG(seed, 0))}
}

// generate sets the name of o, which has none, to one that the view does not have.
func (n *names) generate(v *view.View, o kinds.Object) {
	base := o.GetGenerateName()
	if len(base) > baseLength {
		base = base[:baseLength]
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		suffix := make([]byte, suffixLength)
		for i := range suffix {
			suffix[i] = suffixAlphabet[n.rand.IntN(len(suffixAlphabet))]
		}
		o.SetName(base + string(suffix))
		if v.Get(kinds.KeyOf(o)) == nil {
			return
		}
	}
}
