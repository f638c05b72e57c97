package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"lockstep/kinds"
	"lockstep/kinds/quantity"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
)

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

// encodeProtobuf writes header and payload into one buffer where the value is stored as it is.
func (c codec) encodeProtobuf(key string, p protobuf) ([]byte, error) {
	size := p.Size()
	if !c.transformer.Seals(key) {
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
	header := c.header(make([]byte, 0, len(magic)+2+len(c.version)), encoding)
	if c.transformer.Seals(key) {
		return c.transformer.ToStorage(key, header, data)
	}
	return append(header, data...), nil
}

var errNotOurs = errors.New("the value does not start as Lockstep's do")

// opened is a value without its header, and without its seal.
type opened struct {
	encoding byte
	payload  []byte
	// by is the name of the key that the payload was sealed with; empty: it was not.
	by string
}

// open splits a value and undoes the transformer. An error that is an unreadable says that the value is one of ours, and sealed so
// that it cannot be read here.
func (c codec) open(key string, value []byte) (opened, error) {
	if len(value) < len(magic)+2 || string(value[:len(magic)]) != magic {
		return opened{}, errNotOurs
	}
	start := len(magic) + 2 + int(value[len(magic)+1])
	if len(value) < start {
		return opened{}, errNotOurs
	}
	v := opened{encoding: value[len(magic)], payload: value[start:]}
	if !bytes.HasPrefix(v.payload, []byte(SealedPrefix)) && !c.transformer.Seals(key) {
		return v, nil
	}
	var err error
	if v.payload, v.by, err = c.transformer.FromStorage(key, v.payload); err != nil {
		return v, &unreadable{by: v.by, err: err}
	}
	return v, nil
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
	v, err := c.open(key, value)
	if err != nil {
		return err
	}
	return unmarshal(v.encoding, v.payload, into)
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
	return c.seal(key, encodingJSON, r.Data)
}

func (c codec) decodeRecord(p place, v opened, revision int64) (*view.Record, error) {
	if v.encoding != encodingJSON || !json.Valid(v.payload) {
		return nil, undecodableRecord(p, revision, errors.New("the record is not JSON"))
	}
	return &view.Record{Table: p.table, Name: p.name, Data: append([]byte(nil), v.payload...), Revision: revision}, nil
}

func undecodableRecord(p place, revision int64, err error) error {
	return fmt.Errorf("cannot decode record %s/%s at revision %d: %w", p.table, p.name, revision, err)
}
