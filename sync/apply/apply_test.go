package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/strategy"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
	"lockstep/sync/origin"
	"lockstep/sync/plan"
)

var rules = plan.Rules{Default: strategy.Default, Admit: admission.Admit,
	PrepareCreate: strategy.PrepareCreate, PrepareUpdate: strategy.PrepareUpdate,
	Delete: func(o kinds.Object, now time.Time) (kinds.Object, bool) { return strategy.Delete(o, now, nil) }}

// revision states n config maps with these fields; those whose number skip divides are left out.
func revision(n, skip int, fields string) []plan.Object {
	var objects []plan.Object
	for i := range n {
		if skip > 0 && i%skip == 0 {
			continue
		}
		name := fmt.Sprintf("c%03d", i)
		raw := fmt.Sprintf(`{"apiVersion":"v1","data":{%s},"kind":"ConfigMap","metadata":{"name":%q,"namespace":"default"}}`, fields, name)
		objects = append(objects, plan.Object{
			Key:    kinds.For[*corev1.ConfigMap]().Key("default", name),
			Stated: json.RawMessage(raw),
			Origin: origin.Origin{File: name + ".yaml", Line: 1},
		})
	}
	return objects
}

// attempt is what a leader does with a revision until it is done or killed. accept false: only what is in the store is
// finished, as a leader without Git does.
func attempt(t *testing.T, a *Applier, s *memory.Store, id string, objects []plan.Object, accept bool) error {
	t.Helper()
	if err := a.Finish(t.Context(), "shop"); err != nil {
		return err
	}
	if accept {
		inventory, err := a.Inventory(s.View(), "shop")
		if err != nil {
			return err
		}
		p, problems := plan.Decide(plan.Input{
			Source: "shop", Revision: plan.Revision{ID: id, AllowPrune: true}, Objects: objects, Inventory: inventory,
			View: s.View(), Rules: rules,
		})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if err := a.Accept(t.Context(), p); err != nil {
			return err
		}
	}
	_, err := a.Converge(t.Context(), "shop", nil)
	return err
}

func end(s *memory.Store) string {
	var b strings.Builder
	for c := range view.List[*corev1.ConfigMap](s.View(), "") {
		fmt.Fprintf(&b, "%s %v\n", c.Name, c.Data)
	}
	for _, table := range []string{string(plan.Inventory), string(stagedTable), string(sourceTable)} {
		for r := range s.View().Records(table, "") {
			fmt.Fprintf(&b, "%s %s %s\n", table, r.Name, r.Data)
		}
	}
	return b.String()
}

// TestKilledAfterEveryWrite fails all writes from the nth on, for every n (of a staged revision's hundreds of writes of
// one kind, every 23rd after the first forty). Then the next leader, with Git or without it,
// finishes; the end is one of two: the old revision whole, or the new one whole, and with Git always the new one.
func TestKilledAfterEveryWrite(t *testing.T) {
	for _, size := range []int{6, 120} { // one transaction; staged
		var wantNew, wantOld string
		for n := 0; ; n += step(n) {
			writes, limit := 0, -1
			s := memory.NewWith(memory.Options{Default: strategy.Default, Intercept: func(store.Group) error {
				if writes++; limit >= 0 && writes > limit {
					return store.ErrUnavailable
				}
				return nil
			}})
			a := New(Options{Store: s, Commit: s, Rules: rules})
			if err := attempt(t, a, s, "one", revision(size, 0, `"a":"1","gone":"x"`), true); err != nil {
				t.Fatal(err)
			}
			if wantOld == "" {
				wantOld = end(s)
			}
			writes, limit = 0, n
			second := revision(size+2, 5, `"a":"2"`)
			err := attempt(t, a, s, "two", second, true)
			limit = -1
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Fatal(err)
			}
			withoutGit := New(Options{Store: s, Commit: s, Rules: rules})
			if err := attempt(t, withoutGit, s, "", nil, false); err != nil {
				t.Fatal(err)
			}
			state, stateErr := Load(s.View(), "shop")
			if stateErr != nil {
				t.Fatal(stateErr)
			}
			if got := end(s); state.Accepted == "one" {
				for r := range s.View().Records(string(stagedTable), "") {
					got = strings.ReplaceAll(got, fmt.Sprintf("%s %s %s\n", stagedTable, r.Name, r.Data), "")
				}
				if got != wantOld {
					t.Fatalf("killed after %d writes, the old revision is not whole:\n%s", n, got)
				}
			} else if wantNew != "" && got != wantNew {
				t.Fatalf("killed after %d writes, the new revision is not whole:\n%s", n, got)
			}
			if err := attempt(t, New(Options{Store: s, Commit: s, Rules: rules}), s, "two", second, true); err != nil {
				t.Fatal(err)
			}
			got := end(s)
			if wantNew == "" {
				wantNew = got
				if strings.Contains(got, "gone") || strings.Contains(got, "c000") || strings.Contains(got, `"state"`) ||
					strings.Contains(got, string(stagedTable)+" ") {
					t.Fatalf("the end:\n%s", got)
				}
			}
			if got != wantNew {
				t.Fatalf("killed after %d writes the end differs:\n%s", n, got)
			}
			if err == nil {
				break
			}
		}
	}
}

