package scheduler

import (
	"fmt"
	"sort"
	"strings"
)

// noNodes is the refusal where there is no node to ask.
const noNodes = "no nodes available to schedule pods"

// explain counts the reasons of all nodes. The verdict may be another after what wakes the rows that refused, and in its words
// also after what the rows asked before them read.
func (r *round) explain(c *class) (string, Changes) {
	reasons := map[string]int{}
	wakes := NodeListed
	for _, n := range r.nodes {
		for _, row := range c.predicates {
			wakes |= row.wakes
			if !row.check(c.demand, n, &r.cluster) {
				for _, reason := range row.words(c.demand, n, &r.cluster) {
					reasons[reason]++
				}
				break
			}
		}
	}
	return message(len(r.nodes), reasons), wakes
}

// shut words the refusal of a pod that no node is asked about.
func (r *round) shut(b *bar) string {
	if len(r.nodes) == 0 {
		return noNodes
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", len(r.nodes), b.text)
}

// always words every refusal alike.
func always(text string) func(*demand, *nodeInfo, *cluster) []string {
	return func(*demand, *nodeInfo, *cluster) []string { return []string{text} }
}

// message counts reasons over all nodes: "0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu."
func message(nodes int, reasons map[string]int) string {
	if nodes == 0 {
		return noNodes
	}
	lines := make([]string, 0, len(reasons))
	for reason, n := range reasons {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(lines)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(lines, ", "))
}
