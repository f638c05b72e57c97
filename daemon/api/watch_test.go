package api

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"lockstep/daemon/provenance"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/memory"
	"lockstep/store/view"
	"lockstep/sync/plan"
)

func configMap(namespace, name string, labels map[string]string) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: named(namespace, name)}
	c.Labels = labels
	return c
}

func put(o kinds.Object) store.Write {
	return store.Write{Key: kinds.KeyOf(o), Object: o, If: store.Anyway, Reason: "test"}
}

// take reads n events as "TYPE name".
func take(t *testing.T, w watch.Interface, n int) []string {
	t.Helper()
	var out []string
	late := time.After(5 * time.Second)
	for len(out) < n {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatalf("the watch ended after %v", out)
			}
			name := ""
			switch o := e.Object.(type) {
			case metav1.Object:
				name = o.GetName()
			case *metav1.Status:
				name = string(o.Reason)
			}
			out = append(out, strings.TrimSpace(string(e.Type)+" "+name))
		case <-late:
			t.Fatalf("got only %v", out)
		}
	}
	return out
}

func watchMaps(t *testing.T, c kubernetes.Interface, opts metav1.ListOptions) watch.Interface {
	t.Helper()
	w, err := c.CoreV1().ConfigMaps("a").Watch(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestWatchSelectors(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", map[string]string{"in": "no"}))
	c := client(t, s.viewer())
	list, err := c.CoreV1().ConfigMaps("a").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := watchMaps(t, c, metav1.ListOptions{LabelSelector: "in=yes", ResourceVersion: list.ResourceVersion})
	in, out := map[string]string{"in": "yes"}, map[string]string{"in": "no"}
	s.put(configMap("a", "one", in), configMap("a", "one", in), configMap("a", "one", out), configMap("a", "two", in),
		configMap("b", "other", in))
	s.commit(store.Write{Key: kinds.KeyOf(configMap("a", "two", nil)), If: store.Anyway, Reason: "test"})
	expect(t, "selected", take(t, w, 5), "ADDED one", "MODIFIED one", "DELETED one", "ADDED two", "DELETED two")
}

// TestWatchCutInsideRevision resumes at a revision of several objects: its events come again, all of them.
func TestWatchCutInsideRevision(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "zero", nil))
	c := client(t, s.viewer())
	rev := s.commit(put(configMap("a", "one", nil)), put(configMap("a", "two", nil)), put(configMap("a", "three", nil)))
	s.put(configMap("a", "last", nil))
	w := watchMaps(t, c, metav1.ListOptions{ResourceVersion: fmt.Sprint(rev)})
	got := take(t, w, 4)
	slices.Sort(got[:3])
	expect(t, "resumed inside a revision", got, "ADDED one", "ADDED three", "ADDED two", "ADDED last")

	w = watchMaps(t, c, metav1.ListOptions{ResourceVersion: fmt.Sprint(rev + 1)})
	s.put(configMap("a", "after", nil))
	expect(t, "resumed at a revision of one object", take(t, w, 1), "ADDED after")
}

