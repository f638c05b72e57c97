// Package conformance tests that an implementation of the store does what its interfaces say.
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/eventually"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
)

// patience is how long anything may take that a test waits for.
const patience = 20 * time.Second

// Run runs the suite. Open returns a running, ready and empty store that ends with the test.
func Run(t *testing.T, open func(t *testing.T) store.Backend) {
	for name, test := range map[string]func(*testing.T, *suite){
		"create, update, delete":   lifecycle,
		"conditions":               conditions,
		"a conflict spoils itself": isolation,
		"arguments stay":           arguments,
		"own kinds":                ownKinds,
		"records":                  recordsTest,
		"subscription":             subscription,
		"history":                  history,
		"limits":                   limits,
		"concurrent writers":       concurrent,
		"events":                   events,
		"heartbeats":               heartbeats,
		"leadership":               leadership,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			t.Cleanup(cancel)
			test(t, &suite{t: t, ctx: ctx, s: open(t)})
		})
	}
}

type suite struct {
	t   *testing.T
	ctx context.Context
	s   store.Backend
}

// write commits one group that must succeed, and returns the view that has it.
func (s *suite) write(g ...store.Write) *view.View {
	s.t.Helper()
	r := s.s.Commit(s.ctx, g)[0]
	if r.Err != nil {
		s.t.Fatalf("cannot commit: %v", r.Err)
	}
	v, err := s.s.Wait(s.ctx, r.Revision)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// fails commits one group that must fail with want.
func (s *suite) fails(want error, g ...store.Write) {
	s.t.Helper()
	if r := s.s.Commit(s.ctx, g)[0]; !errors.Is(r.Err, want) || r.Revision != 0 {
		s.t.Fatalf("commit = %+v, want %v", r, want)
	}
}

// until waits for a view that satisfies ok.
func (s *suite) until(what string, ok func(*view.View) bool) (v *view.View) {
	s.t.Helper()
	eventually.True(s.t, patience, what, func() bool { v = s.s.View(); return ok(v) })
	return v
}

func pod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: "example/" + name}}
	return p
}

func create(o kinds.Object) store.Write { return store.Write{Key: kinds.KeyOf(o), Object: o} }

func update(o kinds.Object) store.Write {
	return store.Write{Key: kinds.KeyOf(o), Object: o, If: kinds.Revision(o)}
}

func remove(o kinds.Object) store.Write {
	return store.Write{Key: kinds.KeyOf(o), If: kinds.Revision(o)}
}

func mustGet(t *testing.T, v *view.View, name string) *corev1.Pod {
	t.Helper()
	p, ok := view.Get[*corev1.Pod](v, "shop", name)
	if !ok {
		t.Fatalf("pod %s is not in the view at %d", name, v.Revision())
	}
	return p
}

func lifecycle(t *testing.T, s *suite) {
	v := s.write(create(pod("a")))
	a := mustGet(t, v, "a")
	if a.UID == "" || a.CreationTimestamp.IsZero() || a.Generation != 1 || a.Kind != "Pod" || a.APIVersion != "v1" {
		t.Errorf("created with uid %q, time %v, generation %d, kind %q", a.UID, a.CreationTimestamp, a.Generation, a.Kind)
	}
	if kinds.Revision(a) == 0 || kinds.Revision(a) > v.Revision() {
		t.Errorf("revision %s in a view at %d", a.ResourceVersion, v.Revision())
	}
	b := a.DeepCopy()
	b.Labels = map[string]string{"x": "y"}
	v2 := s.write(update(b))
	if got := mustGet(t, v2, "a"); got.Labels["x"] != "y" || got.UID != a.UID || got.ResourceVersion == a.ResourceVersion {
		t.Errorf("updated to %+v", got.ObjectMeta)
	}
	if got := mustGet(t, v, "a"); got.Labels != nil {
		t.Error("an older view changed")
	}
	v3 := s.write(remove(mustGet(t, v2, "a")))
	if _, ok := view.Get[*corev1.Pod](v3, "shop", "a"); ok {
		t.Error("deleted and still there")
	}
}

