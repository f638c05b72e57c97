package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"lockstep/kinds"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
)

var start = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// bench is an engine with one reconciler, over a store with the namespace "shop" and the config map "shop/owner".
type bench struct {
	*memory.Store
	clock *clocktesting.FakeClock
	log   bytes.Buffer
	step  *engine.Stepper
	// before is asked before every commit of the engine's; its error becomes every result.
	before func(groups []store.Group) error
	turns  int
}

func newBench(t *testing.T, r loop.Reconciler) *bench {
	b := &bench{clock: clocktesting.NewFakeClock(start)}
	b.Store = memory.NewWith(memory.Options{Now: b.clock.Now})
	b.put(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, 0)
	b.put(t, configMap("owner", nil), 0)
	r.Name, r.Component, r.Owner = "test", "test-controller", kinds.For[*corev1.ConfigMap]()
	decide := r.Decide
	r.Decide = func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
		b.turns++
		return decide(v, key, now)
	}
	e := engine.New([]loop.Reconciler{r}, engine.Options{
		Store: b.Store, Commit: b, Events: b.Store, Clock: b.clock, Seed: 1, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	b.step = engine.NewStepper(e)
	t.Cleanup(b.step.Close)
	return b
}

func (b *bench) Commit(ctx context.Context, groups ...store.Group) []store.Result {
	if b.before != nil {
		if err := b.before(groups); err != nil {
			out := make([]store.Result, len(groups))
			for i := range out {
				out[i].Err = err
			}
			return out
		}
	}
	return b.Store.Commit(ctx, groups...)
}

func (b *bench) put(t *testing.T, o kinds.Object, revision int64) {
	t.Helper()
	if r := b.Store.Commit(t.Context(), store.Group{{Key: kinds.KeyOf(o), Object: o, If: revision, Reason: "test"}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
}

// drain makes all turns that are due.
func (b *bench) drain(t *testing.T) {
	for n := 0; b.step.Step(t.Context()); n++ {
		if n > 1000 {
			t.Fatal("the engine does not come to rest")
		}
	}
}

func (b *bench) events() (list []string) {
	for e := range view.List[*corev1.Event](b.View(), "") {
		list = append(list, e.Reason+": "+e.Message)
	}
	return list
}

func (b *bench) secrets() (names []string) {
	for s := range view.List[*corev1.Secret](b.View(), "shop") {
		names = append(names, s.Name)
	}
	return names
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: data}
}

func secret(owner kinds.Object, name string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Type: corev1.SecretTypeOpaque}
	if name == "" {
		s.GenerateName = "made-"
	}
	s.OwnerReferences = []metav1.OwnerReference{loop.ControllerRef(owner)}
	return s
}

// children wants n secrets of every owner.
func children(n int) func(*view.View, kinds.Key, time.Time) (loop.Decision, error) {
	return func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
		owner := v.Get(key)
		if owner == nil {
			return loop.Decision{}, nil
		}
		var d loop.Decision
		for o := range v.Controlled(owner.GetUID()) {
			d.Wants = append(d.Wants, loop.Want{Object: o, Reason: "there"})
		}
		for len(d.Wants) < n {
			d.Wants = append(d.Wants, loop.Want{
				Object: secret(owner, ""), Reason: "missing",
				Done: &loop.Event{Type: corev1.EventTypeNormal, Reason: "Made", Message: "Made {name}"},
			})
		}
		return d, nil
	}
}

func secretWrites() []loop.Write {
	return []loop.Write{{Kind: kinds.For[*corev1.Secret](), Create: true, Delete: true, Children: true, Fields: []string{"data.allowed"}}}
}

func secretReads() []loop.Read {
	secret := kinds.For[*corev1.Secret]()
	return []loop.Read{{Kind: secret, How: "its controller", Keys: loop.ControllerKeys(kinds.For[*corev1.ConfigMap]())}}
}

func TestCreates(t *testing.T) {
	b := newBench(t, loop.Reconciler{Reads: secretReads(), Writes: secretWrites(), Decide: children(3)})
	b.drain(t)
	names := b.secrets()
	if len(names) != 3 {
		t.Fatalf("secrets %v, want 3", names)
	}
	for _, name := range names {
		if len(name) != len("made-")+5 || !strings.HasPrefix(name, "made-") {
			t.Errorf("generated name %q", name)
		}
	}
	// On a clock that stands still the events have one name: the last is left.
	if !slices.Contains(b.events(), "Made: Made "+names[2]) && !slices.Contains(b.events(), "Made: Made "+names[1]) &&
		!slices.Contains(b.events(), "Made: Made "+names[0]) {
		t.Errorf("no event among %v", b.events())
	}
	turns := b.turns
	b.drain(t)
	if b.turns != turns {
		t.Errorf("%d turns with nothing to do", b.turns-turns)
	}
}

