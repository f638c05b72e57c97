package members

import (
	"slices"
	"strings"
	"testing"
	"time"

	"lockstep/daemon/etcd"
	"lockstep/store/view"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func voter(id uint64, name string) etcd.Member {
	return etcd.Member{ID: id, Name: name, PeerURL: "https://" + name + ":2380"}
}

func learner(id uint64, name string) etcd.Member {
	m := voter(id, name)
	m.Learner = true
	return m
}

// unstarted is a learner that was added for a server and has not come up.
func unstarted(id uint64, name string) etcd.Member {
	m := learner(id, name)
	m.Name = ""
	return m
}

func asking(name string, ago time.Duration, change func(*Request)) view.Row[Request] {
	r := view.Row[Request]{Name: name, Value: Request{Peer: "https://" + name + ":2380", Asked: noon.Add(-ago)}}
	if change != nil {
		change(&r.Value)
	}
	return r
}

func added(r *Request) { r.Added = true }

func TestDecide(t *testing.T) {
	one := []etcd.Member{voter(1, "a")}
	three := []etcd.Member{voter(1, "a"), voter(2, "b"), voter(3, "c")}
	five := append([]etcd.Member{voter(4, "d"), voter(5, "e")}, three...)
	with := func(members []etcd.Member, more ...etcd.Member) []etcd.Member {
		return append(append([]etcd.Member{}, members...), more...)
	}
	late := func(id uint64, why string) map[uint64]string { return map[uint64]string{id: why} }
	since := func(id uint64, ago time.Duration) map[uint64]time.Time {
		return map[uint64]time.Time{id: noon.Add(-ago)}
	}
	for name, c := range map[string]struct {
		o    observed
		do   verb
		of   string // the member's or the request's name
		text string
	}{
		"nobody asks": {o: observed{members: one}, do: nothing},
		"the first that asks": {
			o: observed{
				members:  one,
				requests: []view.Row[Request]{asking("c", 1, nil), asking("b", 2, nil)},
			}, do: add, of: "b"},
		"it was added": {
			o: observed{
				members: with(one, unstarted(2, "b")), behind: late(2, "x"),
				requests: []view.Row[Request]{asking("b", 1, nil)},
			}, do: accept, of: "b"},
		"it comes up": {
			o: observed{
				members: with(one, unstarted(2, "b")), behind: late(2, "x"),
				requests: []view.Row[Request]{asking("b", 1, added)},
			}, do: nothing},
		"one at a time": {
			o: observed{
				members: with(one, unstarted(2, "b")), behind: late(2, "x"),
				requests: []view.Row[Request]{asking("b", 2, added), asking("c", 1, nil)},
			}, do: nothing},
		"two stand by": {o: observed{members: with(one, learner(2, "b"))}, do: nothing},
		"beside one that stands by": {
			o: observed{
				members: with(one, learner(2, "b")), requests: []view.Row[Request]{asking("c", 1, nil)}},
			do: add, of: "c"},
		"the third comes up": {
			o: observed{
				members: with(one, learner(2, "b"), learner(3, "c")), behind: late(3, "x")},
			do: nothing},
		"the third has caught up": {
			o: observed{
				members: with(one, learner(2, "b"), learner(3, "c"))},
			do: promote, of: "b"},
		"and then the other": {
			o: observed{
				members: with(one, voter(2, "b"), learner(3, "c"))},
			do: promote, of: "c"},
		"a fourth stands by": {o: observed{members: with(three, learner(4, "d"))}, do: nothing},
		"a replacement": {
			o: observed{
				members: []etcd.Member{voter(1, "a"), voter(2, "b"), learner(4, "d")}},
			do: promote, of: "d"},
		"a sixth": {
			o: observed{
				members:  five,
				requests: []view.Row[Request]{asking("f", 1, nil)},
			}, do: refuse, of: "f", text: "5 servers at most"},
		"a name that is taken": {
			o: observed{
				members:  three,
				requests: []view.Row[Request]{asking("b", 1, func(r *Request) { r.Peer = "https://x:1" })},
			}, do: refuse, of: "b", text: "lockstep server remove b"},
		"one whose data are gone": {
			o: observed{
				members:  three,
				requests: []view.Row[Request]{asking("b", 1, nil)},
			}, do: refuse, of: "b", text: "if its data are lost"},
		"an address that is taken": {
			o: observed{
				members:  three,
				requests: []view.Row[Request]{asking("x", 1, func(r *Request) { r.Peer = "https://b:2380" })},
			}, do: refuse, of: "x", text: "server b is at https://b:2380"},
		"beside a dead one": {
			o: observed{
				members: three, silent: late(3, "refused"), since: since(3, time.Minute),
				requests: []view.Row[Request]{asking("d", 1, nil)},
			}, do: refuse, of: "d", text: "server c has a vote and does not answer (refused)"},
		"beside one silent a while": {
			o: observed{
				members: three, silent: late(3, "refused"), since: since(3, time.Second),
				requests: []view.Row[Request]{asking("d", 1, nil)},
			}, do: nothing},
		"never came up": {
			o: observed{
				members: with(one, unstarted(2, "b")), behind: late(2, "refused"), since: since(2, giveUp)},
			do: remove, text: "it has not come up within 3m0s: refused"},
		"removed before it started": {
			o: observed{
				members:  one,
				requests: []view.Row[Request]{asking("b", 1, added)},
			}, do: refuse, of: "b", text: "start it again"},
		"nobody waits": {
			o: observed{
				members:  three,
				requests: []view.Row[Request]{asking("b", keepRequest, nil)},
			}, do: forget, of: "b"},
		"it was refused": {
			o: observed{
				members:  three,
				requests: []view.Row[Request]{asking("b", 1, func(r *Request) { r.Refused = "x" })},
			}, do: nothing},
		"it is one now": {
			o: observed{
				members:  three,
				requests: []view.Row[Request]{asking("b", 1, added)},
			}, do: forget, of: "b", text: "it has started"},
	} {
		c.o.now = noon
		s := decide(c.o)
		of := s.request.Name
		if s.do == promote {
			of = s.member.Name
		}
		if s.do != c.do || of != c.of && c.of != "" || !strings.Contains(s.why, c.text) {
			t.Errorf("%s: step %d of %q because %q, want %d of %q because %q", name, s.do, of, s.why, c.do, c.of, c.text)
		}
	}
}

// TestGrowsByOdd plays the servers of a cluster that all ask at once: whatever order they catch up in, at most one changes at a time,
// and two votes are there for one step only.
func TestGrowsByOdd(t *testing.T) {
	o := observed{members: []etcd.Member{voter(1, "a")}, behind: map[uint64]string{}, now: noon}
	for i, name := range []string{"b", "c", "d", "e", "f"} {
		o.requests = append(o.requests, asking(name, time.Duration(10-i), nil))
	}
	even, last := 0, uint64(1)
	for range 100 {
		voters, coming := 0, 0
		for i, m := range o.members {
			if !m.Learner {
				voters++
			} else if m.Name == "" {
				coming++
				o.members[i].Name = strings.TrimSuffix(strings.TrimPrefix(m.PeerURL, "https://"), ":2380") // it starts
			}
		}
		if voters%2 == 0 {
			even++
		}
		if coming > 1 {
			t.Fatalf("%d servers join at once", coming)
		}
		s := decide(o)
		at := 0
		for i, r := range o.requests {
			if r.Name == s.request.Name {
				at = i
			}
		}
		switch s.do {
		case add:
			last++
			o.members = append(o.members, etcd.Member{ID: last, PeerURL: s.request.Value.Peer, Learner: true})
			o.requests[at].Value.Added = true
		case accept:
			o.requests[at].Value.Added = true
		case refuse:
			o.requests[at].Value.Refused = s.why
		case forget:
			o.requests = slices.Delete(o.requests, at, at+1)
		case promote:
			for i := range o.members {
				if o.members[i].ID == s.member.ID {
					o.members[i].Learner = false
				}
			}
		}
	}
	if len(o.members) != Most || Standing(o.members) != "" || even != 2 {
		t.Errorf("there are %v (%s), for %d steps with an even number of votes", o.members, Standing(o.members), even)
	}
	if len(o.requests) != 1 || !strings.Contains(o.requests[0].Value.Refused, "at most") {
		t.Errorf("what is left of the requests: %v, want that of the sixth", o.requests)
	}
}

func TestStanding(t *testing.T) {
	for want, members := range map[string][]etcd.Member{
		"": {voter(1, "a")},
		"b stands by without a vote until one more server joins: of 2 servers no more may fail than of 1": {voter(1, "a"), learner(2, "b")},
		"2 servers have a vote: no more of them may fail than of 1; have one more join, or remove one":    {voter(1, "a"), voter(2, "b")},
	} {
		if got := Standing(members); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
