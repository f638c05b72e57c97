package engine

import (
	"encoding/binary"
	"hash/fnv"

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

// names finds names for objects that have only a generateName. One seed gives one sequence of them.
type names struct {
	seed  uint64
	tries uint64
}

// generate sets the name of o, which has none, to one that the view does not have.
func (n *names) generate(v *view.View, o kinds.Object) {
	base := o.GetGenerateName()
	if len(base) > baseLength {
		base = base[:baseLength]
	}
	for {
		n.tries++
		o.SetName(base + suffix(n.seed, n.tries, base))
		if v.Get(kinds.KeyOf(o)) == nil {
			return
		}
	}
}

func suffix(seed, try uint64, base string) string {
	h := fnv.New64a()
	// A hash's Write returns no error.
	_, _ = h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, try), seed))
	_, _ = h.Write([]byte(base))
	sum := h.Sum64()
	text := make([]byte, suffixLength)
	for i := range text {
		text[i] = suffixAlphabet[sum%uint64(len(suffixAlphabet))]
		sum /= uint64(len(suffixAlphabet))
	}
	return string(text)
}
