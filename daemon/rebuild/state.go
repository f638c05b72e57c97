// Package rebuild brings what nodes run back into a store that was made anew or restored.
package rebuild

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/kinds"
	"lockstep/store/view"
)

// phase is how far a rebuild is. They follow one another.
type phase string

const (
	// collecting: nodes are asked what they run; the leader decides nothing yet.
	collecting phase = "collecting"
	// syncing: sources are applied and owners made; nothing is deleted of what may be found to be wanted.
	syncing phase = "syncing"
	// waiting: all is as Git wants, but for what could run twice, since nodes have not said what they run.
	waiting phase = "waiting"
	done    phase = "done"
)

const (
	// collectTime is how long nodes are waited for at first: their agents ask twice a second for a server that is away.
	collectTime = 30 * time.Second
	// holdTime is how long nodes hold what they have at most, from the end of collecting: a source may be out of reach for longer.
	holdTime = 10 * time.Minute
)

// table has rows of four types, each below the id of the cluster that is rebuilt.
const (
	table = "rebuild"

	states  view.Table[state] = table
	reports view.Table[told]  = table
	lists   view.Table[list]  = table
)

func stateName(id string) string       { return id + "/state" }
func toldPrefix(id string) string      { return id + "/node/" }
func toldName(id, node string) string  { return toldPrefix(id) + node }
func listPrefix(id string) string      { return id + "/kept/" }
func listName(id, part string) string  { return listPrefix(id) + part }
func nodeOfTold(id, row string) string { return strings.TrimPrefix(row, toldPrefix(id)) }

// state is the row <id>/state.
type state struct {
	Phase phase `json:"phase"`
	// Until is when collecting ends, and later when nodes hold no longer.
	Until time.Time `json:"until"`
	// Asked is the node that is asked what it knows of the cluster, and Tried those that were before.
	Asked string   `json:"asked,omitempty"`
	Tried []string `json:"tried,omitempty"`
}

// told is the row <id>/node/<name>: a node has said all that it runs.
type told struct {
	At time.Time `json:"at"`
	// Seen is the newest revision of before that it knows.
	Seen int64 `json:"seen"`
	Pods int   `json:"pods"`
	// Cluster says that it has told what it knows of the cluster, too.
	Cluster bool `json:"cluster,omitempty"`
}

// list is the row <id>/kept/<node>/<digest>: objects that were brought back.
type list struct {
	Keys []kinds.Key `json:"keys"`
}

// stateOf is the state in a view; the zero one where there is none.
func stateOf(v *view.View, id string) state {
	row, _, _ := states.Get(v, stateName(id)) // what cannot be read was not written here
	return row.Value
}

// toldOf are the nodes that have said what they run.
func toldOf(v *view.View, id string) map[string]told {
	out := map[string]told{}
	for row, err := range reports.Rows(v, toldPrefix(id)) {
		if err == nil {
			out[nodeOfTold(id, row.Name)] = row.Value
		}
	}
	return out
}

// missing are those of the nodes that have not said what they run, by name.
func missing(nodes []string, reports map[string]told) (out []string) {
	for _, n := range nodes {
		if _, ok := reports[n]; !ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// best is the node to be asked about the whole cluster: of those that were not, the one that knew the newest revision. Empty: none.
func best(reports map[string]told, tried []string) (name string) {
	for n, t := range reports {
		if t.Seen == 0 || slices.Contains(tried, n) {
			continue
		}
		if name == "" || t.Seen > reports[name].Seen || t.Seen == reports[name].Seen && n < name {
			name = n
		}
	}
	return name
}

// names is a list in a few words.
func names(all []string) string {
	const most = 3
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}
