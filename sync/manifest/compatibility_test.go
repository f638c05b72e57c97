package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lockstep/internal/golden"
	"lockstep/kinds"
)

// compatibilityIntro is the page's text above what the types say.
const compatibilityIntro = `# Compatibility

What Lockstep makes of each field of each kind that it serves. The page is written from the Go types and from
` + "`sync/manifest/acted.go`" + ` by a test: ` + "`go test ./sync/manifest -run TestCompatibility -update`" + `.

| word | says |
| --- | --- |
| works | as in Kubernetes; where only some values do, they are named, and others are refused |
| carried | kept and shown to readers as stated; Lockstep itself does nothing about it |
| refused | stating it refuses the revision, with file and line, unless that is what holds anyway; so does all that is below it |
| the cluster's | the cluster writes it; where it stands in a manifest it is left out |

A field of a type that stands in several places leads to that type.

`

// carried are fields that are acted on by nobody of Lockstep's, and what they are kept for. What is below them is carried, too.
func carried() map[string]string {
	const linux, windows = "a node whose kernel has SELinux refuses the pod; elsewhere it means nothing", "nodes run Linux"
	return map[string]string{
		"ObjectMeta.annotations": "for programs that read them; Lockstep reads a few",
		"CSIDriverSpec.seLinuxMount": "it is for pods with SELinux options, which a node whose kernel has SELinux refuses; " +
			"elsewhere it means nothing",
		"PodSecurityContext.seLinuxOptions":      linux,
		"PodSecurityContext.seLinuxChangePolicy": linux,
		"PodSecurityContext.windowsOptions":      windows,
		"SecurityContext.seLinuxOptions":         linux,
		"SecurityContext.windowsOptions":         windows,
		"PriorityClass.description":              "for who reads it",
		"PodTemplate.template":                   "nothing makes pods of it, in Kubernetes neither",
		"ServicePort.appProtocol":                "the slices have it, for who reads them",
		"EndpointPort.appProtocol":               "for who reads it",
		"Endpoint.targetRef":                     "for who reads it",
		"EndpointAddress.targetRef":              "for who reads it",
		"Endpoint.zone":                          "endpoints of all zones are used",
	}
}

// TestCompatibility writes docs/compatibility.md: a table a kind, and one for each type that is in several places.
func TestCompatibility(t *testing.T) {
	p := page{uses: map[reflect.Type]map[string]bool{}, counts: map[string]int{}, carried: carried()}
	for _, k := range kinds.All {
		if k.Declarable {
			p.count(typeOfKind(k))
		}
	}
	for field := range p.carried {
		owner, name, _ := strings.Cut(field, ".")
		if !actedOn[owner][name] {
			t.Errorf("carried has %s, which is not acted on", field)
		}
	}
	var b strings.Builder
	b.WriteString(compatibilityIntro)
	b.WriteString("## Kinds that manifests state\n\n| kind | works | carried | refused |\n| --- | --- | --- | --- |\n")
	var sections, made strings.Builder
	for _, k := range kinds.All {
		if !k.Declarable {
			fmt.Fprintf(&made, "| %s | %s |\n", k.Kind, k.GroupVersion())
			continue
		}
		clear(p.counts)
		text := p.table(typeOfKind(k), k)
		fmt.Fprintf(&b, "| [%s](#%s) (%s) | %d | %d | %d |\n", k.Kind, strings.ToLower(k.Kind), k.GroupVersion(),
			p.counts["works"], p.counts["carried"], p.counts["refused"])
		fmt.Fprintf(&sections, "\n## %s\n\n`%s`\n\n%s", k.Kind, k.GroupVersion(), text)
	}
	b.WriteString("\nThe fields of types in several places are counted once, with their type.\n")
	b.WriteString("\n## Kinds that the cluster makes\n\nManifests cannot state them; each of their fields is the cluster's.\n\n" +
		"| kind | version |\n| --- | --- |\n" + made.String())
	b.WriteString(sections.String())
	shared := p.shared()
	b.WriteString("\n## Types in several places\n\n| type | works | carried | refused |\n| --- | --- | --- | --- |\n")
	sections.Reset()
	for _, typ := range shared {
		clear(p.counts)
		text := p.table(typ, nil)
		fmt.Fprintf(&b, "| [%s](#%s) | %d | %d | %d |\n", typ.Name(), strings.ToLower(typ.Name()),
			p.counts["works"], p.counts["carried"], p.counts["refused"])
		fmt.Fprintf(&sections, "\n### %s\n\n%s", typ.Name(), text)
	}
	b.WriteString(sections.String())
	golden.File(t, "../../docs/compatibility.md", b.String())
}

