package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"lockstep/kinds"
	"lockstep/kinds/quantity"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
)

// Transformer changes values on their way to etcd and back, for encryption at rest. Key is the etcd key, so that a value
// cannot be moved to another one unnoticed. Both methods may be called by any number of goroutines at once.
type Transformer interface {
	// ToStorage returns what to store for data; it may reuse data.
	ToStorage(key string, data []byte) ([]byte, error)
	// FromStorage is its inverse; it does not change data, which it may return.
	FromStorage(key string, data []byte) ([]byte, error)
}

// Identity is the Transformer that changes nothing.
type Identity struct{}

// ToStorage returns data.
func (Identity) ToStorage(_ string, data []byte) ([]byte, error) { return data, nil }

// FromStorage returns data.
func (Identity) FromStorage(_ string, data []byte) ([]byte, error) { return data, nil }

// A value is a header and a payload. The header is the magic, one byte for the payload's encoding, one for the length of
// the writer's version, and that version. The payload has passed the Transformer; the header has not.
const magic = "lks\x01"

const (
	encodingProtobuf byte = 'p' // Kubernetes' generated protobuf of the versioned type
	encodingJSON     byte = 'j'
)

// maxValue is the largest value stored: Kubernetes' limit of an object, and two thirds of etcd's limit of a request.
const maxValue = 1 << 20

// protobuf is what Kubernetes generates for its types.
type protobuf interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// codec writes and reads values.
type codec struct {
	version     string // of this binary, at most 255 bytes
	transformer Transformer
	defaults    func(kinds.Object)
}

// encode returns the value of an object. The object's resourceVersion must be empty.
func (c codec) encode(key string, o kinds.Object) ([]byte, error) {
	if p, ok := o.(protobuf); ok && kinds.Of(o).Group != v1alpha1.GroupVersion.Group {
		return c.encodeProtobuf(key, p)
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return c.seal(key, encodingJSON, data)
}

// encodeProtobuf writes header and payload into one buffer where the transformer is the identity.
func (c codec) encodeProtobuf(key string, p protobuf) ([]byte, error) {
	size := p.Size()
	if _, plain := c.transformer.(Identity); plain {
		buf := make([]byte, len(magic)+2+len(c.version)+size)
		n := len(c.header(buf[:0], encodingProtobuf))
		_, err := p.MarshalToSizedBuffer(buf[n:])
		return buf, err
	}
	data := make([]byte, size)
	if _, err := p.MarshalToSizedBuffer(data); err != nil {
		return nil, err
	}
	return c.seal(key, encodingProtobuf, data)
}

func (c codec) header(buf []byte, encoding byte) []byte {
	buf = append(buf, magic...)
	buf = append(buf, encoding, byte(len(c.version)))
	return append(buf, c.version...)
}

func (c codec) seal(key string, encoding byte, data []byte) ([]byte, error) {
	data, err := c.transformer.ToStorage(key, data)
	if err != nil {
		return nil, err
	}
	return append(c.header(nil, encoding), data...), nil
}

var errNotOurs = errors.New("the value does not start as Lockstep's do")

// open splits a value and undoes the transformer.
func (c codec) open(key string, value []byte) (encoding byte, payload []byte, err error) {
	if len(value) < len(magic)+2 || string(value[:len(magic)]) != magic {
		return 0, nil, errNotOurs
	}
	encoding = value[len(magic)]
	start := len(magic) + 2 + int(value[len(magic)+1])
	if len(value) < start {
		return 0, nil, errNotOurs
	}
	payload, err = c.transformer.FromStorage(key, value[start:])
	return encoding, payload, err
}

// decode returns the object of an opened value, defaulted, with its kind and resourceVersion set. It panics for nothing a
// value can hold.
func (c codec) decode(k kinds.Key, encoding byte, payload []byte, revision int64) (kinds.Object, error) {
	o := kinds.ForResource(k.GroupResource()).New()
	if err := unmarshal(encoding, payload, o); err != nil {
		return nil, undecodable(k, revision, err)
	}
	return c.finish(k, o, revision)
}

// finish gives an object that has been read its defaults, kind and resourceVersion.
func (c codec) finish(k kinds.Key, o kinds.Object, revision int64) (kinds.Object, error) {
	if o.GetNamespace() != k.Namespace || o.GetName() != k.Name {
		return nil, undecodable(k, revision, fmt.Errorf("the value names itself %s/%s", o.GetNamespace(), o.GetName()))
	}
	if c.defaults != nil {
		c.defaults(o)
	}
	o.GetObjectKind().SetGroupVersionKind(kinds.Of(o).GroupVersionKind)
	o.SetResourceVersion(strconv.FormatInt(revision, 10))
	return o, nil
}

func undecodable(k kinds.Key, revision int64, err error) error {
	return fmt.Errorf("cannot decode %v at revision %d: %w", k, revision, err)
}

func (c codec) decodeInto(key string, value []byte, into any) error {
	encoding, payload, err := c.open(key, value)
	if err != nil {
		return err
	}
	return unmarshal(encoding, payload, into)
}

func unmarshal(encoding byte, payload []byte, into any) error {
	switch encoding {
	case encodingJSON:
		if err := quantity.InJSON(payload, into); err != nil {
			return err
		}
		return json.Unmarshal(payload, into)
	case encodingProtobuf:
		p, ok := into.(protobuf)
		if !ok {
			return fmt.Errorf("%T has no protobuf encoding", into)
		}
		if err := quantity.InProtobuf(payload, into); err != nil {
			return err
		}
		return p.Unmarshal(payload)
	}
	return fmt.Errorf("the encoding %q is not known", encoding)
}

func (c codec) encodeRecord(key string, r *view.Record) ([]byte, error) {
	return c.seal(key, encodingJSON, append([]byte(nil), r.Data...))
}

func (c codec) decodeRecord(key string, p place, value []byte, revision int64) (*view.Record, error) {
	encoding, payload, err := c.open(key, value)
	if err == nil && (encoding != encodingJSON || !json.Valid(payload)) {
		err = errors.New("the record is not JSON")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot decode record %s/%s at revision %d: %w", p.table, p.name, revision, err)
	}
	return &view.Record{Table: p.table, Name: p.name, Data: append([]byte(nil), payload...), Revision: revision}, nil
}
