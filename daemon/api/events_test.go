package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
)

const newEvents = "/apis/events.k8s.io/v1/namespaces/shop/events"

// TestNewRecorder: client-go's newer recorder writes an event to events.k8s.io/v1 once, and makes a series of what comes again; it
// is one event, whichever way it is read.
func TestNewRecorder(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client(t, s.program("leader")).EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer broadcaster.Shutdown()
	recorder := broadcaster.NewRecorder(clientscheme.Scheme, "operator")
	reader := client(t, s.viewer())
	w, err := reader.EventsV1().Events("shop").Watch(t.Context(), metav1.ListOptions{FieldSelector: "reportingController=operator"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	service, err := reader.CoreV1().Services("shop").Get(t.Context(), "cart", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind  apiwatch.EventType
		count int32
	}{{apiwatch.Added, 0}, {apiwatch.Modified, 2}} {
		recorder.Eventf(service, nil, corev1.EventTypeWarning, "Odd", "Look", "it is %s", "odd")
		select {
		case e := <-w.ResultChan():
			told, ok := e.Object.(*eventsv1.Event)
			if !ok || e.Type != want.kind || told.Note != "it is odd" || told.Regarding.Name != "cart" || told.Action != "Look" ||
				(told.Series == nil) != (want.count == 0) || told.Series != nil && told.Series.Count != want.count {
				t.Errorf("%s %v, want %v", e.Type, e.Object, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing comes, want %v", want)
		}
	}
	list, err := reader.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{FieldSelector: "reportingComponent=operator"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Message != "it is odd" || list.Items[0].InvolvedObject.Name != "cart" ||
		list.Items[0].Series == nil {
		t.Errorf("as v1: %v, %v", list, err)
	}
}

// TestEventsAreShown reads as events.k8s.io/v1 has it what was written as v1, in each of the ways that there are.
func TestEventsAreShown(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	reader := client(t, s.viewer()).EventsV1().Events("shop")
	e, err := reader.Get(t.Context(), "cart-1-a.1", metav1.GetOptions{})
	if err != nil || e.Note != "Started container main" || e.Regarding.Name != "cart-1-a" || e.DeprecatedSource.Component != "kubelet" ||
		e.DeprecatedCount != 1 || e.ResourceVersion == "" {
		t.Errorf("%v, %v", e, err)
	}
	for selector, want := range map[string]int{
		"regarding.name=cart-1-a": 1, "regarding.name=other": 0, "reason=Started,type=Normal": 1, "metadata.name=cart-1-a.1": 1,
	} {
		list, err := reader.List(t.Context(), metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != want || list.ResourceVersion == "" {
			t.Errorf("%s: %v, %v", selector, list, err)
		}
	}
	if _, err := reader.List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a"}); err == nil {
		t.Error("a field of v1's selects")
	}
	old, fresh := "", ""
	for path, into := range map[string]*string{"/api/v1/namespaces/shop/events": &old, newEvents: &fresh} {
		_, *into = s.askWith(s.viewer(), http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io"}}, "GET", path, "")
	}
	var tables [2]metav1.Table
	if err := json.Unmarshal([]byte(old), &tables[0]); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(fresh), &tables[1]); err != nil {
		t.Fatal(err)
	}
	if len(tables[0].ColumnDefinitions) == 0 || len(tables[0].ColumnDefinitions) != len(tables[1].ColumnDefinitions) ||
		len(tables[1].Rows) != 1 || tables[0].Rows[0].Cells[2] != tables[1].Rows[0].Cells[2] {
		t.Errorf("the tables are %s and %s", old, fresh)
	}
	for _, c := range []struct {
		path, says string
	}{
		{"/apis/events.k8s.io/v1", `"name":"events","singularName":"event","namespaced":true,"kind":"Event"`},
		{"/apis/events.k8s.io", `"preferredVersion":{"groupVersion":"events.k8s.io/v1"`},
		{"/openapi/v3/apis/events.k8s.io/v1", `"regarding"`},
	} {
		if code, body := s.ask(s.viewer(), "GET", c.path, ""); code != http.StatusOK || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s", c.path, code, body)
		}
	}
}

// TestEventsAreJudgedAsTheirGroup: what is written as events.k8s.io/v1 has it obeys that one's rules, and who may is as with v1.
func TestEventsAreJudgedAsTheirGroup(t *testing.T) {
	s := newTestServer(t, nil, programCluster()...)
	event := func(name, more string) string {
		return `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"` + name + `","namespace":"shop"},"reason":"R",` +
			`"action":"A",` +
			`"note":"n","type":"Normal","reportingController":"c","reportingInstance":"i",` + more +
			`"regarding":{"kind":"Service","namespace":"shop","name":"cart"}}`
	}
	const now = `"eventTime":"2026-01-02T03:04:05.000006Z",`
	leader := s.program("leader")
	for _, test := range []struct {
		name, who, method, path, body string
		want                          int
		says                          string
	}{
		{"one", "leader", "POST", newEvents, event("a", now), http.StatusCreated, `"note":"n"`},
		{"it again", "leader", "POST", newEvents, event("a", now), http.StatusConflict, "already exists"},
		{"without a time", "leader", "POST", newEvents, event("b", ""), http.StatusUnprocessableEntity, "eventTime: Required value"},
		{"with v1's count", "leader", "POST", newEvents, event("b", now+`"deprecatedCount":2,`), http.StatusUnprocessableEntity,
			"needs to be unset"},
		{"of another namespace", "leader", "POST", newEvents, strings.Replace(event("b", now), `"namespace":"shop","name":"cart"`,
			`"namespace":"bank","name":"cart"`, 1), http.StatusUnprocessableEntity, "does not match event.namespace"},
		{"a series", "leader", "PATCH", newEvents + "/a", `{"series":{"count":2,"lastObservedTime":"2026-01-02T03:05:05.000006Z"}}`,
			http.StatusOK, `"count":2`},
		{"another reason", "leader", "PATCH", newEvents + "/a", `{"reason":"S"}`, http.StatusUnprocessableEntity, "field is immutable"},
		{"what is gone", "leader", "PATCH", newEvents + "/gone", `{"series":null}`, http.StatusNotFound, `events \"gone\" not found`},
		{"anew", "leader", "PUT", newEvents + "/a", strings.Replace(event("a", now), `"n"`, `"m"`, 1),
			http.StatusUnprocessableEntity, `message: Invalid value: \"m\"`},
		{"with another series", "leader", "PUT", newEvents + "/a",
			event("a", now+`"series":{"count":2,"lastObservedTime":"2026-01-02T03:05:05.000006Z"},`), http.StatusOK, `"count":2`},
		{"to be ended", "leader", "POST", newEvents, event("e", now), http.StatusCreated, ""},
		{"its end", "leader", "DELETE", newEvents + "/e", "", http.StatusOK, `"group":"events.k8s.io"`},
		{"its end again", "leader", "DELETE", newEvents + "/e", "", http.StatusNotFound, ""},
		{"what a node told", "leader", "DELETE", newEvents + "/cart-1-a.1", "", http.StatusMethodNotAllowed, "stays as it is until"},
		{"its end as a person", "viewer", "DELETE", newEvents + "/a", "", http.StatusMethodNotAllowed,
			"events are made by the cluster itself"},
		{"without a role", "default", "POST", newEvents, event("c", now), http.StatusForbidden,
			`cannot create resource \"events\" in API group \"events.k8s.io\"`},
		{"as a person", "viewer", "POST", newEvents, event("c", now), http.StatusMethodNotAllowed, ""},
		{"as a node", "node", "POST", newEvents, event("c", now), http.StatusMethodNotAllowed, ""},
		{"it in bytes", "leader", "POST", newEvents,
			event("d", now+`"metadata":{"annotations":{"a":"`+strings.Repeat("x", 9<<10)+`"}},`),
			http.StatusRequestEntityTooLarge, ""},
	} {
		config := leader
		switch test.who {
		case "default":
			config = s.program("default")
		case "viewer":
			config = s.viewer()
		case "node":
			config = s.node("n1")
		}
		if code, body := s.ask(config, test.method, test.path, test.body); code != test.want || !strings.Contains(body, test.says) {
			t.Errorf("%s: %d %s", test.name, code, body)
		}
	}
	e, err := client(t, s.viewer()).CoreV1().Events("shop").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || e.Series == nil || e.Series.Count != 2 || e.Message != "n" || e.APIVersion != "" && e.APIVersion != "v1" {
		t.Errorf("as v1: %v, %v", e, err)
	}
	if _, err := client(t, leader).EventsV1().Events("shop").Patch(t.Context(), "a", types.StrategicMergePatchType,
		[]byte(`{"series":{"count":3,"lastObservedTime":"2026-01-02T03:06:05.000006Z"}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("as the recorder patches: %v", err)
	}
}

// TestShownWatchEnds: what shows a watch ends with it, also where nobody takes what it has.
func TestShownWatchEnds(t *testing.T) {
	inner := apiwatch.NewFake()
	w := &shownWatch{Interface: inner, out: make(chan apiwatch.Event), stopped: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		w.run()
		close(ended)
	}()
	inner.Add(&corev1.Event{}) // taken, and nobody takes it further
	w.Stop()
	w.Stop()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it goes on")
	}
}
