package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// unitOf returns a unit of the keys, each of size bytes.
func unitOf(size int, g *guard, keys ...string) *unit {
	u := &unit{size: size * len(keys), guard: g}
	for _, k := range keys {
		u.changes = append(u.changes, change{key: k})
	}
	return u
}

func names(units []*unit) string {
	var out []string
	for _, u := range units {
		var keys []string
		for _, c := range u.changes {
			keys = append(keys, c.key)
		}
		out = append(out, strings.Join(keys, "+"))
	}
	return strings.Join(out, " ")
}

func TestPick(t *testing.T) {
	leader, other := &guard{}, &guard{}
	for _, c := range []struct {
		name        string
		pending     []*unit
		busy        []string
		batch, rest string
	}{
		{"all", []*unit{unitOf(1, nil, "a"), unitOf(1, nil, "b", "c")}, nil, "a b+c", ""},
		{"one key once", []*unit{unitOf(1, nil, "a"), unitOf(1, nil, "a"), unitOf(1, nil, "b")}, nil, "a b", "a"},
		{"busy keys wait", []*unit{unitOf(1, nil, "a", "b"), unitOf(1, nil, "b"), unitOf(1, nil, "c")}, []string{"a"}, "c", "a+b b"},
		{"one guard", []*unit{unitOf(1, leader, "a"), unitOf(1, other, "b"), unitOf(1, leader, "c"), unitOf(1, leader, "b")}, nil,
			"a c", "b b"},
		{"bytes", []*unit{unitOf(600<<10, nil, "a"), unitOf(600<<10, nil, "b"), unitOf(1, nil, "c")}, nil, "a", "b c"},
		{"a large one alone", []*unit{unitOf(maxTxnBytes, nil, "a"), unitOf(1, nil, "b")}, nil, "a", "b"},
		{"nothing", nil, nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			busy := map[string]struct{}{}
			for _, k := range c.busy {
				busy[k] = struct{}{}
			}
			batch, rest := pick(slices.Clone(c.pending), busy)
			if names(batch) != c.batch || names(rest) != c.rest {
				t.Errorf("batch %q, rest %q; want %q, %q", names(batch), names(rest), c.batch, c.rest)
			}
		})
	}
}

// TestPickLimits wants every transaction within etcd's limit of 128 operations along the deepest nesting.
func TestPickLimits(t *testing.T) {
	for _, size := range []int{1, 2, 3, 10, 64, 126} {
		var pending []*unit
		for i := range 300 {
			var keys []string
			for j := range size {
				keys = append(keys, fmt.Sprintf("%d-%d", i, j))
			}
			pending = append(pending, unitOf(10, nil, keys...))
		}
		for len(pending) > 0 {
			var batch []*unit
			batch, pending = pick(pending, nil)
			if n := len(batch); n == 0 || n+size > 128 || n*size > maxTxnOps {
				t.Fatalf("%d units of %d operations", n, size)
			}
		}
	}
}
