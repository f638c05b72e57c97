package members

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"lockstep/daemon/etcd"
	"lockstep/store/view"
)

const (
	// Most is how many servers a cluster has at most: each change waits for a majority of them.
	Most = 5
	// giveUp is how long a learner may neither answer nor catch up: a snapshot of 2 GiB over 20 MB/s, with room.
	giveUp = 3 * time.Minute
	// patience is how long a voter may be silent before nobody joins: etcd adds nobody while one is.
	patience = 5 * time.Second
	// keepRequest is how long a request counts after it was made last: who waits makes it again every few seconds.
	keepRequest = time.Minute
)

// Request is the row server/<name>: a server of that name wants to join.
type Request struct {
	// Peer is where its etcd will be reached: https://host:port.
	Peer string `json:"peer"`
	// Asked is when it asked last.
	Asked time.Time `json:"asked"`
	// Added says that it is a member.
	Added bool `json:"added,omitempty"`
	// Refused is why it cannot be one; empty: it is not refused.
	Refused string `json:"refused,omitempty"`
}

// observed is what the next step is decided from.
type observed struct {
	members []etcd.Member
	// behind says of each learner, by id, why it has not caught up; one that is not there has.
	behind map[uint64]string
	// silent says of voters, by id, why they do not answer.
	silent map[uint64]string
	// since is since when each of these has been so.
	since    map[uint64]time.Time
	requests []view.Row[Request]
	now      time.Time
}

// verb is what a step does.
type verb int

const (
	nothing verb = iota
	add          // a learner for the request
	promote      // a learner
	remove       // a learner
	accept       // the request: its member is there
	refuse       // the request
	forget       // the request
)

// step is the next thing to do about the members, and why.
type step struct {
	do      verb
	member  etcd.Member
	request view.Row[Request]
	why     string
}

// decide returns the next step: one at a time, since a cluster that is changing twice at once is what breaks. A learner gets its vote
// only where the number of votes becomes odd by it, or by it and the next one, which has caught up as well.
func decide(o observed) step {
	voters, ready, coming := 0, []etcd.Member{}, false
	for _, m := range o.members {
		why, late := o.behind[m.ID]
		switch {
		case !m.Learner:
			voters++
		case late && !o.since[m.ID].IsZero() && o.now.Sub(o.since[m.ID]) >= giveUp:
			return step{do: remove, member: m, why: fmt.Sprintf("it has not come up within %v: %s", giveUp, why)}
		case late || m.Name == "":
			coming = true
		default:
			ready = append(ready, m)
		}
	}
	if len(ready) > 0 && (voters%2 == 0 || len(ready) > 1) {
		return step{do: promote, member: ready[0], why: "it has caught up"}
	}
	waiting := slices.SortedFunc(slices.Values(o.requests), func(a, b view.Row[Request]) int {
		return cmp.Or(a.Value.Asked.Compare(b.Value.Asked), cmp.Compare(a.Name, b.Name))
	})
	for _, r := range waiting {
		if s := answer(o, r, coming); s.do != nothing {
			return s
		}
	}
	return step{}
}

// answer is what to do about a request.
func answer(o observed, r view.Row[Request], coming bool) step {
	s := step{request: r}
	at := slices.IndexFunc(o.members, func(m etcd.Member) bool { return m.PeerURL == r.Value.Peer })
	named := slices.IndexFunc(o.members, func(m etcd.Member) bool { return m.Name == r.Name })
	switch {
	case o.now.Sub(r.Value.Asked) >= keepRequest:
		s.do, s.why = forget, "nobody waits for an answer"
	case r.Value.Refused != "":
	case at >= 0 && o.members[at].Name == "":
		if !r.Value.Added {
			s.do, s.why = accept, "it was added"
		}
	case r.Value.Added && at >= 0:
		s.do, s.why = forget, "it has started" // a server of its name that asks later, asks anew
	case r.Value.Added:
		s.do, s.why = refuse, "it was removed before it had started: start it again"
	case named >= 0:
		s.do, s.why = refuse, fmt.Sprintf("there is a server %s already; if its data are lost, lockstep server remove %s, on another "+
			"server, lets it join anew", r.Name, r.Name)
	case at >= 0:
		s.do, s.why = refuse, fmt.Sprintf("server %s is at %s already", o.members[at].Name, r.Value.Peer)
	case len(o.members) >= Most:
		s.do, s.why = refuse, fmt.Sprintf("a cluster has %d servers at most: lockstep server remove takes one out", Most)
	case len(o.silent) > 0:
		for _, m := range o.members {
			if why := o.silent[m.ID]; why != "" && o.now.Sub(o.since[m.ID]) >= patience {
				s.do, s.why = refuse, fmt.Sprintf("server %s has a vote and does not answer (%s): bring it back, or take it out first by "+
					"lockstep server remove %s", m.Name, why, m.Name)
				return s
			}
		}
	case !coming:
		s.do, s.why = add, "it asked to join"
	}
	return s
}

// Standing says what is wrong with the number of votes; empty: nothing is.
func Standing(members []etcd.Member) string {
	voters, learners := 0, []string{}
	for _, m := range members {
		if m.Learner {
			learners = append(learners, cmp.Or(m.Name, m.PeerURL))
		} else {
			voters++
		}
	}
	switch {
	case voters > 1 && voters%2 == 0 && len(learners) == 0:
		return fmt.Sprintf("%d servers have a vote: no more of them may fail than of %d; have one more join, or remove one",
			voters, voters-1)
	case len(learners) > 0:
		return fmt.Sprintf("%s stands by without a vote until one more server joins: of %d servers no more may fail than of %d",
			learners[0], voters+1, voters)
	}
	return ""
}
