package engine

import (
	"fmt"
	"strings"
)

// Graph prints what every reconciler declares to read and to write.
func Graph(loops []Reconciler) string {
	var b strings.Builder
	for _, r := range loops {
		owner := "any object"
		switch {
		case r.Single:
			owner = "the cluster"
		case r.Owner != nil:
			owner = r.Owner.Kind
		}
		fmt.Fprintf(&b, "%s: decides about %s, reports as %s\n", r.Name, owner, r.Component)
		for _, read := range r.Reads {
			fmt.Fprintf(&b, "  reads  %-15s %s\n", read.Kind.Kind, read.How)
		}
		for _, w := range r.Writes {
			var may []string
			if w.Create {
				may = append(may, "create")
			}
			if w.Delete {
				may = append(may, "delete")
			}
			for _, f := range w.Fields {
				if w.Shared[f] != "" {
					f += " (shared)"
				}
				may = append(may, f)
			}
			if w.Children {
				may = append(may, "(children)")
			}
			if w.Derived {
				may = append(may, "(derived children)")
			}
			fmt.Fprintf(&b, "  writes %-15s %s\n", w.Kind.Kind, strings.Join(may, ", "))
		}
	}
	return b.String()
}
