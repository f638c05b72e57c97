package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/internal/plain"
	"lockstep/kinds"
)

const (
	// everyKind is the pattern of every kind that is not served.
	everyKind = "*"
	// kustomize is the group of what is no object, but says how objects are made of other files.
	kustomize = "kustomize.config.k8s.io"
	// maxListed bounds the kinds that one text lists: more than the operators of one repository have.
	maxListed = 20
	// maxListing bounds such a text in bytes.
	maxListing = 1024
)

// patterns are what a source's ignoreKinds has: "Kind", "Kind.group", "*.group" or "*".
type patterns map[string]bool

func patternsOf(ignoreKinds []string) patterns {
	p := patterns{}
	for _, pattern := range ignoreKinds {
		p[pattern] = true
	}
	return p
}

// match says whether the source skips what a reading is of.
func (p patterns) match(r *reading) bool {
	kind, group := r.gvk.Kind, r.gvk.Group
	if len(p) == 0 || kind == "" {
		return false
	}
	return p[kind] || p[kind+"."+group] || group != "" && p["*."+group] || r.unserved && p[everyKind]
}

// unserved says that a kind is one that Lockstep does not know, and no slip of one that it does.
func unserved(gvk schema.GroupVersionKind) bool {
	return gvk.Kind != "" && gvk.Group != kustomize && kinds.ForGVK(gvk) == nil && otherVersion(gvk) == nil && misspelt(gvk) == nil &&
		(gvk.Kind != "List" || gvk.Group != "")
}

// LeftOut counts the objects of a revision that its source skips, by kind: "Secret", "Certificate.cert-manager.io".
type LeftOut map[string]int

// String is "3 left out: 2 Certificate.cert-manager.io, 1 Secret", of kinds with many objects first; empty for none.
func (l LeftOut) String() string {
	if len(l) == 0 {
		return ""
	}
	names := slices.SortedFunc(maps.Keys(l), func(a, b string) int { return cmp.Or(cmp.Compare(l[b], l[a]), cmp.Compare(a, b)) })
	total := 0
	for i, name := range names {
		total += l[name]
		names[i] = fmt.Sprintf("%d %s", l[name], name)
	}
	return fmt.Sprintf("%d left out: %s", total, listing(names))
}

// listing joins names, as many as are told.
func listing(names []string) string {
	more := ""
	if n := len(names) - maxListed; n > 0 {
		names, more = names[:maxListed], fmt.Sprintf(" and %d more", n)
	}
	return plain.Cut(strings.Join(names, ", "), maxListing) + more
}

// tellSkipping completes errors with the line of the Source that skips what they refuse: of the first one, with all kinds that
// are refused and those that are skipped already.
func tellSkipping(errs Errors, refused map[string]bool, ignored []string) {
	first := true
	for _, e := range errs {
		if e.skip == "" {
			continue
		}
		skipped, what := []string{e.skip}, "it"
		if first && len(refused)+len(ignored) > 1 {
			skipped, what = slices.Concat(ignored, slices.Sorted(maps.Keys(refused))), "all that is refused for its kind"
		}
		first = false
		for i, pattern := range skipped {
			if strings.HasPrefix(pattern, everyKind) {
				skipped[i] = `"` + pattern + `"` // else an alias to YAML
			}
		}
		e.Message += fmt.Sprintf("; ignoreKinds: [%s] in the Source skips %s (validate: --ignore-kinds)", listing(skipped), what)
	}
}

// nameOf is a kind as a pattern names it.
func nameOf(gvk schema.GroupVersionKind) string { return gvk.GroupKind().String() }
