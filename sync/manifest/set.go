package manifest

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// Set is everything a revision states. It is never changed.
type Set struct {
	// Objects are in order of kinds.All, then namespace and name; no key stands twice.
	Objects []Object
	// LeftOut are the objects that were skipped for their kinds.
	LeftOut LeftOut

	refused map[string]bool // kinds that could be skipped and are not
	files   []File          // in order of path
}

// Get returns the object with that key, or nil.
func (s *Set) Get(k kinds.Key) *Object {
	wanted := Object{Key: k, rank: slices.Index(kinds.All, kinds.ForResource(k.GroupResource()))}
	i, _ := slices.BinarySearchFunc(s.Objects, wanted, compareObjects)
	if i < len(s.Objects) && s.Objects[i].Key == k {
		return &s.Objects[i]
	}
	return nil
}

// ErrorAt returns an error about a field of an object of the set, at the field's position in its file. It reads the file
// again; where that fails, the position is the object's.
func (s *Set) ErrorAt(k kinds.Key, field, message string) *Error {
	e := &Error{Object: k.String(), Field: field, Message: message}
	o := s.Get(k)
	if o == nil {
		return e
	}
	e.File, e.Line, e.Column = o.File, o.Line, o.Column
	if n := s.tree(o); n != nil {
		e.Line, e.Column, _ = locate(n, field)
	}
	return e
}

// tree parses an object's file again and returns the object in it, or nil.
func (s *Set) tree(o *Object) *node {
	i, found := slices.BinarySearchFunc(s.files, o.File, func(f File, path string) int {
		switch {
		case f.Path < path:
			return -1
		case f.Path > path:
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	data, err := s.files[i].Data()
	if err != nil {
		return nil
	}
	ordinal := 0
	for v := range parse(context.Background(), o.File, data) {
		if v.root == nil {
			continue
		}
		for _, n := range flatten(v.root, func(*node) {}) {
			if ordinal == o.ordinal {
				return n
			}
			ordinal++
		}
	}
	return nil
}

// add takes one file's readings, and returns its errors.
func (s *Set) add(file string, readings []reading, ignored patterns) Errors {
	var errs Errors
	for i := range readings {
		r := &readings[i]
		if ignored.match(r) {
			s.LeftOut[nameOf(r.gvk)]++
			continue
		}
		if r.object != nil {
			o := *r.object
			o.File = file
			s.Objects = append(s.Objects, o)
		}
		for _, e := range r.errs {
			named := *e
			named.File = file
			errs = append(errs, &named)
			if e.skip != "" {
				s.refused[e.skip] = true
			}
		}
	}
	if n := len(errs); n > MaxErrors {
		least := ""
		if n >= counted {
			least = "at least "
		}
		errs = append(errs[:MaxErrors], &Error{File: file, Line: errs[MaxErrors-1].Line, Column: errs[MaxErrors-1].Column,
			Message: fmt.Sprintf("%s%d more errors in this file", least, n-MaxErrors)})
	}
	return errs
}

// conflicts finds objects that cannot all be in one cluster: the same object twice, an address or node port twice (in
// Kubernetes' words; what services in a cluster have is the plan's to know).
func (s *Set) conflicts() Errors {
	var errs Errors
	for i := 1; i < len(s.Objects); i++ {
		if a, b := &s.Objects[i-1], &s.Objects[i]; a.Key == b.Key {
			errs = append(errs, &Error{File: b.File, Line: b.Line, Column: b.Column, Object: b.Key.String(),
				Message: fmt.Sprintf("the same object is stated twice, first at %s:%d:%d", a.File, a.Line, a.Column)})
		}
	}
	holder := map[string]*Object{}
	for i := range s.Objects {
		if service, ok := s.Objects[i].Object.(*corev1.Service); ok && len(errs) < MaxErrors {
			errs = append(errs, s.claims(holder, &s.Objects[i], service)...)
		}
	}
	return errs
}

// claims notes which service states an address or a node port, and refuses what another one has.
func (s *Set) claims(holder map[string]*Object, o *Object, service *corev1.Service) Errors {
	var errs Errors
	claim := func(what, value, field string) {
		if other := holder[what+value]; other == nil {
			holder[what+value] = o
		} else if other.Key != o.Key {
			errs = append(errs, s.ErrorAt(o.Key, field,
				fmt.Sprintf("provided %s is already allocated: %v states %s too, at %s", what, other.Key, value, other.Place())))
		}
	}
	for i, ip := range service.Spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			continue
		}
		field := "spec.clusterIP"
		if i > 0 {
			field = fmt.Sprintf("spec.clusterIPs[%d]", i)
		}
		claim("IP", ip, field)
	}
	for i, p := range service.Spec.Ports {
		if p.NodePort != 0 {
			claim("port", fmt.Sprint(p.NodePort), fmt.Sprintf("spec.ports[%d].nodePort", i))
		}
	}
	return errs
}
