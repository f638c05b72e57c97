package store

import (
	"hash/maphash"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"lockstep/kinds"
)

// Most writes change an object's status and nothing else. Such an update is recognised by the bytes of its metadata and
// spec, of which a sum is kept, and takes them from the object it follows: less to decode, and one copy in memory
// however many versions are alive.

// sums are those of the metadata and spec of the objects in the view, by a sum of their keys; so a garbage collection
// need not look at them. The seed is random: nobody can make two values that have one sum.
type sums struct {
	seed maphash.Seed
	mu   sync.RWMutex
	of   map[uint64]sum
}

// sum is of the metadata and spec that an object has at a revision; the zero sum says that none is kept.
type sum struct {
	revision int64
	bytes    uint64
}

func newSums() *sums { return &sums{seed: maphash.MakeSeed(), of: map[uint64]sum{}} }

// make returns the sum of a value's head.
func (s *sums) make(revision int64, head []byte) sum {
	return sum{revision: revision, bytes: maphash.Bytes(s.seed, head)}
}

// same says that an object read at a revision has the metadata and spec of which a sum was made now.
func (s *sums) same(key string, revision int64, now sum) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.of[maphash.String(s.seed, key)] == sum{revision: revision, bytes: now.bytes}
}

// keep remembers the sums of items that are in the view from now on.
func (s *sums) keep(items []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		if it.sum != (sum{}) {
			s.of[maphash.String(s.seed, it.etcdKey)] = it.sum
		} else if it.place.part == objectPart {
			delete(s.of, maphash.String(s.seed, it.etcdKey))
		}
	}
}

// forget drops all sums.
func (s *sums) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.of)
}

// followed returns the object whose metadata and spec are those of an earlier one and whose status is the rest of a
// payload, defaulted; nil where it is to be decoded whole.
func (c codec) followed(old kinds.Object, rest []byte, revision int64) kinds.Object {
	kind := kinds.Of(old)
	if kind.StatusFollows != kinds.Yes {
		return nil
	}
	status := kind.New()
	if unmarshal(encodingProtobuf, rest, status) != nil {
		return nil
	}
	if c.defaults != nil {
		c.defaults(status)
	}
	o := kind.WithStatus(old, status)
	o.SetResourceVersion(strconv.FormatInt(revision, 10))
	return o
}

// headOf returns where in a payload the metadata end and where the spec after them, where only the status follows; else zero.
// Kubernetes' workload kinds have these three as fields 1, 2 and 3.
func headOf(payload []byte) (metadata, head int) {
	for field := protowire.Number(1); field <= 3; field++ {
		rest := payload[head:]
		number, kind, n := protowire.ConsumeTag(rest)
		if number != field || kind != protowire.BytesType {
			return 0, 0
		}
		_, m := protowire.ConsumeBytes(rest[n:])
		switch {
		case m < 0:
			return 0, 0
		case field == 1:
			metadata, head = n+m, n+m
		case field == 2:
			head += n + m
		case n+m < len(rest):
			return 0, 0
		}
	}
	return metadata, head
}
