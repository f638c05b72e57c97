package manifest

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/internal/plain"
	"lockstep/kinds/quantity"
)

// checker compares a tree with the Go type it is to become, before anything is decoded, so that every mismatch has its
// position and none hides another.
type checker struct {
	// hidden says that text of the file may be secret and must not be quoted.
	hidden bool

	problems []problem
	// strict are the fields that are not the type's, or stand twice.
	strict []slip
	// unlisted are stated fields that are not acted on: refused unless they have their default.
	unlisted []unlisted
	// suspended are fields about which enough has been said: Kubernetes' validation would say it again.
	suspended map[string]bool
	// misspelt are fields that an unknown one was likely meant to be; that they are missing has been said.
	misspelt map[string]bool
	// partial says that values have been taken out because they fit no type: what Kubernetes' validation says about
	// fields that are not stated may come from that.
	partial bool
}

// unlisted is a stated field that is not in the table of fields acted on.
type unlisted struct {
	entry  *entry
	field  string
	reason string
}

// problem is an error in an object that is not named yet.
type problem struct {
	line, column int
	field        string
	message      string
}

func (c *checker) report(line, column int, at, format string, args ...any) {
	if len(c.problems) < counted {
		c.problems = append(c.problems, problem{line, column, at, plain.Text(fmt.Sprintf(format, args...))})
	}
}

// unfit reports a value that cannot be decoded, and makes it null, so that the rest of the object can be.
func (c *checker) unfit(n *node, at, format string, args ...any) {
	c.report(n.line, n.column, at, format, args...)
	c.suspend(at)
	c.partial = true
	*n = node{line: n.line, column: n.column}
}

// mismatch reports a value of the wrong type.
func (c *checker) mismatch(n *node, at, want string) {
	hint := ""
	if want == "a string" && (n.shape == number || n.shape == boolean) {
		hint = "; quote it"
	}
	c.unfit(n, at, "wrong type: want %s, got %v%s", want, n.shape, hint)
}