// TestOnlyAffectedKeysAreDecided: a child that is lost wakes its owner, not the other ones.
func TestOnlyAffectedKeysAreDecided(t *testing.T) {
	var decided []string
	b := newBench(t, loop.Reconciler{
		Reads: secretReads(), Writes: secretWrites(),
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			decided = append(decided, key.Name)
			return children(2)(v, key, now)
		},
	})
	for n := range 10 {
		b.put(t, configMap(fmt.Sprint("other-", n), nil), 0)
	}
	b.drain(t)
	decided = nil
	owner, _ := view.Get[*corev1.ConfigMap](b.View(), "shop", "other-3")
	for o := range b.View().Controlled(owner.UID) {
		b.Store.Commit(t.Context(), store.Group{{Key: kinds.KeyOf(o), If: store.Anyway, Reason: "test"}})
		break
	}
	b.drain(t)
	if len(decided) == 0 || len(decided) > 3 || slices.ContainsFunc(decided, func(name string) bool { return name != "other-3" }) {
		t.Errorf("decided about %v, want other-3 only", decided)
	}
}

// TestUnknownOutcome: a write that etcd did not answer is made again under the same name, so nothing is there twice.
func TestUnknownOutcome(t *testing.T) {
	b := newBench(t, loop.Reconciler{Reads: secretReads(), Writes: secretWrites(), Decide: children(3)})
	lost := 0
	b.before = func(groups []store.Group) error {
		if lost++; lost > 2 {
			return nil
		}
		b.Store.Commit(t.Context(), groups...) // written, but nobody hears of it
		go b.clock.Step(time.Hour)
		return store.ErrUnknown
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.drain(t)
	}()
	for done := false; !done; {
		select {
		case <-ended:
			done = true
		case <-time.After(time.Millisecond):
			b.clock.Step(time.Second) // lets the engine's pause end
		}
	}
	b.clock.Step(time.Hour)
	b.drain(t)
	if names := b.secrets(); len(names) != 3 {
		t.Errorf("secrets %v, want 3", names)
	}
}

func TestConflictIsDecidedAgain(t *testing.T) {
	b := newBench(t, loop.Reconciler{
		Writes: []loop.Write{{Kind: kinds.For[*corev1.ConfigMap](), Fields: []string{"data"}}},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
			o := v.Get(key).(*corev1.ConfigMap)
			if o.Data["mine"] == "yes" {
				return loop.Decision{}, nil
			}
			o = o.DeepCopy()
			if o.Data == nil {
				o.Data = map[string]string{}
			}
			o.Data["mine"] = "yes"
			return loop.Decision{Wants: []loop.Want{{Object: o, Reason: "test"}}}, nil
		},
	})
	raced := false
	b.before = func([]store.Group) error {
		if !raced {
			raced = true
			b.put(t, configMap("owner", map[string]string{"theirs": "yes"}), store.Anyway)
		}
		return nil
	}
	b.drain(t)
	b.clock.Step(time.Second)
	b.drain(t)
	o, _ := view.Get[*corev1.ConfigMap](b.View(), "shop", "owner")
	if o.Data["mine"] != "yes" || o.Data["theirs"] != "yes" {
		t.Errorf("data = %v, want both writes", o.Data)
	}
}

