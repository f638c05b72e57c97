package daemon

import (
	"fmt"
	"sync"

	"lockstep/kinds"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

// listing remembers what the inventory's records say: progress asks for all of them several times a second, and few
// have changed since. Its zero value is empty.
type listing struct {
	mu    sync.Mutex
	known map[string]map[string]listed // by source, then by record
}

// listed is one desired object as reports name it.
type listed struct {
	revision   int64 // of the record
	key        kinds.Key
	text, file string
}

// of returns a source's desired objects in the order of their records.
func (l *listing) of(v *view.View, source string) []listed {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, now := l.known[source], map[string]listed{}
	var out []listed
	for record := range v.Records(string(plan.Inventory), source+"/") {
		item, ok := before[record.Name]
		if !ok || item.revision != record.Revision {
			row, err := plan.Inventory.Decode(record)
			if err != nil {
				continue // the next apply writes it anew; status must not fail over it
			}
			item = listed{row.Revision, row.Value.Key, row.Value.Key.String(), fmt.Sprintf("%s:%d", row.Value.File, row.Value.Line)}
		}
		now[record.Name] = item
		out = append(out, item)
	}
	if l.known == nil {
		l.known = map[string]map[string]listed{}
	}
	l.known[source] = now
	return out
}