// value checks one value against its type. at is the path of the field; acted says that what is below is still judged
// by the table of fields acted on.
func (c *checker) value(n *node, t reflect.Type, at string, acted bool) {
	t = indirect(t)
	if n.shape == null {
		return
	}
	if decodesItself(t) {
		c.decode(n, t, at)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if n.shape != mapping {
			c.mismatch(n, at, "a mapping")
			return
		}
		c.fields(n, t, at, acted)
	case reflect.Map:
		c.mapping(n, t, at, acted)
	case reflect.Slice:
		c.list(n, t, at, acted)
	case reflect.String:
		if n.shape != text {
			c.mismatch(n, at, "a string")
		}
	case reflect.Bool:
		if n.shape != boolean {
			c.mismatch(n, at, "a boolean")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		c.integer(n, t, at)
	case reflect.Float32, reflect.Float64:
		if n.shape != number {
			c.mismatch(n, at, "a number")
		}
	}
}

func (c *checker) fields(n *node, t reflect.Type, at string, acted bool) {
	s := structureOf(t)
	for i := range n.fields {
		e := &n.fields[i]
		path := join(at, e.name)
		f, known := s.fields[e.name]
		if !known {
			c.unknown(e, path, at, s)
			continue
		}
		if e.again > 0 {
			c.slipped(duplicateField(e, path))
		}
		field := f.owner + "." + e.name
		listed := actedOn[f.owner][e.name]
		if acted && !listed && !nothing(e.value, f.typ, unions[f.owner]) {
			c.unlisted = append(c.unlisted, unlisted{e, path, whyRefused(field)})
		}
		keys, keyed := fieldKeys[field]
		c.value(e.value, f.typ, path, acted && listed && !keyed)
		if acted && listed {
			c.allowed(e.value, field, path)
			if keyed {
				c.keyed(e.value, keys, path)
			}
		}
	}
}

// nothing says that a value states what holds without it: an empty list, a mapping of nothing but such, or a zero where
// the type does not tell it from nothing. In a union an empty mapping says which one.
func nothing(n *node, t reflect.Type, union bool) bool {
	of := indirect(t)
	switch {
	case n.shape == null:
		return true
	case n.shape != mapping:
		return t.Kind() != reflect.Pointer && n.zero()
	case union || decodesItself(of):
		return false
	case of.Kind() != reflect.Struct:
		return n.zero()
	}
	s := structureOf(of)
	for _, e := range n.fields {
		f, known := s.fields[e.name]
		if known && !nothing(e.value, f.typ, unions[f.owner]) {
			return false
		}
	}
	return true
}

// allowed checks the values of a field, or of a list's items, where only some are acted on.
func (c *checker) allowed(n *node, field, at string) {
	values, limited := allowedValues[field]
	if !limited {
		return
	}
	switch n.shape {
	case list:
		for i, item := range n.items {
			c.allowed(item, field, fmt.Sprintf("%s[%d]", at, i))
		}
	case text, boolean:
		if !slices.ContainsFunc(values, func(v string) bool { return stands(v, n.text) }) {
			c.report(n.line, n.column, at, "value %s is not supported yet (supported: %s)", n.quoted(n.text), n.quoted(values...))
			c.suspend(at)
		}
	}
}

// stands says whether a text is a value of allowedValues: one that ends in a star is for all that begin so.
func stands(value, text string) bool {
	begin, open := strings.CutSuffix(value, "*")
	return value == text || open && strings.HasPrefix(text, begin)
}

// keyed checks the keys of a mapping of which only some are acted on.
func (c *checker) keyed(n *node, keys keys, at string) {
	if n.shape != mapping {
		return
	}
	for i := range n.fields {
		if e := &n.fields[i]; !keys.has(e.name) {
			c.report(e.line, e.column, at+"["+e.name+"]", "not supported yet: %s", keys.refusal())
		}
	}
}

func (c *checker) unknown(e *entry, path, parent string, s *structure) {
	found, meant := unknownField(e, path, s.names)
	if meant != "" {
		if c.misspelt == nil {
			c.misspelt = map[string]bool{}
		}
		c.misspelt[join(parent, meant)] = true
	}
	c.slipped(found)
}

func (c *checker) slipped(s slip) {
	if len(c.strict) < counted {
		c.strict = append(c.strict, s)
	}
}

func (c *checker) mapping(n *node, t reflect.Type, at string, acted bool) {
	if n.shape != mapping {
		c.mismatch(n, at, "a mapping")
		return
	}
	keys, limited := allowedKeys[t.Name()]
	for i := range n.fields {
		e := &n.fields[i]
		path := at + "[" + e.name + "]"
		if e.again > 0 {
			c.slipped(duplicateField(e, join(at, e.name)))
		}
		if acted && limited && !keys.has(e.name) {
			c.report(e.line, e.column, path, "not supported yet: %s", keys.refusal())
		}
		c.value(e.value, t.Elem(), path, acted)
	}
}

func (c *checker) list(n *node, t reflect.Type, at string, acted bool) {
	if t.Elem().Kind() == reflect.Uint8 {
		if n.shape != text {
			c.mismatch(n, at, "a string of base64")
		} else {
			c.decode(n, t, at)
		}
		return
	}
	if n.shape != list {
		c.mismatch(n, at, "a list")
		return
	}
	for i, item := range n.items {
		c.value(item, t.Elem(), fmt.Sprintf("%s[%d]", at, i), acted)
	}
}

func (c *checker) integer(n *node, t reflect.Type, at string) {
	if n.shape != number {
		c.mismatch(n, at, "an integer")
		return
	}
	if _, err := strconv.ParseInt(n.text, 10, t.Bits()); err == nil {
		return
	}
	if f, err := strconv.ParseFloat(n.text, 64); err == nil && math.Abs(f) >= math.Ldexp(1, t.Bits()-1) {
		c.unfit(n, at, "the number does not fit into %d bits", t.Bits())
		return
	}
	c.unfit(n, at, "wrong type: want an integer, got a number with a fraction or an exponent")
}

// decode lets a type with a JSON form of its own judge the value.
func (c *checker) decode(n *node, t reflect.Type, at string) {
	if t == reflect.TypeFor[resource.Quantity]() {
		if err := quantity.Check(n.text); err != nil {
			c.unfit(n, at, "invalid value: %v", err)
			return
		}
	}
	err := json.Unmarshal(n.appendJSON(nil), reflect.New(t).Interface())
	if err == nil {
		return
	}
	message := "its content is not shown"
	switch {
	case t.Kind() == reflect.Slice:
		message = "not base64"
	case !c.hidden:
		message = err.Error()
	}
	c.unfit(n, at, "invalid value: %s", message)
}

// quoted writes values of the node's shape.
func (n *node) quoted(values ...string) string {
	out := slices.Clone(values)
	for i, v := range values {
		if n.shape == text {
			out[i] = strconv.Quote(v)
		}
	}
	return strings.Join(out, ", ")
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}
