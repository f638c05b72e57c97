package store

import (
	"crypto/sha256"
	"sync"
	"weak"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// Pods of one template have one specification, and once they are bound one a node. It is recognised by its bytes, of which a sum
// is kept: less to decode, and one copy in memory however many pods have it.

// maxSpecs bounds the specifications that are recognised: more than a node each of a large cluster, in some 400 kB.
const maxSpecs = 8192

// specSum tells specifications apart by their bytes: nobody can make two that have one.
type specSum [sha256.Size]byte

// specs finds a pod that is still in use by the sum of its specification's bytes.
type specs struct {
	mu sync.Mutex
	of map[specSum]weak.Pointer[corev1.Pod]
}

func newSpecs() *specs { return &specs{of: map[specSum]weak.Pointer[corev1.Pod]{}} }

// find returns a decoded pod whose specification has the sum; nil: none is known, or not any more.
func (s *specs) find(sum specSum) *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[sum].Value()
}

// keep remembers a decoded pod, which does not change any more, until it is freed.
func (s *specs) keep(sum specSum, p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) == maxSpecs {
		clear(s.of) // those still in use are found again as they come
	}
	s.of[sum] = weak.Make(p)
}

// decodePod reads a pod's payload, of which the metadata end at one place and the specification at another.
func (f *folder) decodePod(k kinds.Key, payload []byte, metadata, spec int, revision int64) (kinds.Object, error) {
	sum := specSum(sha256.Sum256(payload[metadata:spec]))
	if like := f.specs.find(sum); like != nil {
		p := &corev1.Pod{}
		if unmarshal(encodingProtobuf, payload[:metadata], p) == nil && unmarshal(encodingProtobuf, payload[spec:], p) == nil {
			o, err := f.codec.finish(k, p, revision) // its specification's defaults are with the other pod
			p.Spec = like.Spec
			return o, err
		}
	}
	o, err := f.codec.decode(k, encodingProtobuf, payload, revision)
	if err == nil {
		f.specs.keep(sum, o.(*corev1.Pod))
	}
	return o, err
}
