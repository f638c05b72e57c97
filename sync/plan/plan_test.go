package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
	"lockstep/internal/settings"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/strategy"
	"lockstep/store/view"
	"lockstep/sync/origin"
)

var testRules = Rules{Default: strategy.Default, Admit: admission.Admit,
	PrepareCreate: strategy.PrepareCreate, PrepareUpdate: strategy.PrepareUpdate,
	Delete: func(o kinds.Object, now time.Time) (kinds.Object, bool) { return strategy.Delete(o, now, nil) }}

var testNetworks = Networks{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, NodePorts: settings.Default().NodePorts,
	Reserved: map[netip.Addr]string{netip.MustParseAddr("10.43.0.10"): "kube-system/kube-dns"},
	Pods:     []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, API: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	Ports: map[int32]string{6443: "the API", 7070: "the status page", 30443: "the API"}}

var testTime = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// TestGolden: each file is a case. Sections: now (stated by the revision), before (the inventory, applied), pending (the
// inventory, accepted and not yet applied, over before), live (objects that differ from before), gone (keys of before
// that are not in the store), finished (keys of Jobs that have ended), ended (keys of
// which the inventory has noted that they have), other (the inventory of another source), promised (another source's, accepted and not yet
// applied), lost (keys that the source lost a while ago), folder (it is no commit), allow (the budget is lifted). want has the
// problems, or the diff and the entries that change.
func TestGolden(t *testing.T) {
	golden.Cases(t, "testdata", func(t *testing.T, c *txtar.Archive) string {
		in := input(t, c)
		got := outcome(in)
		slices.Reverse(in.Objects)
		slices.Reverse(in.Inventory)
		if again := outcome(in); again != got {
			t.Errorf("another order gives another plan:\n%s", cmp.Diff(got, again))
		}
		return got
	})
}