// TestWatchRepeatsOnlyItsOwn resumes at a revision of which one event is its own: nothing is repeated.
func TestWatchRepeatsOnlyItsOwn(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "zero", nil))
	c := client(t, s.viewer())
	mine := map[string]string{"mine": "yes"}
	rev := s.commit(put(configMap("a", "one", mine)), put(configMap("a", "two", nil)), put(configMap("b", "three", mine)))
	s.put(configMap("a", "last", mine))
	w := watchMaps(t, c, metav1.ListOptions{ResourceVersion: fmt.Sprint(rev), LabelSelector: "mine=yes"})
	expect(t, "resumed inside a revision", take(t, w, 1), "ADDED last")
	w, err := c.CoreV1().ConfigMaps("b").Watch(t.Context(), metav1.ListOptions{ResourceVersion: fmt.Sprint(rev)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.put(configMap("b", "next", nil))
	expect(t, "another namespace", take(t, w, 1), "ADDED next")
}

// TestOneContentAtOneRevision reads an object at once, live, replayed and listed, while its manifest moves: whatever has one
// resourceVersion has one content.
func TestOneContentAtOneRevision(t *testing.T) {
	source := &v1alpha1.Source{ObjectMeta: named("", "main")}
	s := newTestServer(t, nil, source)
	c := client(t, s.viewer())
	start := fmt.Sprint(s.store.View().Revision())
	live := watchMaps(t, c, metav1.ListOptions{ResourceVersion: start})
	o := configMap("a", "one", nil)
	key := kinds.KeyOf(o)
	record := func(line int) store.Write {
		return store.Write{Record: s.record(key, "one.yaml", line), If: store.Anyway, Reason: "test"}
	}
	contents := map[string]map[string]string{} // by resourceVersion
	same := func(how string, o *corev1.ConfigMap) {
		t.Helper()
		if o.Annotations[provenance.AnnotationSource] != "main" {
			t.Errorf("%s at %s: annotations %v", how, o.ResourceVersion, o.Annotations)
		}
		before, ok := contents[o.ResourceVersion]
		if ok && !maps.Equal(before, o.Annotations) {
			t.Errorf("%s at %s: annotations %v, were %v", how, o.ResourceVersion, o.Annotations, before)
		}
		contents[o.ResourceVersion] = o.Annotations
	}
	read := func() {
		t.Helper()
		got, err := c.CoreV1().ConfigMaps("a").Get(t.Context(), "one", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		same("get", got)
		list, err := c.CoreV1().ConfigMaps("a").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		same("list", &list.Items[0])
	}
	s.commit(put(o), record(1))
	read()
	s.commit(record(2)) // its file has moved, and it has not changed
	read()
	s.commit(put(o), record(3))
	read()
	s.commit(store.Write{Key: key, If: store.Anyway, Reason: "test"}, store.Write{
		Record: &view.Record{Table: string(plan.Inventory), Name: "main/" + key.Path()}, If: store.Anyway, Reason: "test",
	})
	for how, w := range map[string]watch.Interface{"live": live, "replayed": watchMaps(t, c, metav1.ListOptions{ResourceVersion: start})} {
		for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
			e := <-w.ResultChan()
			if e.Type != want {
				t.Fatalf("%s: got %s, want %s", how, e.Type, want)
			}
			same(how+" "+string(e.Type), e.Object.(*corev1.ConfigMap))
		}
	}
	if len(contents) != 3 {
		t.Errorf("%d revisions were seen, want 3", len(contents))
	}
}

// TestWatchAfterListRepeatsNothing lists right after a transaction of several objects and watches on: nothing listed comes
// again, and what comes after does.
func TestWatchAfterListRepeatsNothing(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "zero", nil))
	c := client(t, s.viewer())
	s.commit(put(configMap("a", "one", nil)), put(configMap("a", "two", nil)))
	list, err := c.CoreV1().ConfigMaps("a").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 3 {
		t.Fatalf("listed %d objects, want 3", len(list.Items))
	}
	before := s.store.View().Revision()
	if _, err := c.CoreV1().ConfigMaps("a").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if now := s.store.View().Revision(); now != before {
		t.Errorf("a second list made revision %d after %d", now, before)
	}
	w := watchMaps(t, c, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	s.commit(put(configMap("a", "three", nil)), put(configMap("a", "four", nil)))
	got := take(t, w, 2)
	slices.Sort(got)
	expect(t, "after the list", got, "ADDED four", "ADDED three")
}

