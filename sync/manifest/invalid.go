package manifest

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/internal/plain"
)

// invalid reports an error of Kubernetes' validation at the place of its field.
func (c *checker) invalid(n *node, e *field.Error) {
	if c.suspends(e.Field) || c.compares(e) || e.Type == field.ErrorTypeRequired && c.misspelt[e.Field] {
		return
	}
	if e.Type == field.ErrorTypeNotFound && declared(n, e) {
		return
	}
	p := problem{field: e.Field, message: plain.Text(message(e, c.hidden))}
	var stated bool
	p.line, p.column, stated = locate(n, e.Field)
	if c.partial && !stated {
		return
	}
	if !slices.Contains(c.problems, p) {
		c.problems = append(c.problems, p)
	}
}

// mount matches the fields in which a container names a volume of its pod.
var mount = regexp.MustCompile(`^(.*\.)?(?:initContainers|containers|ephemeralContainers)\[\d+\]\.volume(?:Mounts|Devices)\[\d+\]\.name$`)

// declared says that the volume that a container is said to miss is there: Kubernetes' validation does not know a volume
// in which something is wrong, and that has been said.
func declared(n *node, e *field.Error) bool {
	m := mount.FindStringSubmatch(e.Field)
	if m == nil {
		return false
	}
	for _, s := range pathOf(m[1]) {
		n = n.get(s.name)
	}
	volumes := n.get("volumes")
	return volumes != nil && slices.ContainsFunc(volumes.items, func(v *node) bool {
		return v.get("name").string() == fmt.Sprint(e.BadValue)
	})
}

// suspend keeps later errors about a field, or below it, from being reported: the first one says it all.
func (c *checker) suspend(field string) {
	if c.suspended == nil {
		c.suspended = map[string]bool{}
	}
	c.suspended[field] = true
}

func (c *checker) suspends(field string) bool {
	for end := range len(field) + 1 {
		if (end == len(field) || field[end] == '.' || field[end] == '[') && c.suspended[field[:end]] {
			return true
		}
	}
	return false
}

// compares says that an error is of a template's labels, which Kubernetes' validation compares with the selector, where one of them lacks
// a value that fits no type: that has been said.
func (c *checker) compares(e *field.Error) bool {
	const labels, selector = "spec.template.metadata.labels", "spec.selector"
	if e.Field != labels {
		return false
	}
	for lacking := range c.suspended {
		if strings.HasPrefix(lacking, labels+"[") || strings.HasPrefix(lacking, selector+".") || strings.HasPrefix(lacking, selector+"[") {
			return true
		}
	}
	return false
}

// message words an error of Kubernetes' validation as Kubernetes does, without the field, which stands before it. hidden
// keeps everything that may come from a secret's data out of it.
func message(e *field.Error, hidden bool) string {
	if !hidden || e.Type == field.ErrorTypeRequired || strings.HasPrefix(e.Field, "metadata.") || e.Field == "type" {
		return e.ErrorBody()
	}
	if key, found := strings.CutPrefix(e.Field, "data["); found {
		// Kubernetes checks both keys and contents; only what it says about a key may be shown.
		if msgs := validation.IsConfigMapKey(strings.TrimSuffix(key, "]")); len(msgs) > 0 {
			return fmt.Sprintf("%s: %s", e.Type, strings.Join(msgs, "; "))
		}
		return fmt.Sprintf("%s: its content does not fit the secret's type", e.Type)
	}
	return e.Type.String()
}

// step is one part of a field path: a name, a map's key or a list's index.
type step struct {
	name  string
	index int // -1 for a name or key
}

// pathOf reads a field path as Kubernetes and this package write it: spec.containers[0].env, data[a.key].
func pathOf(path string) []step {
	var steps []step
	for path != "" {
		if path[0] == '.' {
			path = path[1:]
			continue
		}
		if path[0] == '[' {
			end := strings.IndexByte(path, ']')
			if end < 0 {
				return steps
			}
			s := step{name: path[1:end], index: -1}
			if i, err := strconv.Atoi(s.name); err == nil && i >= 0 {
				s.index = i
			}
			steps = append(steps, s)
			path = path[end+1:]
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		steps = append(steps, step{name: path[:end], index: -1})
		path = path[end:]
	}
	return steps
}

// locate returns the position of a path: of its key in a mapping, of the item in a list, or of the nearest thing above
// it that the file has; then stated is false.
func locate(n *node, field string) (line, column int, stated bool) {
	path := pathOf(field)
	if len(path) == 2 && path[0].name == "data" && n.get("data").entry(path[1].name) == nil && n.get("stringData") != nil {
		path[0].name = "stringData" // Kubernetes has moved it by the time it looks
	}
	line, column = n.line, n.column
	for _, s := range path {
		switch {
		case n.shape == list && s.index >= 0 && s.index < len(n.items):
			n = n.items[s.index]
			line, column = n.line, n.column
		case n.shape == mapping && n.entry(s.name) != nil:
			e := n.entry(s.name)
			line, column, n = e.line, e.column, e.value
		default:
			return line, column, false
		}
	}
	return line, column, true
}

// lookup returns the value at a path of decoded JSON.
func lookup(v any, path []step) (any, bool) {
	for _, s := range path {
		switch at := v.(type) {
		case map[string]any:
			next, found := at[s.name]
			if !found {
				return nil, false
			}
			v = next
		case []any:
			if s.index < 0 || s.index >= len(at) {
				return nil, false
			}
			v = at[s.index]
		default:
			return nil, false
		}
	}
	return v, true
}
