package sync

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/apply"
)

// of is what is told of a source.
func (w *world) of(name string) v1alpha1.SourceStatus {
	s, ok := view.Get[*v1alpha1.Source](w.store.View(), "", name)
	if !ok {
		return v1alpha1.SourceStatus{}
	}
	return s.Status
}

func (w *world) color(name string) string {
	c, ok := view.Get[*corev1.ConfigMap](w.store.View(), "default", name)
	if !ok {
		return ""
	}
	return c.Data["color"]
}

func colored(name, color string) string {
	return strings.NewReplacer("name: settings", "name: "+name, "shop", "default", "blue", color).Replace(settings)
}

// TestSourcesComeAndGo: a Source that is written while the daemon runs is followed, told of and posted for as it says; one
// that goes lets go of its objects; those beside it go on, also those of the same repository.
func TestSourcesComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.spec.Spec.Path = "a"
	first := w.push("first", map[string]string{"a/one.yaml": colored("one", "blue"), "b/two.yaml": colored("two", "blue")})
	s, _ := w.start()
	w.receives(first, "success: 1 object")
	folder := t.TempDir()
	w.write(folder, map[string]string{"three.yaml": colored("three", "blue")})

	two := w.spec.DeepCopy()
	two.Name, two.Spec.Path = "two", "b"
	three := named("three", v1alpha1.SourceSpec{Folder: folder})
	for _, o := range []*v1alpha1.Source{two, &three} {
		if err := w.put(o); err != nil {
			t.Fatal(err)
		}
	}
	w.until("both are followed", func() bool { return w.of("two").State == "success" && w.of("three").State == "success" })
	w.until("the new one's verdict is posted", func() bool {
		return slices.Contains(w.texts(first, "lockstep/test/two"), "success: 1 object in sync and healthy")
	})
	if w.color("two") != "blue" || w.color("three") != "blue" {
		t.Errorf("two is %q, three is %q", w.color("two"), w.color("three"))
	}
	second := w.push("second", map[string]string{"a/one.yaml": colored("one", "red"), "b/two.yaml": colored("two", "red")})
	s.poke()
	w.until("both of the repository follow it", func() bool { return w.of("two").Accepted == second && w.of("shop").Accepted == second })
	if p, err := s.Plan(t.Context(), "three"); err != nil || len(p.Steps) != 0 {
		t.Errorf("planned %+v, %v", p, err)
	}

	// It is specified anew.
	two, _ = view.Get[*v1alpha1.Source](w.store.View(), "", "two")
	two = two.DeepCopy()
	two.Spec.IgnoreKinds = []string{"Secret"}
	w.until("written", func() bool { return w.put(two) == nil })
	third := w.push("third", map[string]string{"b/secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: default}\n"})
	s.poke()
	w.until("it is followed as it says now", func() bool { return w.of("two").Accepted == third && w.of("two").Objects == 1 })

	// They go.
	for _, name := range []string{"two", "three"} {
		r := w.store.Commit(t.Context(), store.Group{{Key: kinds.For[*v1alpha1.Source]().Key("", name), If: store.Anyway}})[0]
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	w.until("nothing is kept of them", func() bool { return slices.Equal(apply.Known(w.store.View()), []string{"shop"}) })
	for _, table := range []string{"outbox", "posted"} {
		w.until("no status is kept of them", func() bool {
			for range w.store.View().Records(table, "two/") {
				return false
			}
			return true
		})
	}
	w.push("fourth", map[string]string{"a/one.yaml": colored("one", "green"), "b/two.yaml": colored("two", "green")})
	w.write(folder, map[string]string{"three.yaml": colored("three", "green")})
	s.poke()
	w.until("the other one goes on", func() bool { return w.color("one") == "green" })
	if w.color("two") != "red" || w.color("three") != "blue" {
		t.Errorf("two is %q, three is %q: followed, or lost", w.color("two"), w.color("three"))
	}
	if _, ok := view.Get[*v1alpha1.Source](w.store.View(), "", "two"); ok {
		t.Error("it was written again")
	}
	if _, err := s.Plan(t.Context(), "two"); err == nil {
		t.Error("a source that is gone was planned")
	}
}