func outcome(in Input) string {
	p, problems := Decide(in)
	if len(problems) > 0 {
		return problems.Error() + "\n"
	}
	var b strings.Builder
	changes, err := p.WriteDiff(&b)
	if err != nil {
		return err.Error()
	}
	fmt.Fprintf(&b, "changes: %v\n", changes)
	for _, e := range p.Entries {
		fmt.Fprintf(&b, "entry %s %q %s:%d %s by %s", e.Key.Path(), e.State, e.File, e.Line, e.Commit, e.Author)
		if len(e.Before) > 0 {
			b.WriteString(", clears what was stated before")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func input(t *testing.T, a *txtar.Archive) Input {
	t.Helper()
	in := Input{
		Source: "shop", Revision: Revision{ID: "c2", Author: "Ada"}, Services: testNetworks, Rules: testRules,
		Now: testTime, Drift: true,
	}
	live := map[kinds.Key]kinds.Object{}
	var changes []view.Change
	for _, f := range a.Files {
		objects := documents(t, f)
		switch f.Name {
		case "now":
			in.Objects = objects
		case "promised":
			in.Others = []string{"elsewhere"}
			for _, o := range objects {
				changes = append(changes, recordOf(t, Desired{
					Source: "elsewhere", Key: o.Key, Object: o.Stated, Origin: o.Origin, State: Pending,
				}))
			}
		case "before", "other":
			source := map[string]string{"before": "shop", "other": "elsewhere"}[f.Name]
			for _, o := range objects {
				d := Desired{Source: source, Key: o.Key, Object: o.Stated, Origin: o.Origin, Commit: "c1", Author: "Bob"}
				if source == "shop" {
					in.Inventory = append(in.Inventory, d)
				} else {
					in.Others = []string{source}
					changes = append(changes, recordOf(t, d))
				}
				live[o.Key] = stored(t, o)
			}
		case "pending":
			for _, o := range objects {
				for i, d := range in.Inventory {
					if d.Key == o.Key {
						in.Inventory[i].Before, in.Inventory[i].Object, in.Inventory[i].State = d.Object, o.Stated, Pending
					}
				}
			}
		case "live":
			for _, o := range objects {
				live[o.Key] = stored(t, o)
			}
		case "gone":
			for path := range strings.FieldsSeq(string(f.Data)) {
				k, err := kinds.ParsePath(path)
				if err != nil {
					t.Fatal(err)
				}
				delete(live, k)
			}
		case "ended":
			for path := range strings.FieldsSeq(string(f.Data)) {
				for i := range in.Inventory {
					if in.Inventory[i].Key.Path() == path {
						in.Inventory[i].Ended = Complete
					}
				}
			}
		case "finished":
			for path := range strings.FieldsSeq(string(f.Data)) {
				k, err := kinds.ParsePath(path)
				if err != nil {
					t.Fatal(err)
				}
				live[k].(*batchv1.Job).Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
			}
		case "bound":
			for path := range strings.FieldsSeq(string(f.Data)) {
				k, err := kinds.ParsePath(path)
				if err != nil {
					t.Fatal(err)
				}
				claim := live[k].(*corev1.PersistentVolumeClaim)
				claim.Status.Phase, claim.Status.Capacity = corev1.ClaimBound, claim.Spec.Resources.Requests.DeepCopy()
			}
		case "lost":
			for path := range strings.FieldsSeq(string(f.Data)) {
				k, err := kinds.ParsePath(path)
				if err != nil {
					t.Fatal(err)
				}
				in.Lost = append(in.Lost, k)
			}
		case "folder":
			in.Revision.Folder = true
		case "allow":
			in.Revision.AllowPrune = true
		}
	}
	for k, o := range live {
		changes = append(changes, view.Change{Key: k, New: o})
	}
	db := view.NewDB()
	db.Apply(1, changes)
	in.View = db.View()
	return in
}

// documents reads a section as one file, each document at a line of its own.
func documents(t testing.TB, f txtar.File) []Object {
	t.Helper()
	var objects []Object
	line := 1
	for doc := range strings.SplitSeq(string(f.Data), "---\n") {
		at := line
		line += strings.Count(doc, "\n") + 1
		raw, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil || string(raw) == "null" {
			continue
		}
		k, ok := keyOf(raw)
		if !ok {
			continue
		}
		objects = append(objects, Object{Key: k, Stated: raw, Origin: origin.Origin{File: f.Name + ".yaml", Line: at}})
	}
	return objects
}

func keyOf(raw []byte) (kinds.Key, bool) {
	var m metav1.PartialObjectMetadata
	if json.Unmarshal(raw, &m) != nil || m.Name == "" {
		return kinds.Key{}, false
	}
	gv, err := apischema.ParseGroupVersion(m.APIVersion)
	if err != nil {
		return kinds.Key{}, false
	}
	k := kinds.ForGVK(gv.WithKind(m.Kind))
	if k == nil {
		return kinds.Key{}, false
	}
	return k.Key(m.Namespace, m.Name), true
}

// stored is what the store has of an object after creating it.
func stored(t *testing.T, o Object) kinds.Object {
	t.Helper()
	live, err := decode(o.Key, o.Stated)
	if err != nil {
		t.Fatal(err)
	}
	meta := struct {
		Metadata struct{ DeletionTimestamp *metav1.Time }
	}{}
	if err := json.Unmarshal(o.Stated, &meta); err != nil {
		t.Fatal(err)
	}
	strategy.Default(live)
	if errs := strategy.PrepareCreate(live); len(errs) > 0 {
		t.Fatal(errs)
	}
	live.SetDeletionTimestamp(meta.Metadata.DeletionTimestamp)
	live.SetUID(types.UID("uid-" + o.Key.Name))
	kinds.TakeUID(live)
	live.SetResourceVersion("1")
	return live
}

func recordOf(t *testing.T, d Desired) view.Change {
	t.Helper()
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return view.Change{NewRecord: &view.Record{Table: string(Inventory), Name: d.RecordName(), Data: data, Revision: 1}}
}

// FuzzDecide: whatever is stated before, now and live, a plan ends, does not panic, does not depend on order, and once
// carried out leaves nothing to do.
func FuzzDecide(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		seed := map[string]string{}
		for _, s := range a.Files {
			seed[s.Name] = string(s.Data)
		}
		f.Add(seed["before"], seed["now"], seed["live"])
	}
	f.Fuzz(func(t *testing.T, before, now, live string) {
		db := view.NewDB()
		var changes []view.Change
		objects := map[kinds.Key]kinds.Object{}
		for _, o := range unique(documents(t, txtar.File{Name: "live", Data: []byte(live)})) {
			if l, err := decode(o.Key, o.Stated); err == nil {
				strategy.Default(l)
				if len(strategy.PrepareCreate(l)) == 0 {
					l.SetResourceVersion("1")
					objects[o.Key] = l
				}
			}
		}
		for k, o := range objects {
			changes = append(changes, view.Change{Key: k, New: o})
		}
		db.Apply(1, changes)
		in := Input{
			Source: "s", Revision: Revision{ID: "c2", AllowPrune: true}, View: db.View(), Services: testNetworks,
			Rules: testRules, Now: testTime, Drift: true,
		}
		in.Objects = unique(documents(t, txtar.File{Name: "now", Data: []byte(now)}))
		for _, o := range unique(documents(t, txtar.File{Name: "before", Data: []byte(before)})) {
			in.Inventory = append(in.Inventory, Desired{Source: "s", Key: o.Key, Object: o.Stated, Origin: o.Origin, Commit: "c1"})
		}
		p, problems := Decide(in)
		if len(problems) > 0 {
			return
		}
		var diff strings.Builder
		if _, err := p.WriteDiff(&diff); err != nil {
			t.Fatal(err)
		}
		// Carry the plan out, and plan what is left.
		changes = nil
		entries := map[kinds.Key]Desired{}
		for _, e := range p.Inventory {
			entries[e.Key] = e
		}
		for _, s := range p.Steps {
			switch s.Verb {
			case Create, Update:
				changes = append(changes, view.Change{Key: s.Key, Old: s.Live, New: s.Object})
			case Prune, Remove:
				if s.Object == nil {
					changes = append(changes, view.Change{Key: s.Key, Old: s.Live})
				} else {
					changes = append(changes, view.Change{Key: s.Key, Old: s.Live, New: s.Object})
				}
			}
			e := s.Entry
			if s.Verb == Wait {
				continue
			}
			if e.State == Pruning {
				delete(entries, e.Key)
				continue
			}
			e.State, e.Before = Applied, nil
			entries[e.Key] = e
		}
		db.Apply(2, changes)
		for _, s := range p.Steps {
			for _, c := range claims(s.Object) {
				for other := range view.List[*corev1.Service](db.View(), "") {
					if s.Verb != Prune && kinds.KeyOf(other) != s.Key && has(other, c.scarce) && (s.Live == nil || !has(s.Live, c.scarce)) {
						t.Fatalf("%v was given %s, which %v has\n%s", s.Key, c.field, kinds.KeyOf(other), diff.String())
					}
				}
			}
		}
		var left []Desired
		for _, e := range entries {
			left = append(left, e)
		}
		for _, s := range Reconcile(left, db.View(), testRules, testTime) {
			if s.Verb != Wait {
				t.Fatalf("after carrying the plan out, %v is to %s: %s\n%s", s.Key, s.Verb, s.Reason, diff.String())
			}
		}
	})
}

func unique(objects []Object) []Object {
	seen := map[kinds.Key]bool{}
	return slices.DeleteFunc(objects, func(o Object) bool {
		was := seen[o.Key]
		seen[o.Key] = true
		return was
	})
}
