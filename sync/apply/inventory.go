package apply

import (
	"encoding/json"
	"fmt"
	"sync"

	"lockstep/daemon/store/view"
	"lockstep/sync/plan"
)

// inventories remembers decoded entries by their record's revision, so that a one-line change to a source of 10,000
// objects decodes one.
type inventories struct {
	mu      sync.Mutex
	sources map[string]inventory
}

// inventory is a source's entries, with the name and revision of each one's record at the same index.
type inventory struct {
	entries   []plan.Desired
	names     []string
	revisions []int64
}

// Inventory returns a source's entries as a view has them, in order of their records' names. The list is shared, the
// same as long as nothing in it has changed: do not change it.
func (a *Applier) Inventory(v *view.View, source string) ([]plan.Desired, error) {
	a.cache.mu.Lock()
	defer a.cache.mu.Unlock()
	before := a.cache.sources[source]
	if before.current(v, source) {
		return before.entries, nil
	}
	known := make(map[string]int, len(before.names))
	for i, name := range before.names {
		known[name] = i
	}
	var now inventory
	for r := range v.Records(plan.Table, source+"/") {
		var entry plan.Desired
		if i, ok := known[r.Name]; ok && before.revisions[i] == r.Revision {
			entry = before.entries[i]
		} else if err := json.Unmarshal(r.Data, &entry); err != nil {
			return nil, fmt.Errorf("cannot decode inventory entry %s: %w", r.Name, err)
		}
		now.entries, now.names, now.revisions = append(now.entries, entry), append(now.names, r.Name), append(now.revisions, r.Revision)
	}
	if a.cache.sources == nil {
		a.cache.sources = map[string]inventory{}
	}
	a.cache.sources[source] = now
	return now.entries, nil
}

// current says that the view has exactly these records.
func (n inventory) current(v *view.View, source string) bool {
	i := 0
	for r := range v.Records(plan.Table, source+"/") {
		if i == len(n.names) || n.names[i] != r.Name || n.revisions[i] != r.Revision {
			return false
		}
		i++
	}
	return i == len(n.names)
}