func typeOfKind(k *kinds.Kind) reflect.Type { return indirect(reflect.TypeOf(k.New())) }

// page knows where types stand.
type page struct {
	uses    map[reflect.Type]map[string]bool // by which fields a type is reached
	counts  map[string]int                   // fields by their word
	carried map[string]string
}

// below is the struct whose fields are below a field; nil where none are.
func below(typ reflect.Type) reflect.Type {
	for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, typ.Kind()) {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || decodesItself(typ) {
		return nil
	}
	return typ
}

func (p *page) count(typ reflect.Type) {
	s := structureOf(typ)
	for _, name := range s.names {
		f := s.fields[name]
		to := below(f.typ)
		if to == nil || !actedOn[f.owner][name] {
			continue
		}
		known := p.uses[to] != nil
		if !known {
			p.uses[to] = map[string]bool{}
		}
		p.uses[to][f.owner+"."+name] = true
		if !known {
			p.count(to)
		}
	}
}

// shared are the types that have a table of their own, by name.
func (p *page) shared() (types []reflect.Type) {
	for typ, from := range p.uses {
		if len(from) > 1 {
			types = append(types, typ)
		}
	}
	slices.SortFunc(types, func(a, b reflect.Type) int { return strings.Compare(a.Name(), b.Name()) })
	return types
}

// table lists the fields of a type, and those below them. Of a kind k, the status is the cluster's.
func (p *page) table(typ reflect.Type, k *kinds.Kind) string {
	var b strings.Builder
	b.WriteString("| field | |\n| --- | --- |\n")
	p.rows(&b, typ, "", k, p.carriedWhole(typ))
	return b.String()
}

// carriedWhole says of a type that every field which leads to it is carried.
func (p *page) carriedWhole(typ reflect.Type) bool {
	for field := range p.uses[typ] {
		if p.carried[field] == "" {
			return false
		}
	}
	return len(p.uses[typ]) > 0
}

func (p *page) rows(b *strings.Builder, typ reflect.Type, prefix string, k *kinds.Kind, inCarried bool) {
	s := structureOf(typ)
	for _, name := range s.names {
		f := s.fields[name]
		field := f.owner + "." + name
		if f.owner == "TypeMeta" {
			continue // every kind's, and no statement
		}
		to := below(f.typ)
		word, note := "works", ""
		switch note = p.carried[field]; {
		case k != nil && k.Status && name == "status", f.owner == "ObjectMeta" && slices.Contains(serverMetadata, name):
			word, to = "the cluster's", nil
			if actedOn[f.owner][name] {
				note = "but for extended resources in `capacity`"
			}
		case !actedOn[f.owner][name]:
			word, note, to = "refused", refusedBecause[field], nil
		case note != "" || inCarried:
			word = "carried"
		case len(allowedValues[field]) > 0:
			note = "only `" + strings.Join(quoteEmpty(allowedValues[field]), "`, `") + "`"
		case fieldKeys[field].list("") != "":
			note = "only of " + fieldKeys[field].list("`")
		case allowedKeys[f.typ.Name()].list("") != "":
			note = "only of " + allowedKeys[f.typ.Name()].list("`")
		}
		p.counts[word]++
		cell := word
		if to != nil && len(p.uses[to]) > 1 {
			cell += ", [" + to.Name() + "](#" + strings.ToLower(to.Name()) + ")"
		}
		if note != "" {
			cell += ": " + note
		}
		fmt.Fprintf(b, "| `%s%s` | %s |\n", prefix, name, cell)
		if to != nil && len(p.uses[to]) == 1 {
			p.rows(b, to, prefix+name+".", nil, word == "carried")
		}
	}
}

func quoteEmpty(values []string) []string {
	out := slices.Clone(values)
	for i, v := range out {
		if v == "" {
			out[i] = `""`
		}
	}
	return out
}