// TestBugsChangeNothing: what a reconciler has not declared, or forgets, is refused whole and reported.
func TestBugsChangeNothing(t *testing.T) {
	existing := func(v *view.View) *corev1.Secret {
		s, _ := view.Get[*corev1.Secret](v, "shop", "kid")
		return s
	}
	for name, decide := range map[string]func(v *view.View, owner kinds.Object) loop.Decision{
		"is neither wanted nor dropped": func(v *view.View, owner kinds.Object) loop.Decision {
			return loop.Decision{Wants: []loop.Want{{Object: secret(owner, "other"), Reason: "test"}}}
		},
		"is changed at data.forbidden, which is not declared": func(v *view.View, owner kinds.Object) loop.Decision {
			s := existing(v).DeepCopy()
			s.Data = map[string][]byte{"forbidden": []byte("x")}
			return loop.Decision{Wants: []loop.Want{{Object: s, Reason: "test"}}}
		},
		"creating is not declared": func(v *view.View, owner kinds.Object) loop.Decision {
			return loop.Decision{Wants: []loop.Want{{Object: existing(v), Reason: "test"}, {Object: configMap("new", nil), Reason: "test"}}}
		},
		"deleting is not declared": func(v *view.View, owner kinds.Object) loop.Decision {
			return loop.Decision{Wants: []loop.Want{{Object: existing(v), Reason: "test"}}, Drops: []loop.Drop{loop.DropOf(owner, "test")}}
		},
		"is named twice": func(v *view.View, owner kinds.Object) loop.Decision {
			return loop.Decision{
				Wants: []loop.Want{{Object: existing(v), Reason: "test"}},
				Drops: []loop.Drop{loop.DropOf(existing(v), "test")},
			}
		},
		"is wanted without a reason": func(v *view.View, owner kinds.Object) loop.Decision {
			return loop.Decision{Wants: []loop.Want{{Object: existing(v)}}}
		},
		"is not in the view": func(v *view.View, owner kinds.Object) loop.Decision {
			s := existing(v).DeepCopy()
			s.UID = "another"
			return loop.Decision{Wants: []loop.Want{{Object: existing(v), Reason: "test"}}, Status: s}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, loop.Reconciler{
				Writes: secretWrites(),
				Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
					if existing(v) == nil {
						return loop.Decision{}, nil
					}
					return decide(v, v.Get(key)), nil
				},
			})
			owner, _ := view.Get[*corev1.ConfigMap](b.View(), "shop", "owner")
			b.put(t, secret(owner, "kid"), 0)
			before := b.View().Revision()
			b.drain(t)
			if !strings.Contains(b.log.String(), name) {
				t.Errorf("the log does not say %q:\n%s", name, b.log.String())
			}
			if !slices.ContainsFunc(b.events(), func(e string) bool {
				return strings.HasPrefix(e, "ReconcilerBug: Nothing was changed: ")
			}) {
				t.Errorf("no event: %v", b.events())
			}
			if _, changes, _ := b.History(t.Context(), before, b.View().Revision()); len(changes) != 1 {
				t.Errorf("changes = %v, want only the event", changes)
			}
		})
	}
}

func TestPanicStallsOnlyItsKey(t *testing.T) {
	b := newBench(t, loop.Reconciler{
		Reads: secretReads(), Writes: secretWrites(),
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			if key.Name == "bad" {
				panic("oh no")
			}
			return children(1)(v, key, now)
		},
	})
	b.put(t, configMap("bad", nil), 0)
	b.drain(t)
	if len(b.secrets()) != 1 {
		t.Errorf("secrets = %v, want one for the good key", b.secrets())
	}
	if !strings.Contains(b.log.String(), "oh no") {
		t.Error("the panic is not in the log")
	}
}

// TestUndeclaredLooksAreBugs: what a loop does not declare it cannot look at, neither to decide nor to find its keys.
func TestUndeclaredLooksAreBugs(t *testing.T) {
	r := loop.Reconciler{Writes: secretWrites(), Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
		view.List[*corev1.Pod](v, "shop")
		return children(1)(v, key, now)
	}}
	b := newBench(t, r)
	b.drain(t)
	if len(b.secrets()) != 0 || !strings.Contains(b.log.String(), "not declared to be looked at: Pod") {
		t.Errorf("secrets = %v, and the log says:\n%s", b.secrets(), b.log.String())
	}
}

// TestTwoWritersOfAField are refused, unless both say that they share it.
func TestTwoWritersOfAField(t *testing.T) {
	service := kinds.For[*corev1.Service]()
	writes := func(name, field string, shared bool) loop.Reconciler {
		w := loop.Write{Kind: service, Fields: []string{field}}
		if shared {
			w.Shared = map[string]string{field: "test"}
		}
		return loop.Reconciler{Name: name, Component: "test", Single: true, Decide: noDecision, Writes: []loop.Write{w}}
	}
	s := memory.New()
	for name, c := range map[string]struct {
		loops []loop.Reconciler
		want  string
	}{
		"two fields": {[]loop.Reconciler{writes("a", "spec.ports", false), writes("b", "spec.portsOfCall", false)}, ""},
		"the same": {[]loop.Reconciler{writes("a", "spec.ports", false), writes("b", "spec.ports", false)},
			`reconcilers "a" and "b" both write spec.ports of Service and do not declare it shared`},
		"one in other": {[]loop.Reconciler{writes("a", "spec", false), writes("b", "spec.ports", false)},
			`reconcilers "a" and "b" both write spec.ports of Service and do not declare it shared`},
		"one shares it": {[]loop.Reconciler{writes("a", "spec.ports", true), writes("b", "spec.ports", false)},
			`reconcilers "a" and "b" both write spec.ports of Service and do not declare it shared`},
		"both share it": {[]loop.Reconciler{writes("a", "spec.ports", true), writes("b", "spec.ports", true)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); (c.want == "") != (got == "<nil>") || !strings.HasSuffix(got, c.want) && c.want != "" {
					t.Errorf("New panics with %q, want %q", got, c.want)
				}
			}()
			engine.New(c.loops, engine.Options{Store: s, Commit: s, Events: s})
		})
	}
}

