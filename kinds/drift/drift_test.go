package drift

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func killed(id string) Finding {
	return Finding{ID: id, Kind: Killed, Node: "b", Object: "Pod shop/" + id, Place: "web", What: "exit code 137 (SIGKILL)", Noticed: at,
		Open: true}
}

func mended(f Finding) Finding {
	f.Open, f.Repaired, f.How = false, at.Add(time.Second), "restarted"
	return f
}

// TestLog: what is found and repaired is one finding, which keeps when it was noticed and where its object came from.
func TestLog(t *testing.T) {
	first := killed("a")
	first.Source, first.Received = "main", at
	l, news := Log{}.Add([]Finding{first, killed("b")}, 0)
	if len(news) != 2 || len(l.Findings) != 2 || l.Findings[0].ID != "b" || l.Changes != 2 {
		t.Fatalf("%+v", l)
	}
	before := l
	again := mended(killed("a"))
	again.Noticed = at.Add(time.Hour)
	l, news = l.Add([]Finding{again}, 0)
	if len(news) != 1 || len(l.Findings) != 2 || l.Changes != 3 {
		t.Fatalf("%+v", l)
	}
	if f := l.Findings[1]; f.Repaired.IsZero() || !f.Noticed.Equal(at) || f.Source != "main" || !f.Received.Equal(at) || f.Number != 3 {
		t.Errorf("%+v", f)
	}
	if !before.Findings[1].Repaired.IsZero() {
		t.Error("the log before was changed")
	}
	if l, news = l.Add([]Finding{killed("a"), again}, 0); len(news) != 0 || l.Changes != 3 {
		t.Errorf("what is settled was unsettled: %+v", l)
	}
}

// TestLogIsBounded: of a storm the newest are kept, the rest is counted, and what is kept fits into a write.
func TestLogIsBounded(t *testing.T) {
	var l Log
	for i := range 500 {
		f := killed(fmt.Sprint(i))
		f.What = strings.Repeat("\x00", 1000)
		for range 50 {
			f.Evidence = append(f.Evidence, strings.Repeat("ü", 1000))
		}
		l, _ = l.Add([]Finding{f}, 1)
	}
	if len(l.Findings) != MaxFindings || l.Findings[0].ID != "499" || l.Dropped != 500+500-MaxFindings {
		t.Errorf("%d findings, first %s, dropped %d", len(l.Findings), l.Findings[0].ID, l.Dropped)
	}
	data, err := json.Marshal(l)
	if err != nil || len(data) > 512<<10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if strings.ContainsRune(string(data), 0) || strings.Contains(string(data), `\u0000`) {
		t.Error("a control character is kept")
	}
	if l, news := l.Add(nil, -5); len(news) != 0 || l.Dropped != 936 {
		t.Errorf("dropped %d", l.Dropped)
	}
}

// TestStorm: what many findings come to is one line, with the first of them by name.
func TestStorm(t *testing.T) {
	object := Finding{ID: "o", Kind: Object, Object: "ConfigMap shop/settings", What: "changed by hand: data.color", Repaired: at}
	other := object
	other.ID, other.Object = "p", "Service shop/web"
	open := other
	open.ID, open.Repaired = "q", time.Time{}
	onC := mended(killed("c1"))
	onC.Node = "c"
	foreign := Finding{ID: "f", Kind: Foreign, Node: "b", Object: "Node b", Place: "x", What: `image "nginx"`, Repaired: at}
	for want, found := range map[string][]Finding{
		"repaired ConfigMap shop/settings: changed by hand: data.color": {
			object},
		"repaired 2 objects, first ConfigMap shop/settings: changed by hand: data.color": {
			object, other},
		"2 objects changed, 1 repaired; first ConfigMap shop/settings: changed by hand: data.color": {
			object, open},
		"container killed on node b, being repaired: Pod shop/a, web: exit code 137 (SIGKILL)": {
			killed("a")},
		"container killed on node b, repaired: Pod shop/a, web: exit code 137 (SIGKILL)": {
			killed("a"), mended(killed("a"))},
		"2 containers killed on node b, all repaired; first Pod shop/a, web: exit code 137 (SIGKILL)": {
			mended(killed("a")), mended(killed("b"))},
		"2 containers killed on nodes b, c, all repaired; first Pod shop/a, web: exit code 137 (SIGKILL)": {
			mended(killed("a")), onC},
		"3 containers killed on node b, 1 repaired; first Pod shop/a, web: exit code 137 (SIGKILL)": {
			mended(killed("a")), killed("b"), killed("d")},
		"2 differences on node b, none repaired; first Pod shop/a, web: exit code 137 (SIGKILL)": {
			killed("a"), {ID: "z", Kind: Paused, Node: "b"}},
		"2 differences on node b, all repaired; first Node b, x: image \"nginx\"": {
			foreign, mended(killed("a"))},
	} {
		var s Storm
		s.Add(found, at)
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var s Storm
	for i := range maxKnown + 10 {
		s.Add([]Finding{mended(killed(fmt.Sprint(i)))}, at)
	}
	const want = "4106 containers killed on node b, all repaired; first Pod shop/0"
	if text := s.String(); len(s.Known) != maxKnown || !strings.HasPrefix(text, want) {
		t.Errorf("%d are known: %s", len(s.Known), text)
	}
}

// TestEveryKindHasWords: in one and in many.
func TestEveryKindHasWords(t *testing.T) {
	for _, k := range append(OfNodes(), Object, Health) {
		one, many := k.words()
		if one == "difference" || one == many {
			t.Errorf("%s has no words", k)
		}
	}
}