func conditions(t *testing.T, s *suite) {
	v := s.write(create(pod("a")))
	s.fails(store.ErrConflict, create(pod("a")))
	a := mustGet(t, v, "a")
	s.write(update(a))
	s.fails(store.ErrConflict, update(a))
	s.fails(store.ErrConflict, remove(a))
	s.fails(store.ErrConflict, store.Write{Key: kinds.KeyOf(pod("none")), If: 7})
	anyway := create(pod("a"))
	anyway.If = store.Anyway
	s.write(anyway)
	anyway.Object = nil
	s.write(anyway)
	s.write(anyway) // of what is absent
	if got := s.s.Commit(s.ctx); got != nil {
		t.Errorf("commit of nothing = %v", got)
	}
}

func isolation(t *testing.T, s *suite) {
	s.write(create(pod("taken")))
	got := s.s.Commit(s.ctx,
		store.Group{create(pod("one"))},
		store.Group{create(pod("two")), create(pod("taken"))},
		store.Group{create(pod("three")), create(pod("four"))},
	)
	if got[0].Err != nil || !errors.Is(got[1].Err, store.ErrConflict) || got[2].Err != nil {
		t.Fatalf("results %+v", got)
	}
	v, err := s.s.Wait(s.ctx, max(got[0].Revision, got[2].Revision))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for p := range view.List[*corev1.Pod](v, "shop") {
		names = append(names, p.Name)
	}
	if want := []string{"four", "one", "taken", "three"}; !slices.Equal(names, want) {
		t.Errorf("pods %v, want %v", names, want)
	}
	if a, b := mustGet(t, v, "three"), mustGet(t, v, "four"); a.ResourceVersion != b.ResourceVersion {
		t.Error("one group has two revisions")
	}
}

func arguments(t *testing.T, s *suite) {
	p := pod("a")
	p.Labels = map[string]string{"x": "before"}
	want := p.DeepCopy()
	v := s.write(create(p))
	if got, want := mustJSON(p), mustJSON(want); got != want {
		t.Errorf("commit changed its argument to %s", got)
	}
	p.Labels["x"] = "after"
	if got := mustGet(t, v, "a").Labels["x"]; got != "before" {
		t.Errorf("the view shares memory with the argument: %q", got)
	}
	wrong := create(pod("a"))
	wrong.Key.Name = "b"
	if r := s.s.Commit(s.ctx, store.Group{wrong})[0]; r.Err == nil {
		t.Error("an object was written under another's key")
	}
}

func ownKinds(t *testing.T, s *suite) {
	src := &v1alpha1.Source{ObjectMeta: metav1.ObjectMeta{Name: "apps"}}
	src.Spec.URL = "https://git.example/apps.git"
	v := s.write(create(src))
	got, ok := view.Get[*v1alpha1.Source](v, "", "apps")
	if !ok || got.Spec.URL != src.Spec.URL || got.UID == "" {
		t.Errorf("source %+v, %v", got, ok)
	}
}

func recordsTest(t *testing.T, s *suite) {
	w := store.Write{Record: &view.Record{Table: "desired", Name: "apps/core/pods/shop/a", Data: []byte(`{"a":1}`)}}
	v := s.write(w)
	r, ok := v.Record("desired", "apps/core/pods/shop/a")
	if !ok || string(r.Data) != `{"a":1}` || r.Revision == 0 {
		t.Fatalf("record %+v, %v", r, ok)
	}
	s.fails(store.ErrConflict, w)
	v = s.write(store.Write{Record: &view.Record{Table: r.Table, Name: r.Name, Data: []byte(`{}`)}, If: r.Revision}, create(pod("a")))
	r, _ = v.Record(r.Table, r.Name)
	v = s.write(store.Write{Record: &view.Record{Table: r.Table, Name: r.Name}, If: r.Revision})
	if _, ok := v.Record(r.Table, r.Name); ok {
		t.Error("deleted and still there")
	}
}

func subscription(t *testing.T, s *suite) {
	s.write(create(pod("before")))
	sub := s.s.Subscribe("test")
	defer sub.Close()
	v := s.write(create(pod("a")))
	a := mustGet(t, v, "a").DeepCopy()
	a.Labels = map[string]string{"x": "y"}
	v = s.write(update(a))
	v = s.write(remove(mustGet(t, v, "a")))
	var got []string
	var last int64
	for len(got) < 3 {
		select {
		case b := <-sub.C:
			for _, c := range b.Changes {
				if c.Revision < last || c.Revision > b.View.Revision() {
					t.Errorf("a change of revision %d after %d, in a view at %d", c.Revision, last, b.View.Revision())
				}
				last = c.Revision
				got = append(got, fmt.Sprintf("%s %v %v", c.Key.Name, c.Old != nil, c.New != nil))
			}
		case <-s.ctx.Done():
			t.Fatalf("only %v", got)
		}
	}
	if want := []string{"a false true", "a true true", "a true false"}; !slices.Equal(got, want) {
		t.Errorf("changes %v, want %v", got, want)
	}
	if last != v.Revision() {
		t.Errorf("the deletion has revision %d, the view %d", last, v.Revision())
	}
}

