package history

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a moment of a test, in seconds.
func at(s int) time.Time { return time.Unix(int64(s), 0) }

// good is a log in which each promise is put to the test, and kept.
func good() Log {
	return Log{
		Pushes: []Push{{1, true}, {2, true}, {3, false}, {4, true}},
		Reads: []Read{
			{Client: "a", At: at(1), Data: "x", Version: 5, Number: 1},
			{Client: "b", At: at(2), Data: "x", Version: 9, Number: 3},
			{Client: "a", At: at(3), Data: "x", Version: 5, Number: 1}, // the same again
			{Client: "a", At: at(4), Data: "x", Version: 5, Number: 1, Stale: true},
			{Client: "b", At: at(5), Data: "x", Version: 5, Number: 1, Stale: true}, // old, and it says so
			{Client: "b", At: at(6), Data: "y"},                                     // etcd was lost, and nothing is rebuilt yet
			{Client: "b", At: at(7), Data: "y"},
			{Client: "b", At: at(8), Data: "y", Version: 2, Number: 3},
			{Client: "b", At: at(9), Data: "y", Version: 3, Number: 4},
		},
		Runs: []Run{
			{"s-0", "h1/one", at(1), at(5)}, {"s-0", "h2/two", at(6), at(9)}, {"s-1", "h1/three", at(1), at(9)},
			{"s-1", "h2/once", at(5), at(4)},
		},
		Things: []Thing{
			{Name: "d-0", UID: "u"}, {Name: "d-0", UID: "u", Has: "v"}, {Name: "d-0", UID: "u", Has: "v"},
			{Name: "d-1", UID: "u1", Has: "v1"},
			{Name: "d-1", UID: "u2", Has: "v2", Lost: true}, {Name: "d-1", UID: "u2", Has: "v2"},
		},
		Writes: []Write{{"s-0", 1}, {"s-0", 2}},
		Kept:   map[string]map[int64]bool{"s-0": {1: true, 2: true, 3: true}},
	}
}

func TestViolations(t *testing.T) {
	if got := good().Violations(); len(got) > 0 {
		t.Errorf("of a history in which all is as promised it says %q", got)
	}
	read := func(r Read) func(*Log) { return func(l *Log) { l.Reads = append(l.Reads, r) } }
	for name, c := range map[string]struct {
		change func(*Log)
		want   string
	}{
		"version back":     {read(Read{Client: "b", At: at(10), Data: "y", Version: 2, Number: 4}), "b read version 3, and then version 2"},
		"push back":        {read(Read{Client: "b", At: at(10), Data: "y", Version: 4, Number: 3}), "b read push 4, and then push 3"},
		"gone":             {read(Read{Client: "b", At: at(10), Data: "y"}), "b read push 4, and then nothing"},
		"back over a loss": {read(Read{Client: "b", At: at(10), Data: "z", Version: 1, Number: 3}), "b read push 4, and then push 3"},
		"back after a loss and nothing": {func(l *Log) {
			read(Read{Client: "b", Data: "z"})(l)
			read(Read{Client: "b", At: at(10), Data: "z", Version: 1, Number: 3})(l)
		}, "b read push 4, and then push 3"},
		"order": {read(Read{Client: "c", At: at(10), Data: "x", Version: 11, Number: 2}),
			"push 2 was applied after push 3"},
		"a version of two pushes": {read(Read{Client: "c", At: at(10), Data: "x", Version: 9, Number: 2}), "version 9 is push"},
		"order, among stale reads": {read(Read{Client: "c", At: at(10), Data: "x", Version: 11, Number: 2, Stale: true}),
			"push 2 was applied after push 3"},
		"never pushed": {read(Read{Client: "c", At: at(10), Data: "x", Version: 20, Number: 7}), "push 7, which nobody has pushed"},
		"lost push": {func(l *Log) { l.Pushes = append(l.Pushes, Push{5, true}) },
			"push 5 was acknowledged, and the last that was applied is 4"},
		"twice": {func(l *Log) { l.Runs[1].First = at(5) }, "pod s-0 ran twice at 00:00:05.000: as h1/one and as h2/two"},
		"twice, within a long one": {func(l *Log) {
			l.Runs = append(l.Runs, Run{"s-1", "h1/four", at(2), at(3)}, Run{"s-1", "h2/five", at(8), at(9)})
		}, "pod s-1 ran twice"},
		"another claim":  {func(l *Log) { l.Things = append(l.Things, Thing{Name: "d-0", UID: "w", Has: "v"}) }, "d-0 was u"},
		"another volume": {func(l *Log) { l.Things = append(l.Things, Thing{Name: "d-0", UID: "u", Has: "w"}) }, "d-0 was u"},
		"lost volume":    {func(l *Log) { l.Things = append(l.Things, Thing{Name: "d-0", UID: "u"}) }, `is u with ""`},
		"lost write": {func(l *Log) { delete(l.Kept["s-0"], 1) },
			"pod s-0 has lost 1 of 2 writes that it acknowledged, the first is 1"},
		"lost pod": {func(l *Log) { l.Kept = nil }, "pod s-0 has lost 2 of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			l := good()
			c.change(&l)
			if got := l.Violations(); len(got) == 0 || !strings.Contains(got[0], c.want) {
				t.Errorf("it says %q, want %q first", got, c.want)
			}
		})
	}
}

func TestOutages(t *testing.T) {
	call := func(from string, s int, ok bool) Call { return Call{From: from, At: at(s), Took: time.Second, OK: ok} }
	got := Outages([]Call{
		call("b", 9, false), call("a", 1, true), call("a", 3, false), call("a", 2, false), call("a", 4, true), call("a", 5, true),
		call("b", 2, false), call("b", 3, true), call("a", 8, true),
	})
	want := []Outage{
		{"a", at(2), 3 * time.Second, 2}, {"b", at(2), 2 * time.Second, 1}, {"b", at(9), time.Second, 1},
	}
	if !slices.Equal(got, want) {
		t.Errorf("outages are %v, want %v", got, want)
	}
	if got := Outages(nil); len(got) > 0 {
		t.Errorf("of no calls the outages are %v", got)
	}
}
