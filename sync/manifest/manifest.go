// Package manifest turns the files of a revision into the objects they state, or into every error they contain.
//
// Read are files whose name ends in .yaml, .yml or .json, at any depth, except those whose path has a part that starts
// with a dot. A YAML file holds any number of documents, a JSON file any number of values; each is an object, a List of
// objects, or empty. The order of files and documents has no meaning. An object of a namespaced kind that names no
// namespace is in the namespace default, as with kubectl.
package manifest

import (
	"encoding/json"
	"fmt"
	"strings"

	"lockstep/internal/plain"
	"lockstep/kinds"
)

// Limits of what is read. Each is an error of its own where it is passed.
const (
	// MaxObject bounds one object in bytes of JSON; etcd takes requests of 1.5 MiB.
	MaxObject = 1 << 20
	// MaxFile bounds one file in bytes.
	MaxFile = 10 << 20
	// MaxObjects bounds the objects of one source: what one watch, one plan and one status page are built for.
	MaxObjects = 20_000
	// MaxSource bounds what the files of one source have together, in bytes: three times MaxObjects of a usual size.
	MaxSource = 128 << 20
	// MaxMemory bounds about what the objects of one source take in memory: MaxObjects of 25 KiB, several times a usual one.
	// A text that is made for it becomes forty times as much.
	MaxMemory = 512 << 20
	// MaxPorts bounds what one service adds to each node's rules: its ports, for each address that it has. A node takes 0.2 s
	// to load the rules of a thousand, and 9 s for those of the 30,000 that an object has room for.
	MaxPorts = 1_000
	// MaxSlicePorts bounds the same of an EndpointSlice or of Endpoints: ports, for each endpoint. A thousand endpoints of ten ports.
	MaxSlicePorts = 10_000
	// MaxReached bounds what the services and EndpointSlices of one source have of both together: several times what
	// MaxObjects services have, and about what a node takes 15 s to load.
	MaxReached = 200_000
	// MaxReplicas bounds the pods that one object asks for by its scale, or a Job at once and in all: as many as a whole cluster has
	// at most by Kubernetes' own bounds. What two thousand million would take is all that the control plane has.
	MaxReplicas = 150_000
	// MaxDepth bounds the nesting of mappings and lists; the deepest field of Kubernetes' types is at about 20.
	MaxDepth = 100
	// MaxValues bounds the values of one document. The parser takes some 300 bytes for each, and a document of MaxObject
	// bytes cannot have more.
	MaxValues = 1 << 20
	// MaxAliased bounds the values that a document's aliases expand to, far above honest use and far below a bomb's.
	MaxAliased = 100_000
	// MaxErrors bounds the errors reported of one file.
	MaxErrors = 100
)

// File is one file of a revision.
type File struct {
	// Path is slash-separated and relative to the root of the source; it is what errors name.
	Path string
	// Hash identifies the content: files with equal hashes are parsed once. Empty means unknown; such a file is parsed
	// every time.
	Hash string
	// Data returns the content. It is called only where the content is needed, from any goroutine.
	Data func() ([]byte, error)
}

// Options are optional; the zero value reads everything.
type Options struct {
	// IgnoreKinds are kinds to skip wherever they stand: "Kind", "Kind.group", "*.group" for all of a group, or "*" for all that
	// are not served. Nothing of such an object is checked.
	IgnoreKinds []string
}

// Object is one object as a manifest states it. Objects are shared between sets and never changed.
type Object struct {
	Key kinds.Key
	// Object is what creating it would store: with Kubernetes' defaults, prepared and validated for creation, without
	// uid, resourceVersion and creationTimestamp.
	Object kinds.Object
	// Stated is what the file states and nothing more, as JSON with sorted keys, apiVersion and kind, in the shape and with
	// the values that Object has in JSON, so that both compare: quantities are canonical, a secret's stringData stands in
	// data. Left out are nulls, status, and metadata that only a server sets.
	Stated json.RawMessage
	// File, Line and Column are where the object begins, from 1.
	File         string
	Line, Column int

	rank    int // of its kind in kinds.All
	ordinal int // which object of the file, for finding a field's position again
}

// Place is where the object stands, "cart.yaml:14".
func (o *Object) Place() string { return fmt.Sprintf("%s:%d", o.File, o.Line) }

// Error is one thing wrong with one file.
type Error struct {
	File         string
	Line, Column int    // from 1; 0 where the file as a whole is meant
	Object       string // "Deployment shop/cart"; empty where it is not known
	Field        string // "spec.replicas"; empty where no field is meant
	Message      string

	skip string // the pattern that would skip the object, where its kind is all that is wrong with it
}

// maxPart bounds each part of an error's text in bytes: a path of fields, or a message that quotes a value.
const maxPart = 1024

// Error writes "cart.yaml:14:7: Deployment shop/cart: spec.replicas: wrong type: …", without what is not known. It never has
// a value from a Secret.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(plain.Text(e.File))
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	for _, part := range []string{e.Object, e.Field, e.Message} {
		if part != "" {
			if b.Len() > 0 {
				b.WriteString(": ")
			}
			b.WriteString(plain.Cut(part, maxPart))
		}
	}
	return b.String()
}

// Errors are all errors of a revision, in order of file and position.
type Errors []*Error

// Error writes one error a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}