func history(t *testing.T, s *suite) {
	from := s.write(create(pod("a"))).Revision()
	v := s.write(create(pod("b")))
	b := mustGet(t, v, "b")
	to := s.write(update(b), create(pod("c"))).Revision()
	s.write(remove(mustGet(t, s.s.View(), "c")))
	since, changes, err := s.s.History(s.ctx, from, to)
	if err != nil || since != from {
		t.Fatalf("history since %d, want %d: %v", since, from, err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, fmt.Sprintf("%s %v %v %d", c.Key.Name, c.Old != nil, c.New != nil, c.Revision-from))
	}
	slices.Sort(got[max(0, len(got)-2):])
	if want := []string{"b false true 1", "b true true 2", "c false true 2"}; !slices.Equal(got, want) {
		t.Errorf("history %v, want %v", got, want)
	}
	rev, err := s.s.Current(s.ctx)
	if err != nil || rev <= to {
		t.Errorf("current = %d, %v, want more than %d", rev, err, to)
	}
	if _, err := s.s.Wait(s.ctx, rev); err != nil {
		t.Error(err)
	}
	step, err := s.s.Step(s.ctx)
	if err != nil || step <= rev {
		t.Errorf("step = %d, %v, want more than %d", step, err, rev)
	}
	if _, err := s.s.Wait(s.ctx, step); err != nil {
		t.Error(err)
	}
	if _, changes, err := s.s.History(s.ctx, step-1, step); err != nil || len(changes) != 0 {
		t.Errorf("a step changes %v, %v", changes, err)
	}
}

func limits(t *testing.T, s *suite) {
	big := pod("big")
	big.Annotations = map[string]string{"x": strings.Repeat("x", 1<<20)}
	s.fails(store.ErrTooLarge, create(big))
	big.Annotations["x"] = strings.Repeat("x", 1<<20-4<<10)
	s.write(create(big))

	var most store.Group
	for i := range store.MaxGroup {
		most = append(most, create(pod(fmt.Sprintf("p%03d", i))))
	}
	s.write(most...)
	s.fails(store.ErrTooLarge, append(most, create(pod("more")))...)
	twice := s.s.Commit(s.ctx, store.Group{create(pod("twice")), create(pod("twice"))})[0]
	if twice.Err == nil {
		t.Error("a group with a key twice was written")
	}

	// Many groups at once, large and small, pass too.
	var groups []store.Group
	for i := range 300 {
		p := pod(fmt.Sprintf("q%03d", i))
		if i%50 == 0 {
			p.Annotations = map[string]string{"x": strings.Repeat("x", 600<<10)}
		}
		groups = append(groups, store.Group{create(p), create(pod(p.Name + "-b"))})
	}
	for i, r := range s.s.Commit(s.ctx, groups...) {
		if r.Err != nil {
			t.Fatalf("group %d: %v", i, r.Err)
		}
	}
}

