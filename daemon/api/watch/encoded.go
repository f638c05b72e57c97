package watch

import (
	"bytes"
	"io"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/daemon/provenance"
	"lockstep/kinds"
)

// encoded is an object on its way to any number of watchers, encoded once for each format. It implements
// runtime.CacheableObject, through which Kubernetes' handlers find the bytes.
type encoded struct {
	object kinds.Object
	origin *provenance.Origin // nil: nobody declared it
	rev    int64              // resourceVersion to show instead of the object's own; 0: the object's own

	mu      sync.Mutex
	retired bool
	bytes   map[runtime.Identifier]*once
	leaned  *encoded // the same as lean shows it; nil until somebody asks
}

type once struct {
	sync.Once
	data []byte
	err  error
}

var _ runtime.CacheableObject = (*encoded)(nil)

// CacheEncode implements runtime.CacheableObject.
func (e *encoded) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	o := e.slot(id)
	if o == nil {
		return encode(e.GetObject(), w)
	}
	o.Do(func() {
		var buffer bytes.Buffer
		o.err = encode(e.GetObject(), &buffer)
		o.data = buffer.Bytes()
	})
	if o.err != nil {
		return o.err
	}
	_, err := w.Write(o.data)
	return err
}

// lean returns the object as lean shows it, encoded once as well.
func (e *encoded) lean() *encoded {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leaned == nil {
		e.leaned = &encoded{object: lean(e.object), rev: e.rev, retired: e.retired}
	}
	return e.leaned
}

// slot returns the place for one format's bytes, nil once the object is retired.
func (e *encoded) slot(id runtime.Identifier) *once {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired {
		return nil
	}
	if e.bytes == nil {
		e.bytes = map[runtime.Identifier]*once{}
	}
	o := e.bytes[id]
	if o == nil {
		o = &once{}
		e.bytes[id] = o
	}
	return o
}

// retire gives the bytes back; the object is encoded anew for each watcher from then on.
func (e *encoded) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired, e.bytes, e.leaned = true, nil, nil
}

// GetObject implements runtime.CacheableObject: a copy whose metadata the caller may change.
func (e *encoded) GetObject() runtime.Object {
	o := show(e.object, e.origin)
	if e.rev != 0 {
		o.SetResourceVersion(strconv.FormatInt(e.rev, 10))
	}
	return o
}

// GetObjectKind implements runtime.Object.
func (e *encoded) GetObjectKind() schema.ObjectKind { return e.object.GetObjectKind() }

// DeepCopyObject implements runtime.Object.
func (e *encoded) DeepCopyObject() runtime.Object { return e.GetObject().DeepCopyObject() }