func noDecision(*view.View, kinds.Key, time.Time) (loop.Decision, error) { return loop.Decision{}, nil }

// TestErrorsCarryTheirPolicy counts turns over an hour.
func TestErrorsCarryTheirPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		min, max int
	}{
		"stalled":   {loop.Stall(errors.New("test")), 1, 1},
		"waiting":   {fmt.Errorf("more: %w", loop.WaitFor(10*time.Minute, errors.New("test"))), 6, 7},
		"transient": {errors.New("test"), 110, 140},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, loop.Reconciler{Decide: func(*view.View, kinds.Key, time.Time) (loop.Decision, error) {
				return loop.Decision{}, c.err
			}})
			for b.clock.Since(start) < time.Hour {
				b.drain(t)
				b.clock.Step(time.Second)
			}
			if b.turns < c.min || b.turns > c.max {
				t.Errorf("%d turns in an hour, want %d to %d", b.turns, c.min, c.max)
			}
			b.put(t, configMap("owner", map[string]string{"changed": "yes"}), store.Anyway)
			turns := b.turns
			b.drain(t)
			if b.turns == turns {
				t.Error("a change did not wake the key")
			}
		})
	}
}

// TestOverflow: a subscriber that fell behind looks at everything again.
func TestOverflow(t *testing.T) {
	s := memory.New(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	blocked := make(chan struct{})
	r := loop.Reconciler{
		Name: "test", Component: "test", Owner: kinds.For[*corev1.ConfigMap](), Reads: secretReads(), Writes: secretWrites(),
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			<-blocked
			return children(1)(v, key, now)
		},
	}
	e := engine.New([]loop.Reconciler{r}, engine.Options{Store: overflowing{s}, Commit: s, Events: s, Workers: 2})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	const owners = 50
	for n := range owners {
		o := configMap(fmt.Sprint("owner-", n), nil)
		if r := s.Commit(ctx, store.Group{{Key: kinds.KeyOf(o), Object: o, Reason: "test"}})[0]; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	close(blocked)
	for deadline := time.Now().Add(10 * time.Second); s.View().Len(kinds.For[*corev1.Secret]().GroupResource()) < owners; {
		if time.Now().After(deadline) {
			t.Fatalf("%d secrets, want %d", s.View().Len(kinds.For[*corev1.Secret]().GroupResource()), owners)
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// overflowing loses every change: its subscriptions end after the first.
type overflowing struct{ *memory.Store }

func (o overflowing) Subscribe(name string) *store.Subscription {
	inner := o.Store.Subscribe(name)
	sub := store.NewSubscription(name, func(*store.Subscription) { inner.Close() })
	go func() {
		for range inner.C {
			break
		}
		sub.Close()
	}()
	return sub
}

// TestNothingIsDecidedBeforeTheViewIsComplete: an empty view at revision 0 is no view.
func TestNothingIsDecidedBeforeTheViewIsComplete(t *testing.T) {
	db := view.NewDB()
	s := memory.New()
	r := loop.Reconciler{
		Name: "test", Component: "test", Single: true,
		Decide: func(*view.View, kinds.Key, time.Time) (loop.Decision, error) {
			t.Error("decided from an empty view")
			return loop.Decision{}, nil
		},
	}
	e := engine.New([]loop.Reconciler{r}, engine.Options{Store: loading{s, db}, Commit: s, Events: s})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := e.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
}

// loading is a store whose view is never complete.
type loading struct {
	*memory.Store
	db *view.DB
}

func (l loading) View() *view.View { return l.db.View() }
func (l loading) Wait(ctx context.Context, rev int64) (*view.View, error) {
	return l.db.Wait(ctx, rev)
}

// TestQuotas: what one decision creates counts for what it creates next, and a refused creation is tried again by itself.
func TestQuotas(t *testing.T) {
	decide := children(5)
	b := newBench(t, loop.Reconciler{Reads: secretReads(), Writes: secretWrites(),
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			if key.Name != "owner" {
				return loop.Decision{}, nil
			}
			d, err := decide(v, key, now)
			for i := range d.Wants {
				d.Wants[i].Failed = &loop.Event{Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "Error creating: {cause}"}
			}
			return d, err
		}})
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "few"}}
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("3")}
	b.put(t, quota, 0)
	b.drain(t)
	if got := len(b.secrets()); got != 3 {
		t.Fatalf("%d secrets are there, want 3", got)
	}
	text := "is forbidden: exceeded quota: few, requested: secrets=1, used: secrets=3, limited: secrets=3"
	if !slices.ContainsFunc(b.events(), func(e string) bool {
		return strings.HasPrefix(e, `FailedCreate: Error creating: secrets "made-`) && strings.HasSuffix(e, text)
	}) {
		t.Errorf("no event says %q: %q", text, b.events())
	}

	there, _ := view.Get[*corev1.ResourceQuota](b.View(), "shop", "few")
	raised := there.DeepCopy()
	raised.Spec.Hard[corev1.ResourceSecrets] = resource.MustParse("4")
	b.put(t, raised, kinds.Revision(there))
	b.clock.Step(time.Minute)
	b.drain(t)
	if got := len(b.secrets()); got != 4 {
		t.Errorf("%d secrets are there once the quota is raised, want 4", got)
	}
}