func concurrent(t *testing.T, s *suite) {
	s.write(create(pod("counter")))
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := s.increment(fmt.Sprintf("w%d-%d", w, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	v := s.until("all increments", func(v *view.View) bool {
		p, _ := view.Get[*corev1.Pod](v, "shop", "counter")
		return len(p.Labels) == writers*each
	})
	if p := mustGet(t, v, "counter"); len(p.Labels) != writers*each {
		t.Errorf("%d increments, want %d", len(p.Labels), writers*each)
	}
}

// increment adds a label to the counter, again after each conflict.
func (s *suite) increment(label string) error {
	v := s.s.View()
	for {
		p, ok := view.Get[*corev1.Pod](v, "shop", "counter")
		if !ok {
			return errors.New("the counter is gone")
		}
		p = p.DeepCopy()
		metav1.SetMetaDataLabel(&p.ObjectMeta, label, "")
		r := s.s.Commit(s.ctx, store.Group{update(p)})[0]
		if r.Err == nil {
			return nil
		}
		if !errors.Is(r.Err, store.ErrConflict) {
			return r.Err
		}
		rev, err := s.s.Current(s.ctx)
		if err != nil {
			return err
		}
		if v, err = s.s.Wait(s.ctx, rev); err != nil {
			return err
		}
	}
}

func events(t *testing.T, s *suite) {
	v := s.write(create(pod("a")))
	a := mustGet(t, v, "a")
	for range 3 {
		s.s.Event("replicaset-controller", a, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: a-1")
	}
	s.s.Event("kubelet", a, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container")
	v = s.until("the events", func(v *view.View) bool {
		n := int32(0)
		for e := range view.List[*corev1.Event](v, "shop") {
			n += e.Count
		}
		return n == 4
	})
	var got []string
	for e := range view.List[*corev1.Event](v, "shop") {
		got = append(got, fmt.Sprintf("%s %s x%d %s", e.Type, e.Reason, e.Count, e.InvolvedObject.Name))
		if e.InvolvedObject.UID != a.UID || e.InvolvedObject.Kind != "Pod" || e.FirstTimestamp.IsZero() || e.LastTimestamp.IsZero() {
			t.Errorf("event %+v", e)
		}
	}
	slices.Sort(got)
	if want := []string{"Normal SuccessfulCreate x3 a", "Warning BackOff x1 a"}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

func heartbeats(t *testing.T, s *suite) {
	seconds := int32(40)
	lease := func(holder string, at time.Time) *coordinationv1.Lease {
		l := &coordinationv1.Lease{}
		l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = &holder, &seconds
		l.Spec.RenewTime = &metav1.MicroTime{Time: at}
		return l
	}
	at := time.Now().Add(-time.Minute).Truncate(time.Microsecond)
	for _, node := range []string{"n1", "n2"} {
		s.s.Renew(node, lease(node, at))
	}
	get := func(v *view.View, node string) *coordinationv1.Lease {
		l, _ := view.Get[*coordinationv1.Lease](v, corev1.NamespaceNodeLease, node)
		return l
	}
	v := s.until("both leases", func(v *view.View) bool { return get(v, "n1") != nil && get(v, "n2") != nil })
	first := get(v, "n1")
	if first.UID == "" || first.ResourceVersion == "" || *first.Spec.HolderIdentity != "n1" || !first.Spec.RenewTime.Time.Equal(at) {
		t.Errorf("lease %+v", first)
	}
	s.s.Renew("n1", lease("n1", at.Add(10*time.Second)))
	v = s.until("the renewal", func(v *view.View) bool { return get(v, "n1").Spec.RenewTime.Time.Equal(at.Add(10 * time.Second)) })
	if get(v, "n1").UID != first.UID {
		t.Error("a renewal changed the lease's uid")
	}
	s.write(store.Write{Key: kinds.KeyOf(first), If: kinds.Revision(first)})
	s.until("the deletion", func(v *view.View) bool { return get(v, "n1") == nil })
}

func leadership(t *testing.T, s *suite) {
	errDone := errors.New("done")
	var old store.Committer
	err := s.s.Lead(s.ctx, "a", func(ctx context.Context, c store.Committer) error {
		old = c
		if r := c.Commit(ctx, store.Group{create(pod("led"))})[0]; r.Err != nil {
			t.Errorf("the leader cannot write: %v", r.Err)
		}
		second, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if err := s.s.Lead(second, "b", func(context.Context, store.Committer) error {
			t.Error("two lead")
			return nil
		}); err != nil {
			t.Errorf("a campaign that ended in time returns %v", err)
		}
		return errDone
	})
	if !errors.Is(err, errDone) {
		t.Fatalf("Lead = %v, want %v", err, errDone)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	err = s.s.Lead(ctx, "b", func(ctx context.Context, c store.Committer) error {
		if r := c.Commit(ctx, store.Group{create(pod("second"))})[0]; r.Err != nil {
			t.Errorf("the second leader cannot write: %v", r.Err)
		}
		cancel()
		<-ctx.Done()
		old = c
		return ctx.Err()
	})
	if err != nil {
		t.Errorf("Lead = %v after its ctx ended", err)
	}
	if r := old.Commit(s.ctx, store.Group{create(pod("deposed"))})[0]; !errors.Is(r.Err, store.ErrDeposed) {
		t.Errorf("a deposed leader's commit = %+v", r)
	}
}

func mustJSON(o any) string {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(data)
}