// TestConfiguredSourceIsPutBack: who edits or deletes the object of a configured source by hand changes nothing.
func TestConfiguredSourceIsPutBack(t *testing.T) {
	w := newWorld(t)
	sha := w.push("first", map[string]string{"one.yaml": colored("one", "blue")})
	s, _ := w.start()
	w.receives(sha, "success: 1 object")
	uid := w.uids()["one"]
	key := kinds.For[*v1alpha1.Source]().Key("", "shop")
	if r := w.store.Commit(t.Context(), store.Group{{Key: key, If: store.Anyway}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	w.until("it is back, with what is told of it", func() bool { return w.status().State == "success" && w.status().Objects == 1 })
	live, _ := view.Get[*v1alpha1.Source](w.store.View(), "", "shop")
	live = live.DeepCopy()
	live.Spec = v1alpha1.SourceSpec{Folder: t.TempDir()}
	if err := w.put(live); err != nil {
		t.Fatal(err)
	}
	w.until("it is as configured", func() bool {
		live, _ := view.Get[*v1alpha1.Source](w.store.View(), "", "shop")
		return live.Spec.URL == w.url && live.Spec.Folder == ""
	})
	sha = w.push("second", map[string]string{"one.yaml": colored("one", "red")})
	s.poke()
	w.receives(sha, "success: 1 object")
	if got := w.uids()["one"]; got != uid {
		t.Error("the object was deleted meanwhile")
	}
	if got := w.texts(sha, judged+"/drift"); len(got) != 0 {
		t.Errorf("told as drift: %q", got)
	}
}

// TestSourceThatCannotBeFollowed tells why, and stops no other.
func TestSourceThatCannotBeFollowed(t *testing.T) {
	w := newWorld(t)
	sha := w.push("first", map[string]string{"one.yaml": colored("one", "blue")})
	bad := named("bad", v1alpha1.SourceSpec{URL: "ftp://git.example/shop.git"})
	if err := w.put(&bad); err != nil {
		t.Fatal(err)
	}
	odd := named("odd", v1alpha1.SourceSpec{URL: "file:///srv/shop.git", Forge: &v1alpha1.Forge{Type: "gitea"}})
	_, stop := w.start()
	w.receives(sha, "success: 1 object")
	if _, ok := view.Get[*v1alpha1.Source](w.store.View(), "", "bad"); ok {
		t.Error("a source that is not configured outlived the start")
	}
	for _, o := range []*v1alpha1.Source{&bad, &odd} {
		if err := w.put(o); err != nil {
			t.Fatal(err)
		}
	}
	w.until("told", func() bool {
		return strings.Contains(w.of("bad").FetchError, `scheme "ftp" is not`) &&
			strings.Contains(w.of("odd").FetchError, "cannot use the forge of source odd")
	})
	stop()

	// Configured so, it is no start.
	if _, err := New(Options{Sources: []v1alpha1.Source{bad}, Store: w.store}); err == nil {
		t.Error("a source that cannot be followed was taken")
	}
	if _, err := New(Options{Sources: []v1alpha1.Source{w.spec, w.spec}, Store: w.store}); err == nil ||
		!strings.Contains(err.Error(), "two sources have that name") {
		t.Errorf("two of one name: %v", err)
	}
}

// TestSourceNoLongerConfigured lets go of its objects at the next start, and another one may take them.
func TestSourceNoLongerConfigured(t *testing.T) {
	w := newWorld(t)
	sha := w.push("first", map[string]string{"one.yaml": colored("one", "blue")})
	_, stop := w.start()
	w.receives(sha, "success: 1 object")
	stop()
	uid := w.uids()["one"]
	w.spec.Name = "till"
	w.start()
	w.until("the other one has it", func() bool { return w.of("till").State == "success" })
	if _, ok := view.Get[*v1alpha1.Source](w.store.View(), "", "shop"); ok || w.uids()["one"] != uid {
		t.Errorf("the first is there: %v; the object was made anew: %v", ok, w.uids()["one"] != uid)
	}
	if got := apply.Known(w.store.View()); !slices.Equal(got, []string{"till"}) {
		t.Errorf("known are %v", got)
	}
}

// TestAnotherStartWritesNothing: a store that has what is configured, accepted and told stays as it is, byte for byte.
func TestAnotherStartWritesNothing(t *testing.T) {
	w := newWorld(t)
	var quiet atomic.Bool
	w.store = newStore(func(g store.Group) error {
		if quiet.Load() {
			t.Errorf("written: %+v", g)
		}
		return nil
	})
	sha := w.push("first", map[string]string{"one.yaml": colored("one", "blue")})
	_, stop := w.start()
	w.receives(sha, "success: 1 object")
	w.until("kept as posted", func() bool {
		_, waiting := w.store.View().Record("outbox", "shop/"+sha+"/verdict")
		return !waiting
	})
	stop()
	quiet.Store(true)
	w.start()
	w.until("accepted again", func() bool { return strings.Count(w.logs.String(), "revision accepted") == 2 })
	time.Sleep(3 * passGap)
}

// TestReleaseIsTriedAgain: what could not be forgotten at once is not forgotten about.
func TestReleaseIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	var failures atomic.Int64
	w.store = newStore(func(g store.Group) error {
		if g[0].Reason == "source removed" && failures.Add(1) < 3 {
			return store.ErrUnavailable
		}
		return nil
	})
	sha := w.push("first", map[string]string{"one.yaml": strings.Replace(colored("one", "blue"), "data:", "dat:", 1)})
	late := w.spec.DeepCopy()
	late.Name = "late"
	w.start()
	w.until("begun", func() bool { return w.status().State == "error" })
	if err := w.put(late); err != nil {
		t.Fatal(err)
	}
	of := func(table string) bool {
		_, ok := w.store.View().Record(table, "late/"+sha+"/verdict")
		return ok
	}
	w.until("refused, and told so", func() bool { return of("posted") && !of("outbox") })
	if r := w.store.Commit(t.Context(), store.Group{{Key: kinds.KeyOf(late), If: store.Anyway}})[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	w.until("forgotten", func() bool { return !of("posted") })
	if got := failures.Load(); got < 3 {
		t.Errorf("%d attempts", got)
	}
}
