package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

// Accept makes a plan's inventory the source's. A small change is one transaction; a larger one is staged beside the
// inventory, accepted by one write of the source's state, then moved: killed before that write nothing was accepted,
// killed after it Finish moves the rest, without Git. Accepting the same plan twice does nothing the second time.
func (a *Applier) Accept(ctx context.Context, p *plan.Plan) error {
	if p.Held != "" {
		return fmt.Errorf("cannot accept revision %s: it is held", p.Revision.ID)
	}
	if err := a.Finish(ctx, p.Source); err != nil {
		return err
	}
	before, err := Load(a.opts.Store.View(), p.Source)
	if err != nil {
		return err
	}
	losses, err := a.lose(p, a.opts.Now())
	if err != nil {
		return err
	}
	after := State{Accepted: p.Revision.ID, Author: p.Revision.Author, LeftOut: p.Revision.LeftOut, Warnings: p.WarningTexts(),
		Applied: before.Applied, Healthy: before.Healthy}
	if after.Accepted == before.Accepted && len(p.Entries) == 0 {
		after.Warnings = before.Warnings // some are of what it changed then
	}
	if reflect.DeepEqual(after, before) && len(p.Entries) == 0 && len(losses) == 0 {
		return nil
	}
	groups := chunk(plan.Inventory, p.Entries)
	if len(groups) <= 1 && len(losses) <= freeWrites {
		g := store.Group(losses)
		if len(groups) == 1 {
			g = append(g, groups[0]...)
		}
		_, err := a.commit(ctx, append(g, put(sourceTable, p.Source, after)))
		return err
	}
	if err := a.unstage(ctx, p); err != nil {
		return err
	}
	staged := chunk(stagedTable, p.Entries)
	for _, w := range losses {
		staged = append(staged, store.Group{w})
	}
	if _, err := a.commit(ctx, staged...); err != nil {
		return err
	}
	after.Staged = true
	if _, err := a.commit(ctx, store.Group{put(sourceTable, p.Source, after)}); err != nil {
		return err
	}
	return a.Finish(ctx, p.Source)
}

// unstage removes what an earlier attempt staged and the plan does not.
func (a *Applier) unstage(ctx context.Context, p *plan.Plan) error {
	staging := make(map[string]bool, len(p.Entries))
	for _, e := range p.Entries {
		staging[e.RecordName()] = true
	}
	var groups []store.Group
	for name := range stagedTable.Names(a.opts.Store.View(), p.Source+"/") {
		if !staging[name] {
			groups = append(groups, store.Group{drop(stagedTable, name)})
		}
	}
	_, err := a.commit(ctx, groups...)
	return err
}

// Finish moves the staged entries of an accepted revision into the inventory, if there are any left.
func (a *Applier) Finish(ctx context.Context, source string) error {
	v := a.opts.Store.View()
	state, err := Load(v, source)
	if err != nil || !state.Staged {
		return err
	}
	var groups []store.Group
	for r := range v.Records(string(stagedTable), source+"/") {
		groups = append(groups, store.Group{
			{Record: &view.Record{Table: string(plan.Inventory), Name: r.Name, Data: r.Data}, If: store.Anyway, Reason: "inventory"},
			drop(stagedTable, r.Name),
		})
	}
	if _, err := a.commit(ctx, groups...); err != nil {
		return err
	}
	state.Staged = false
	_, err = a.commit(ctx, store.Group{put(sourceTable, source, state)})
	return err
}

// Release forgets a source that is no longer configured: its objects stay, belong to nobody, and may be adopted by
// another source. It is idempotent.
func (a *Applier) Release(ctx context.Context, source string) error {
	v := a.opts.Store.View()
	if _, err := a.commit(ctx, kept(v, source)...); err != nil {
		return err
	}
	var groups []store.Group
	groups = append(groups, all(stagedTable, v, source)...)
	groups = append(groups, all(lostTable, v, source)...)
	groups = append(groups, all(plan.Inventory, v, source)...)
	if _, err := a.commit(ctx, groups...); err != nil {
		return err
	}
	if _, ok := v.Record(string(sourceTable), source); !ok {
		return nil
	}
	_, err := a.commit(ctx, store.Group{drop(sourceTable, source)})
	return err
}

// kept note in the volumes of nodes that a source states that it did: who gives up volumes that nobody states leaves them alone.
func kept(v *view.View, source string) (groups []store.Group) {
	for pv := range view.List[*corev1.PersistentVolume](v, "") {
		_, stated, _ := plan.Inventory.Get(v, source+"/"+kinds.KeyOf(pv).Path())
		if !stated || kinds.LocalPathOf(pv) == "" || pv.Annotations[kinds.LocalPathKept] == source {
			continue
		}
		changed := pv.DeepCopy()
		changed.Annotations[kinds.LocalPathKept] = source
		groups = append(groups, store.Group{
			{Key: kinds.KeyOf(pv), Object: changed, If: kinds.Revision(pv), Reason: "its source is released"}})
	}
	return groups
}

// all drop the rows of a source, each in a group of its own.
func all[T any](table view.Table[T], v *view.View, source string) []store.Group {
	var groups []store.Group
	for name := range table.Names(v, source+"/") {
		groups = append(groups, store.Group{drop(table, name)})
	}
	return groups
}

// Known returns the names of all sources that have a state or an inventory.
func Known(v *view.View) []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for name := range sourceTable.Names(v, "") {
		add(name)
	}
	for row := range plan.Inventory.Names(v, "") {
		name, _, _ := strings.Cut(row, "/")
		add(name)
	}
	return names
}

// Noted says that every source which states the object has noted that it has ended with what is stated, so that it is not made
// again when it is gone. What cannot be read has not been noted.
func Noted(v *view.View, k kinds.Key) bool {
	for source := range sourceTable.Names(v, "") {
		row, ok, err := plan.Inventory.Get(v, source+"/"+k.Path())
		if err != nil || ok && row.Value.State == plan.Applied && row.Value.Ended == "" {
			return false
		}
	}
	return true
}

// Stated says that a source states the object. What cannot be read is taken to.
func Stated(v *view.View, k kinds.Key) bool {
	for source := range sourceTable.Names(v, "") {
		row, ok, err := plan.Inventory.Get(v, source+"/"+k.Path())
		if err != nil || ok && row.Value.State != plan.Pruning {
			return true
		}
	}
	return false
}

// Sized says that a source states how many replicas the object has, or that none states the object.
func Sized(v *view.View, k kinds.Key) bool {
	for source := range sourceTable.Names(v, "") {
		row, ok, err := plan.Inventory.Get(v, source+"/"+k.Path())
		if err != nil || !ok {
			continue
		}
		var stated struct {
			Spec struct {
				Replicas *int32 `json:"replicas"`
			} `json:"spec"`
		}
		return json.Unmarshal(row.Value.Object, &stated) != nil || stated.Spec.Replicas != nil
	}
	return true
}

// chunk cuts entries into transactions.
func chunk(table view.Table[plan.Desired], entries []plan.Desired) []store.Group {
	var groups []store.Group
	var g store.Group
	size := 0
	for _, e := range entries {
		w := put(table, e.RecordName(), e)
		if len(g) == groupWrites || len(g) > 0 && size+len(w.Record.Data) > groupBytes {
			groups, g, size = append(groups, g), nil, 0
		}
		g = append(g, w)
		size += len(w.Record.Data)
	}
	if len(g) > 0 {
		groups = append(groups, g)
	}
	return groups
}
