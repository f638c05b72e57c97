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
	entries map[string]map[string]decoded // by source, by record name
}

type decoded struct {
	revision int64
	entry    plan.Desired
}

// Inventory returns a source's entries as a view has them, in order of their records' names. They are shared: do not
// change their bytes.
func (a *Applier) Inventory(v *view.View, source string) ([]plan.Desired, error) {
	a.cache.mu.Lock()
	defer a.cache.mu.Unlock()
	before := a.cache.entries[source]
	now := make(map[string]decoded, len(before))
	list := make([]plan.Desired, 0, len(before))
	for r := range v.Records(plan.Table, source+"/") {
		d, ok := before[r.Name]
		if !ok || d.revision != r.Revision || r.Revision == 0 {
			d = decoded{revision: r.Revision}
			if err := json.Unmarshal(r.Data, &d.entry); err != nil {
				return nil, fmt.Errorf("cannot decode inventory entry %s: %w", r.Name, err)
			}
		}
		now[r.Name] = d
		list = append(list, d.entry)
	}
	if a.cache.entries == nil {
		a.cache.entries = map[string]map[string]decoded{}
	}
	a.cache.entries[source] = now
	return list, nil
}
