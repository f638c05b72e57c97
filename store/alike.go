package store

import (
	"crypto/sha256"
	"sync"
	"weak"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// Pods of one template have one specification, but for the node that each is on. It is recognised by its bytes, of which a sum is
// kept: less to decode, and one copy in memory however many pods have it.

// maxSpecs bounds the specifications that are recognised: more than the templates of a large cluster, in some 400 kB.
const maxSpecs = 8192

// nodeField is spec.nodeName, in Kubernetes' protobuf of a pod's specification.
const nodeField protowire.Number = 10

// specSum tells specifications apart by their bytes, without the node's name: nobody can make two that have one.
type specSum [sha256.Size]byte

// template is a defaulted specification that pods have, for as long as one has it: their security context, of which every pod has one
// by default, is a part of it.
type template struct {
	security corev1.PodSecurityContext
	spec     corev1.PodSpec
}

// specs finds a template that is still in use by the sum of its specification's bytes.
type specs struct {
	mu sync.Mutex
	of map[specSum]weak.Pointer[template]
}

func newSpecs() *specs { return &specs{of: map[specSum]weak.Pointer[template]{}} }

// find returns the template with the sum; nil: none is known, or not any more.
func (s *specs) find(sum specSum) *template {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[sum].Value()
}

// keep makes the specification of a pod that has just been decoded a template, until the last pod that has it is freed.
func (s *specs) keep(sum specSum, p *corev1.Pod) {
	if p.Spec.SecurityContext == nil {
		return
	}
	t := &template{security: *p.Spec.SecurityContext}
	p.Spec.SecurityContext = &t.security
	t.spec = p.Spec
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) == maxSpecs {
		clear(s.of) // those still in use are found again as they come
	}
	s.of[sum] = weak.Make(t)
}

// sumOfSpec returns the sum of a specification, which stands in its pod's payload as a field, and the name of the node in it. It fails
// where the name is not in one place.
func sumOfSpec(field []byte) (sum specSum, node string, ok bool) {
	_, _, n := protowire.ConsumeTag(field)
	if n < 0 {
		return sum, "", false
	}
	spec, n := protowire.ConsumeBytes(field[n:])
	if n < 0 {
		return sum, "", false
	}
	from, to := 0, 0
	for at := 0; at < len(spec); {
		number, kind, size := protowire.ConsumeField(spec[at:])
		if size < 0 || number == nodeField && (to > 0 || kind != protowire.BytesType) {
			return sum, "", false
		}
		if number == nodeField {
			_, _, tag := protowire.ConsumeTag(spec[at:])
			name, _ := protowire.ConsumeBytes(spec[at+tag:])
			from, to, node = at, at+size, string(name)
		}
		at += size
	}
	h := sha256.New()
	h.Write(spec[:from])
	h.Write(spec[to:])
	h.Sum(sum[:0])
	return sum, node, true
}

// decodePod reads a pod's payload, of which the metadata end at one place and the specification at another.
func (f *folder) decodePod(k kinds.Key, payload []byte, metadata, spec int, revision int64) (kinds.Object, error) {
	sum, node, known := sumOfSpec(payload[metadata:spec])
	if !known {
		return f.codec.decode(k, encodingProtobuf, payload, revision)
	}
	if like := f.specs.find(sum); like != nil {
		p := &corev1.Pod{}
		if unmarshal(encodingProtobuf, payload[:metadata], p) == nil && unmarshal(encodingProtobuf, payload[spec:], p) == nil {
			o, err := f.codec.finish(k, p, revision) // the template has its specification's defaults, which are the same on any node
			p.Spec = like.spec
			p.Spec.NodeName = node
			return o, err
		}
	}
	o, err := f.codec.decode(k, encodingProtobuf, payload, revision)
	if err == nil {
		f.specs.keep(sum, o.(*corev1.Pod))
	}
	return o, err
}
