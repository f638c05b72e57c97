package apply

import (
	"sync"

	"lockstep/store/view"
	"lockstep/sync/plan"
)

// Inventories remembers decoded entries by their record's revision, so that a one-line change to a source of 10,000
// objects decodes one. Its zero value remembers nothing; any number of goroutines may use one.
type Inventories struct {
	mu      sync.Mutex
	sources map[string]inventory
}

// inventory is a source's entries, with the name and revision of each one's record at the same index.
type inventory struct {
	view      int64 // revision of the newest view that was found to have exactly these
	entries   []plan.Desired
	names     []string
	revisions []int64
}

// Inventory returns a source's entries as a view has them; see Inventories.
func (a *Applier) Inventory(v *view.View, source string) ([]plan.Desired, error) {
	entries, err := a.opts.Inventories.Of(v, source)
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// Of returns a source's entries as a view has them, in order of their records' names. The list is shared, the same as long
// as nothing in it has changed: do not change it. Where entries cannot be decoded it is of the others, with an error.
func (i *Inventories) Of(v *view.View, source string) ([]plan.Desired, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.sources[source]
	if now.view == v.Revision() && now.view > 0 {
		return now.entries, nil
	}
	if !now.current(v, source) {
		var err error
		if now, err = now.follow(v, source); err != nil {
			return now.entries, err
		}
	}
	now.view = v.Revision()
	if i.sources == nil {
		i.sources = map[string]inventory{}
	}
	i.sources[source] = now
	return now.entries, nil
}

// current says that the view has exactly these records.
func (n inventory) current(v *view.View, source string) bool {
	i := 0
	for r := range v.Records(string(plan.Inventory), source+"/") {
		if i == len(n.names) || n.revisions[i] != r.Revision || n.names[i] != r.Name {
			return false
		}
		i++
	}
	return i == len(n.names)
}

// follow returns what the view has, and an error where that is not all; both are in order of names.
func (n inventory) follow(v *view.View, source string) (inventory, error) {
	var unread error
	size := len(n.names) + 1 // most often one has changed
	now := inventory{entries: make([]plan.Desired, 0, size), names: make([]string, 0, size), revisions: make([]int64, 0, size)}
	i := 0
	for r := range v.Records(string(plan.Inventory), source+"/") {
		for i < len(n.names) && n.names[i] < r.Name {
			i++
		}
		row := view.Row[plan.Desired]{}
		if i < len(n.names) && n.revisions[i] == r.Revision && n.names[i] == r.Name {
			row.Value = n.entries[i]
		} else {
			var err error
			if row, err = plan.Inventory.Decode(r); err != nil {
				unread = err
				continue
			}
		}
		now.entries, now.names, now.revisions = append(now.entries, row.Value), append(now.names, r.Name), append(now.revisions, r.Revision)
	}
	return now, unread
}
