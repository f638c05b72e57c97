package manifest

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// node is one value of a file, with the position it stands at. Aliases are expanded and merge keys merged.
type node struct {
	shape        shape
	line, column int
	text         string  // a string's value; the JSON text of a number or boolean
	fields       []entry // of a mapping, in the file's order, duplicates included
	items        []*node // of a list
}

// entry is one key of a mapping.
type entry struct {
	name         string
	line, column int
	value        *node
	again        int // the line where the same key stands first; 0 for that one
}

type shape int

const (
	null shape = iota
	boolean
	number
	text
	list
	mapping
)

func (s shape) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "a mapping"}[s]
}

// settle marks the keys that stand more than once.
func (n *node) settle() {
	first := make(map[string]int, len(n.fields))
	for i := range n.fields {
		e := &n.fields[i]
		if line, found := first[e.name]; found {
			e.again = line
		} else {
			first[e.name] = e.line
		}
	}
}

// get returns the value of the first key with that name, or nil; n may be nil.
func (n *node) get(name string) *node {
	if e := n.entry(name); e != nil {
		return e.value
	}
	return nil
}

func (n *node) entry(name string) *entry {
	if n == nil {
		return nil
	}
	for i := range n.fields {
		if n.fields[i].name == name {
			return &n.fields[i]
		}
	}
	return nil
}

// string returns the value of a string, or "".
func (n *node) string() string {
	if n == nil || n.shape != text {
		return ""
	}
	return n.text
}

// drop removes every key with one of the names.
func (n *node) drop(names ...string) {
	if n == nil {
		return
	}
	kept := n.fields[:0]
	for _, e := range n.fields {
		if !slices.Contains(names, e.name) {
			kept = append(kept, e)
		}
	}
	n.fields = kept
}

// zero says that the value is what Go's zero value is in JSON, or empty.
func (n *node) zero() bool {
	switch n.shape {
	case null:
		return true
	case boolean:
		return n.text == "false"
	case number:
		return strings.Trim(n.text, "-0.") == ""
	case text:
		return n.text == ""
	case list:
		return len(n.items) == 0
	default:
		return len(n.fields) == 0
	}
}

// appendJSON writes the value as JSON; of equal keys only the first.
func (n *node) appendJSON(b []byte) []byte {
	switch n.shape {
	case null:
		return append(b, "null"...)
	case boolean, number:
		return append(b, n.text...)
	case text:
		return appendQuoted(b, n.text)
	case list:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.appendJSON(b)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	written := false
	for i := range n.fields {
		e := &n.fields[i]
		if e.again > 0 {
			continue
		}
		if written {
			b = append(b, ',')
		}
		written = true
		b = append(appendQuoted(b, e.name), ':')
		b = e.value.appendJSON(b)
	}
	return append(b, '}')
}

func appendQuoted(b []byte, s string) []byte {
	buf := bytes.NewBuffer(b)
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string and a buffer: cannot fail
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}