// TestRefusalsAreLifted: what quotas, LimitRanges and a lack of service accounts refused is tried again when these change, without
// waiting for its backoff, and not by other changes.
func TestRefusalsAreLifted(t *testing.T) {
	decide := children(5)
	b := newBench(t, loop.Reconciler{Reads: secretReads(), Writes: secretWrites(),
		Decide: func(v *view.View, key kinds.Key, now time.Time) (loop.Decision, error) {
			if key.Name != "owner" {
				return loop.Decision{}, nil
			}
			return decide(v, key, now)
		}})
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "few"}}
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("1")}
	quota.Status.Used = corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("1")}
	b.put(t, quota, 0)
	limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "limits"}}
	b.drain(t)
	for b.step.Next().Sub(b.clock.Now()) < 30*time.Second { // refused for a while
		b.clock.Step(30 * time.Second)
		b.drain(t)
	}
	change := func(name string, lifts bool, objects int, o kinds.Object) {
		t.Helper()
		turns := b.turns
		revision := int64(0)
		if there := b.View().Get(kinds.KeyOf(o)); there != nil {
			revision = kinds.Revision(there)
		}
		b.put(t, o, revision)
		b.drain(t)
		if got := len(b.secrets()); got != objects || (b.turns > turns) != lifts {
			t.Errorf("%s: %d secrets, %d turns; want %d, and turns: %v", name, got, b.turns-turns, objects, lifts)
		}
	}
	with := func(change func(*corev1.ResourceQuota)) *corev1.ResourceQuota {
		there, _ := view.Get[*corev1.ResourceQuota](b.View(), "shop", "few")
		q := there.DeepCopy()
		change(q)
		return q
	}
	one, two := resource.MustParse("1"), resource.MustParse("2")
	other := quota.DeepCopy()
	other.Namespace = "elsewhere"
	change("a quota of another namespace", false, 1, other)
	change("more is used", false, 1, with(func(q *corev1.ResourceQuota) { q.Status.Used[corev1.ResourceSecrets] = two }))
	change("less is used", true, 1, with(func(q *corev1.ResourceQuota) { q.Status.Used[corev1.ResourceSecrets] = one }))
	change("a LimitRange", true, 1, limits)
	change("an account", true, 1, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}})
	change("labels", true, 1, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"a": "b"}}})
	change("no other labels", false, 1, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"a": "b"},
		Annotations: map[string]string{"a": "b"}}})
	change("raised", true, 3, with(func(q *corev1.ResourceQuota) { q.Spec.Hard[corev1.ResourceSecrets] = resource.MustParse("3") }))
	change("raised for all", true, 5, with(func(q *corev1.ResourceQuota) { q.Spec.Hard[corev1.ResourceSecrets] = resource.MustParse("9") }))
	change("nothing is refused any more", false, 5, with(func(q *corev1.ResourceQuota) { q.Spec.Hard[corev1.ResourceSecrets] = two }))
}