func step(n int) int {
	if n < int(short.Of(40)) {
		return 1
	}
	return 23
}

func TestConvergeDecidesAnewAfterAConflict(t *testing.T) {
	conflicts := 0
	s := memory.NewWith(memory.Options{Default: strategy.Default, Intercept: func(g store.Group) error {
		if len(g) > 0 && g[0].Object != nil && conflicts > 0 {
			conflicts--
			return store.ErrConflict
		}
		return nil
	}})
	a := New(Options{Store: s, Commit: s, Rules: rules})
	conflicts = 3
	if err := attempt(t, a, s, "one", revision(2, 0, `"a":"1"`), true); err != nil {
		t.Fatal(err)
	}
	if n := s.View().Len(kinds.For[*corev1.ConfigMap]().GroupResource()); n != 2 || conflicts != 0 {
		t.Errorf("%d objects, %d conflicts left", n, conflicts)
	}
}

// TestReleaseKeepsVolumes: the volumes of nodes that a source stated are noted before it is forgotten, and nobody else's.
func TestReleaseKeepsVolumes(t *testing.T) {
	s := memory.NewWith(memory.Options{Default: strategy.Default})
	a := New(Options{Store: s, Commit: s, Rules: rules})
	for _, name := range []string{"stated", "other", "disk"} {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{kinds.LocalPathNode: "n1"},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}}}
		if name == "disk" {
			pv.Annotations = nil
		}
		group := store.Group{{Key: kinds.KeyOf(pv), Object: pv, If: 0}}
		if name != "other" {
			e := plan.Desired{Source: "shop", Key: kinds.KeyOf(pv), State: plan.Applied}
			group = append(group, put(plan.Inventory, e.RecordName(), e))
		}
		if r := s.Commit(t.Context(), group); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
	}
	for range 2 {
		if err := a.Release(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"stated": "shop", "other": "", "disk": ""} {
		pv, _ := view.Get[*corev1.PersistentVolume](s.View(), "", name)
		if got := pv.Annotations[kinds.LocalPathKept]; got != want {
			t.Errorf("%s is kept by %q, want %q", name, got, want)
		}
	}
	if known := Known(s.View()); len(known) > 0 {
		t.Errorf("known: %v", known)
	}
}

func TestReleaseLeavesTheObjects(t *testing.T) {
	s := memory.NewWith(memory.Options{Default: strategy.Default})
	a := New(Options{Store: s, Commit: s, Rules: rules})
	if err := attempt(t, a, s, "one", revision(2, 0, `"a":"1"`), true); err != nil {
		t.Fatal(err)
	}
	if known := Known(s.View()); len(known) != 1 || known[0] != "shop" {
		t.Errorf("known %v", known)
	}
	for range 2 {
		if err := a.Release(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
	}
	if got := end(s); got != "c000 map[a:1]\nc001 map[a:1]\n" {
		t.Errorf("left:\n%s", got)
	}
}
