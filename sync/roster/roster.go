// Package roster decides which sources are followed.
package roster

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/giturl"
	"lockstep/kinds/v1alpha1"
)

// Input is what a roster is decided from. Nothing in it is changed.
type Input struct {
	// Configured are the sources that this process was started with; they are valid, and no name stands twice.
	Configured []v1alpha1.Source
	// Live are the Source objects of the store, in any order.
	Live []*v1alpha1.Source
	// Known are the names of all sources of which something is kept, in any order.
	Known []string
	// Begin says that a leader begins: the store is to have what is configured, and nothing else.
	Begin bool
	// Shared says that other processes lead at other times, and may be configured with other sources: then only Dropped go when a leader
	// begins, by name: those that this process was configured with before and is no more.
	Shared  bool
	Dropped []string
}

// Roster is what is to be done, in this order.
type Roster struct {
	// Write are the Source objects that are to be as they are configured; one without a resourceVersion is not there yet.
	Write []*v1alpha1.Source
	// Release are the sources of which everything kept is to be forgotten once nobody follows them, by name. Their objects
	// stay, and belong to nobody.
	Release []string
	// Remove are the Source objects that are to go, once they are released.
	Remove []*v1alpha1.Source
	// Follow are the sources to follow, name and specification: those configured first, in their order, then by name.
	Follow []v1alpha1.Source
}

// Decide gives the roster. A source is followed as its Source object says; one that is configured and has none is followed
// all the same, since it is to have one.
func Decide(in Input) Roster {
	var r Roster
	live := make(map[string]*v1alpha1.Source, len(in.Live))
	for _, s := range in.Live {
		live[s.Name] = s
	}
	followed := map[string]bool{}
	follow := func(name string, spec v1alpha1.SourceSpec) {
		followed[name] = true
		r.Follow = append(r.Follow, v1alpha1.Source{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
	}
	for _, s := range in.Configured {
		is, want := live[s.Name], Shown(s.Spec)
		switch {
		case is == nil:
			r.Write = append(r.Write, &v1alpha1.Source{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Source"},
				ObjectMeta: metav1.ObjectMeta{Name: s.Name}, Spec: want})
		case !equality.Semantic.DeepEqual(is.Spec, want):
			changed := is.DeepCopy()
			changed.Spec = want
			r.Write = append(r.Write, changed)
		}
		follow(s.Name, s.Spec)
	}
	for _, s := range slices.SortedFunc(slices.Values(in.Live), func(a, b *v1alpha1.Source) int {
		return strings.Compare(a.Name, b.Name)
	}) {
		switch {
		case followed[s.Name]:
		case in.Begin && (!in.Shared || slices.Contains(in.Dropped, s.Name)):
			r.Remove = append(r.Remove, s)
			r.Release = append(r.Release, s.Name)
		default:
			follow(s.Name, s.Spec)
		}
	}
	for _, name := range in.Known {
		if !followed[name] {
			r.Release = append(r.Release, name)
		}
	}
	slices.Sort(r.Release)
	r.Release = slices.Compact(r.Release)
	return r
}

// Shown is a specification as it may be read by viewers: without credentials in the URLs.
func Shown(spec v1alpha1.SourceSpec) v1alpha1.SourceSpec {
	spec.URL = giturl.Redact(spec.URL)
	if spec.Forge != nil {
		f := *spec.Forge
		f.URL, spec.Forge = giturl.Redact(f.URL), &f
	}
	return spec
}
