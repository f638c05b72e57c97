package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Profile is a way to choose nodes, for the pods that name it as their scheduler. The zero value is kube-scheduler's defaults.
type Profile struct {
	// Name is what pods have as their schedulerName. Empty: default-scheduler.
	Name string
	// Weights are those of scores that are not the default; 0 leaves one out.
	Weights map[string]int64
	Fit     Fit
	// AddedAffinity is asked of nodes besides what pods ask. Nil: nothing.
	AddedAffinity *corev1.NodeAffinity
	// Spread is how pods are spread that say nothing of it. Nil: by kube-scheduler's system defaults.
	Spread *[]corev1.TopologySpreadConstraint
	// Expression scores nodes besides the other scores. Nil: there is none.
	Expression *Expression
}

// Fit is how nodes are scored by what is used of them. The zero value is LeastAllocated, by CPU and memory alike.
type Fit struct {
	Strategy  string // LeastAllocated, MostAllocated, RequestedToCapacityRatio; empty: the first
	Resources []ResourceWeight
	// Shape is for the last of these: from lower to higher use.
	Shape []ShapePoint
}

// ResourceWeight is a resource with what it weighs, at least 1.
type ResourceWeight struct {
	Name   corev1.ResourceName
	Weight int64
}

// ShapePoint is a score, from 0 to 10, at a use in percent.
type ShapePoint struct{ Utilization, Score int64 }

// The strategies of Fit.
const (
	LeastAllocated           = "LeastAllocated"
	MostAllocated            = "MostAllocated"
	RequestedToCapacityRatio = "RequestedToCapacityRatio"
)

// Scores are the names of the scores that a profile may weigh.
func Scores() (out []string) {
	for _, row := range rows().scores {
		out = append(out, row.name)
	}
	return append(out, expressionName)
}

// Validate says what of a profile cannot be used.
func (p *Profile) Validate() error {
	_, err := p.table()
	return err
}

// table returns the profile's rows.
func (p *Profile) table() (*table, error) {
	t := rows()
	t.profile = p.Name
	if p.Spread != nil {
		t.spread = *p.Spread
		t.spreadListed = true
	}
	if p.AddedAffinity != nil {
		if err := t.add(p.AddedAffinity); err != nil {
			return nil, err
		}
	}
	fit, err := p.Fit.score()
	if err != nil {
		return nil, err
	}
	if p.Expression != nil {
		t.scores = append(t.scores, p.Expression.score())
	}
	for i := range t.scores {
		row := &t.scores[i]
		if row.name == fit.name && p.Fit.Strategy != "" {
			*row = fit
		}
		if weight, given := p.Weights[row.name]; given {
			row.weight = weight
		}
	}
	for name, weight := range p.Weights {
		known := slices.ContainsFunc(t.scores, func(row score) bool { return row.name == name })
		if !known || weight < 0 || weight > best {
			return nil, fmt.Errorf("cannot weigh %s by %d", name, weight)
		}
	}
	t.scores = slices.DeleteFunc(t.scores, func(row score) bool { return row.weight == 0 })
	return t, nil
}

// add has the rows ask what a profile adds of nodes.
func (t *table) add(a *corev1.NodeAffinity) error {
	if a.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		required, err := nodeaffinity.NewNodeSelector(a.RequiredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return fmt.Errorf("cannot use addedAffinity: %w", err)
		}
		at := slices.IndexFunc(t.predicates, func(row predicate) bool { return row.name == "NodeAffinity" })
		t.predicates = slices.Insert(t.predicates, at, enforcedNodes(required))
	}
	if len(a.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		preferred, err := nodeaffinity.NewPreferredSchedulingTerms(a.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return fmt.Errorf("cannot use addedAffinity: %w", err)
		}
		at := slices.IndexFunc(t.scores, func(row score) bool { return row.name == "NodeAffinity" })
		t.scores[at] = preferredNodes(preferred)
	}
	return nil
}
