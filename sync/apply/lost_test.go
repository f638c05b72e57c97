package apply

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/sync/plan"
)

// TestLostIsKnownWhereverALeaderIsKilled: an accepted revision's losses are in the store, also where its leader was killed
// after any write and another one finished it without Git; they are forgotten after the window, or when allowed.
func TestLostIsKnownWhereverALeaderIsKilled(t *testing.T) {
	now := time.Unix(1_900_000_000, 0)
	accept := func(a *Applier, s *memory.Store, id string, objects []plan.Object, allow bool) error {
		if err := a.Finish(t.Context(), "shop"); err != nil {
			return err
		}
		inventory, err := a.Inventory(s.View(), "shop")
		if err != nil {
			return err
		}
		lost, err := Lost(s.View(), "shop", now)
		if err != nil {
			return err
		}
		p, problems := plan.Decide(plan.Input{Source: "shop", Revision: plan.Revision{ID: id, AllowPrune: allow}, Objects: objects,
			Inventory: inventory, Lost: lost, View: s.View(), Rules: rules, Now: now})
		if len(problems) > 0 || p.Held != "" {
			return fmt.Errorf("%v %s", problems, p.Held)
		}
		return a.Accept(t.Context(), p)
	}
	for _, size := range []int{8, 510} { // one transaction; staged, and several parts
		for n := 1; ; n += 1 + n/2 {
			limit, writes := 0, 0
			s := memory.NewWith(memory.Options{Default: strategy.Default, Intercept: func(store.Group) error {
				if writes++; limit > 0 && writes > limit {
					return store.ErrUnavailable
				}
				return nil
			}})
			a := New(Options{Store: s, Commit: s, Rules: rules, Now: func() time.Time { return now }})
			if err := accept(a, s, "one", revision(size, 0, `"a":"1"`), false); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Converge(t.Context(), "shop", nil); err != nil {
				t.Fatal(err)
			}
			writes, limit = 0, n
			err := accept(a, s, "two", revision(size, 2, `"a":"1"`), false)
			limit = 0
			next := New(Options{Store: s, Commit: s, Rules: rules, Now: func() time.Time { return now }})
			if _, err := next.Converge(t.Context(), "shop", nil); err != nil {
				t.Fatal(err)
			}
			state, loadErr := Load(s.View(), "shop")
			if loadErr != nil {
				t.Fatal(loadErr)
			}
			gone := map[kinds.Key]bool{}
			lost, lostErr := Lost(s.View(), "shop", now.Add(plan.Window-1))
			if lostErr != nil {
				t.Fatal(lostErr)
			}
			for _, k := range lost {
				gone[k] = s.View().Get(k) == nil
			}
			for _, o := range revision(size, 0, "") {
				if s.View().Get(o.Key) == nil && !gone[o.Key] || state.Accepted == "one" && gone[o.Key] {
					t.Fatalf("size %d, killed after %d writes, revision %s: %v gone: %v, known as lost: %v", size, n, state.Accepted,
						o.Key, s.View().Get(o.Key) == nil, gone[o.Key])
				}
			}
			if errors.Is(err, store.ErrUnavailable) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if lost, _ := Lost(s.View(), "shop", now.Add(plan.Window)); len(lost) != 0 {
				t.Errorf("%d objects count after the window", len(lost))
			}
			now = now.Add(2 * plan.Window)
			if err := accept(next, s, "three", revision(size, 2, `"a":"2"`), false); err != nil {
				t.Fatal(err)
			}
			for r := range s.View().Records(string(lostTable), "") {
				t.Errorf("%s is not forgotten", r.Name)
			}
			break
		}
	}
}
