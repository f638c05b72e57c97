package manifest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"gopkg.in/yaml.v3"
)

// parseYAML reads one document.
func parseYAML(c chunk, p *prober) (v value) {
	var document yaml.Node
	if structural(c.text) > MaxValues {
		return value{err: faultAt(c.line+1, 1, "the document has more than %d values", MaxValues)}
	}
	if err := decodeYAML(c.text, &document); errors.Is(err, io.EOF) {
		return value{}
	} else if err != nil {
		return value{err: p.fault(c, err)}
	}
	e := expander{line: c.line, aliased: MaxAliased, text: MaxFile}
	root, err := e.expand(&document, 0)
	if err != nil {
		return value{err: err}
	}
	if root.shape == null {
		return value{}
	}
	return value{root: root}
}

// structural counts the characters of which a document's values have at least one each.
func structural(text []byte) (n int) {
	for _, b := range text {
		switch b {
		case ',', ':', '\n', '\r', '[', '{', '-', '?':
			n++
		}
	}
	return n
}

// decodeYAML decodes a text that is one document and nothing else. It turns a panic of the parser, which takes any input,
// into an error.
func decodeYAML(data []byte, into *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: the parser gave up on this document")
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(into); err != nil {
		return err
	}
	switch err := decoder.Decode(&yaml.Node{}); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return errors.New("yaml: " + follows)
}

// expander turns YAML nodes into ours, with the meaning that Kubernetes' YAML library gives to scalars.
type expander struct {
	line    int          // lines of the file before the document
	aliased int          // values that aliases may still expand to
	text    int          // bytes of them
	within  int          // how many aliases are being expanded
	open    []*yaml.Node // their anchors
}

func (e *expander) fault(n *yaml.Node, format string, args ...any) *fault {
	return faultAt(e.line+n.Line, n.Column, format, args...)
}

func (e *expander) expand(n *yaml.Node, depth int) (*node, *fault) {
	if depth > MaxDepth {
		return nil, e.fault(n, "nested deeper than %d levels", MaxDepth)
	}
	if e.within > 0 {
		if e.aliased--; e.aliased < 0 {
			return nil, e.fault(n, "aliases of this document expand to more than %d values", MaxAliased)
		}
		if e.text -= len(n.Value); e.text < 0 {
			return nil, e.fault(n, "aliases of this document expand to more than %d MiB", MaxFile>>20)
		}
	}
	out := &node{line: e.line + n.Line, column: n.Column}
	switch n.Kind {
	case yaml.DocumentNode:
		return e.expand(n.Content[0], depth)
	case yaml.AliasNode:
		return e.alias(n, depth)
	case yaml.SequenceNode:
		out.shape = list
		for _, item := range n.Content {
			child, f := e.expand(item, depth+1)
			if f != nil {
				return nil, f
			}
			out.items = append(out.items, child)
		}
		return out, e.collectionTag(n, "!!seq")
	case yaml.MappingNode:
		out.shape = mapping
		if f := e.mapping(n, out, depth); f != nil {
			return nil, f
		}
		return out, e.collectionTag(n, "!!map")
	default:
		return out, e.scalar(n, out)
	}
}

func (e *expander) collectionTag(n *yaml.Node, want string) *fault {
	if n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != want {
		return e.fault(n, "a tag of this kind is not supported")
	}
	return nil
}

func (e *expander) alias(n *yaml.Node, depth int) (*node, *fault) {
	for _, anchor := range e.open {
		if anchor == n.Alias {
			return nil, e.fault(n, "an alias stands inside its own anchor")
		}
	}
	e.open = append(e.open, n.Alias)
	e.within++
	out, f := e.expand(n.Alias, depth)
	e.within--
	e.open = e.open[:len(e.open)-1]
	return out, f
}

// mapping expands keys and values. Keys of merged mappings come last, and only those that are not stated.
func (e *expander) mapping(n *yaml.Node, out *node, depth int) *fault {
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge" {
			merges = append(merges, v)
			continue
		}
		name, f := e.key(k, depth)
		if f != nil {
			return f
		}
		child, f := e.expand(v, depth+1)
		if f != nil {
			return f
		}
		out.fields = append(out.fields, entry{name: name, line: e.line + k.Line, column: k.Column, value: child})
	}
	out.settle()
	if len(merges) == 0 {
		return nil
	}
	stated := make(map[string]bool, len(out.fields))
	for _, field := range out.fields {
		stated[field.name] = true
	}
	for _, m := range merges {
		if f := e.merge(m, out, stated, depth); f != nil {
			return f
		}
	}
	return nil
}

func (e *expander) merge(from *yaml.Node, out *node, stated map[string]bool, depth int) *fault {
	merged, f := e.expand(from, depth+1)
	if f != nil {
		return f
	}
	sources := []*node{merged}
	if merged.shape == list {
		sources = merged.items
	}
	for _, source := range sources {
		if source.shape != mapping {
			return e.fault(from, "only a mapping, or a list of mappings, can be merged by <<")
		}
		for _, field := range source.fields {
			if !stated[field.name] {
				stated[field.name] = true
				out.fields = append(out.fields, field)
			}
		}
	}
	return nil
}

// key returns the JSON key that a YAML key becomes.
func (e *expander) key(k *yaml.Node, depth int) (string, *fault) {
	n, f := e.expand(k, depth+1)
	if f != nil {
		return "", f
	}
	switch n.shape {
	case text, number, boolean:
		return n.text, nil
	}
	return "", e.fault(k, "a key must be a string, not %v", n.shape)
}

// legacyBooleans are YAML 1.1's, which Kubernetes still reads in plain scalars.
var legacyBooleans = map[string]string{
	"y": "true", "Y": "true", "yes": "true", "Yes": "true", "YES": "true", "on": "true", "On": "true", "ON": "true",
	"n": "false", "N": "false", "no": "false", "No": "false", "NO": "false", "off": "false", "Off": "false", "OFF": "false",
}

func (e *expander) scalar(n *yaml.Node, out *node) *fault {
	const quoted = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	plain := n.Style&(quoted|yaml.TaggedStyle) == 0
	out.text = n.Value
	if b, ok := legacyBooleans[n.Value]; ok && plain {
		out.shape, out.text = boolean, b
		return nil
	}
	switch n.ShortTag() {
	case "!!str", "!!timestamp", "!!merge":
		out.shape = text
	case "!!null":
		out.shape, out.text = null, ""
	case "!!binary":
		decoded, err := base64.StdEncoding.DecodeString(n.Value)
		if err != nil {
			return e.fault(n, "a value tagged !!binary is not base64")
		}
		out.shape, out.text = text, string(decoded)
	case "!!bool":
		var b bool
		if err := n.Decode(&b); err != nil {
			return e.fault(n, "a value tagged !!bool is not a boolean")
		}
		out.shape, out.text = boolean, strconv.FormatBool(b)
	case "!!int", "!!float":
		literal, ok := jsonNumber(n)
		if !ok {
			return e.fault(n, "the number cannot be written in JSON")
		}
		out.shape, out.text = number, literal
	default:
		return e.fault(n, "a tag of this kind is not supported; quote the value if it begins with !")
	}
	return nil
}

// jsonNumber writes a YAML number as Kubernetes' conversion to JSON does: 0644 becomes 420, 1.0 becomes 1.
func jsonNumber(n *yaml.Node) (string, bool) {
	var v any
	if err := n.Decode(&v); err != nil {
		return "", false
	}
	if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return "", false
	}
	switch v.(type) {
	case int, int64, uint64, float64:
		b, err := json.Marshal(v)
		return string(b), err == nil
	}
	return "", false
}