func TestWatchList(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", nil), configMap("a", "two", nil), configMap("b", "x", nil))
	c := client(t, s.viewer())
	yes := true
	w := watchMaps(t, c, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	expect(t, "initial events", take(t, w, 2), "ADDED one", "ADDED two")
	mark := <-w.ResultChan()
	o := mark.Object.(metav1.Object)
	if mark.Type != watch.Bookmark || o.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" || o.GetResourceVersion() == "" {
		t.Errorf("the closing bookmark is %v", mark)
	}
	s.put(configMap("a", "three", nil))
	expect(t, "after them", take(t, w, 1), "ADDED three")
}

func TestWatchTimeoutEndsWithBookmark(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", nil))
	c := client(t, s.viewer())
	seconds := int64(3)
	w := watchMaps(t, c, metav1.ListOptions{AllowWatchBookmarks: true, TimeoutSeconds: &seconds, ResourceVersion: "0"})
	expect(t, "a short watch", take(t, w, 3), "ADDED one", "BOOKMARK", "BOOKMARK") // the first closes the initial events
	if e, ok := <-w.ResultChan(); ok {
		t.Errorf("got %v after the last bookmark, want the end", e)
	}
}

// ahead is a store that has revisions which this server has not seen yet.
type ahead struct{ *memory.Store }

func (ahead) Current(context.Context) (int64, error) { return 999999, nil }

func TestServerBehindItsStore(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", nil))
	s.opts.Store = ahead{s.store}
	s.restart()
	code, body := s.ask(s.viewer(), "GET", "/api/v1/configmaps?resourceVersion=999999", "")
	if code != 504 || !strings.Contains(body, "Too large resource version") {
		t.Errorf("a list from what is to come: %d %s", code, body)
	}
}

func TestContinue(t *testing.T) {
	s := newTestServer(t, nil)
	var passed atomic.Int64 // beside what passes anyway
	s.opts.Now = func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
	s.restart()
	for i := range 7 {
		s.put(configMap("a", fmt.Sprint("m", i), nil))
	}
	c := client(t, s.viewer()).CoreV1().ConfigMaps("")
	first, err := c.List(t.Context(), metav1.ListOptions{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	if *first.RemainingItemCount != 4 {
		t.Errorf("remaining %d, want 4", *first.RemainingItemCount)
	}
	late := configMap("a", "m3a", nil) // after the snapshot
	rev := s.commit(store.Write{Key: kinds.KeyOf(late), Object: late, If: store.Anyway, Reason: "test"})
	var names []string
	page := first
	for {
		for _, o := range page.Items {
			names = append(names, o.Name)
		}
		if page.Continue == "" {
			break
		}
		if page, err = c.List(t.Context(), metav1.ListOptions{Limit: 3, Continue: page.Continue}); err != nil {
			t.Fatal(err)
		}
		if page.ResourceVersion != first.ResourceVersion {
			t.Errorf("a part is of revision %s, want %s", page.ResourceVersion, first.ResourceVersion)
		}
	}
	expect(t, "in parts", names, "m0", "m1", "m2", "m3", "m4", "m5", "m6")

	// Until it is seen the snapshot is what there is now, which does not expire.
	if _, err := c.List(t.Context(), metav1.ListOptions{ResourceVersion: fmt.Sprint(rev)}); err != nil {
		t.Fatal(err)
	}
	passed.Store(int64(time.Hour)) // longer than any snapshot is kept
	_, err = c.List(t.Context(), metav1.ListOptions{Limit: 3, Continue: first.Continue})
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Code != 410 || status.Status().Reason != metav1.StatusReasonExpired || status.Status().Continue == "" {
		t.Fatalf("a continue token without its snapshot: %v", err)
	}
	rest, err := c.List(t.Context(), metav1.ListOptions{Continue: status.Status().Continue})
	if err != nil {
		t.Fatal(err)
	}
	if len(rest.Items) != 5 || rest.Items[0].Name != "m3" || rest.Items[1].Name != "m3a" {
		t.Errorf("the inconsistent rest is %d objects", len(rest.Items))
	}
	if _, err := c.List(t.Context(), metav1.ListOptions{Continue: "rubbish"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a bad token: %v", err)
	}
}
