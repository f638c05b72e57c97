// Package verdict decides what is told of a source: commit statuses, the Source's own status, and when to look again.
package verdict

import (
	"time"

	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/kinds/v1alpha1"
	"lockstep/sync/health"
)

// Input is everything that a verdict is decided from. Nothing in it is changed.
type Input struct {
	// Cluster and Source are in the context of commit statuses.
	Cluster, Source string
	// Folder says that the source reads a folder.
	Folder bool
	// Posts says that the source has a forge. Without one no commit status is wanted.
	Posts bool
	// Link is the page of a revision that a commit status leads to. Nil: none.
	Link func(revision string) string

	Seen Seen
	// Passed are commits that were passed over on the way to what was seen, and have to be told so.
	Passed   []string
	Accepted Accepted
	// Found is what drift was found since the verdict before, the oldest first, of objects that this source states.
	Found []drift.Finding
	// FetchError is why the source could not be read last time, ForgeError why its forge did not take a status; empty: it
	// could, or it was not tried.
	FetchError, ForgeError string

	// Live is the Source's status as the store has it.
	Live v1alpha1.SourceStatus
	// Told is the last commit status of each revision and kind, in any order.
	Told []Told
	// Memory is that of the verdict before.
	Memory Memory
	Now    time.Time
}

// Seen is the newest revision of a source. The zero value: none has been seen yet.
type Seen struct {
	Revision string
	// Decided says that it was accepted, refused or held, for good.
	Decided bool
	// Refusal is why it is refused, the first cause first, each with its place. Not Decided: it may pass.
	Refusal []string
	// Held is why it is held; empty: it is not.
	Held string
	// Doubt is why it is not believed yet; empty: it is.
	Doubt string
}

func (s Seen) refused() bool { return s.Revision != "" && (len(s.Refusal) > 0 || s.Held != "") }

// errors are why it is not applied, whole: a hold is one.
func (s Seen) errors() []string {
	if len(s.Refusal) == 0 && s.Held != "" {
		return []string{s.Held}
	}
	return s.Refusal
}

// Accepted is the revision whose objects the inventory has, and how far it is.
type Accepted struct {
	// Revision is empty where none was ever accepted.
	Revision string
	// Applied is the newest revision that was carried out to the end, Healthy the newest that was healthy at least once.
	Applied, Healthy string
	// Waiting is the first step that cannot be done yet, Refused the first that cannot be done at all; nil: none.
	Waiting, Refused *Step
	// LeftOut words how many objects the source skips, and of which kinds; empty: none.
	LeftOut string
	// Warnings are what is told of the objects beside that.
	Warnings []string
	Roll     health.Roll
}

// Step is what is to be done with an object, and why that is so.
type Step struct {
	Key    kinds.Key
	Reason string
}

// Told is a commit status that is on its forge, or Waiting for it.
type Told struct {
	Entry
	Waiting bool
}

// Memory is what one verdict hands on to the next, and nobody else needs. The zero value remembers nothing, as after a
// start.
type Memory struct {
	// Meaning and Words are of the newest cause: it is told anew when its meaning changes, not when time passes.
	Meaning, Words string
	// Others is how many others were told with it, and Counted when: they may fail one after the other, or again and again.
	Others  int
	Counted time.Time
	// Lost is since when the accepted revision, once healthy, is not; zero: it is. Who accepts another one sets it to zero.
	Lost time.Time
	// Storms are what was found lately of each commit's objects.
	Storms map[string]Storm
	// Written is when the Source's status was last written; whoever writes it sets it.
	Written time.Time
}

// Verdict is what is to be done, in this order.
type Verdict struct {
	// Healthy says that the accepted revision is healthy for the first time, which is to be kept: what it loses from then
	// on is drift.
	Healthy bool
	// Status is the Source's, and Write whether it has to be written.
	Status v1alpha1.SourceStatus
	Write  bool
	// Lost is what the accepted revision has lost since it was healthy, once that has lasted; empty: nothing.
	Lost string
	// Posts are the commit statuses that differ from those that were told; none stands twice.
	Posts []Entry
	// Again is when to decide anew though nothing happens; zero: never.
	Again  time.Time
	Memory Memory
}

const (
	// pendingEvery is the least time between two pending statuses of a revision.
	pendingEvery = 15 * time.Second
	// othersEvery is the least time between two statuses of which only the number of others that have failed has changed.
	othersEvery = 15 * time.Second
	// driftDwell is how long an object's health must be lost before that is reported as drift: a container that is
	// repaired at once is not worth a commit status.
	driftDwell = 15 * time.Second
	// countsEvery is the least time between two writes of a status of which only the counts have changed.
	countsEvery = time.Second
	// forgeEvery is how often it is looked at whether the forge has taken what waits for it.
	forgeEvery = 2 * time.Second
)

// MaxErrors bounds the errors of a revision that its Source's status has.
const MaxErrors = 100

// Decide gives the verdict.
func Decide(in Input) Verdict {
	v := Verdict{Memory: in.Memory}
	v.at(in.Accepted.Roll.Again)
	v.at(v.Memory.cause(&in.Accepted.Roll, in.Now))
	said := saying{}
	said.state, said.text = outcome(in.Accepted, in.Folder)
	if a := &in.Accepted; said.state == Success && a.Revision != "" && a.Healthy != a.Revision {
		v.Healthy, a.Healthy = true, a.Revision
	}
	v.status(in, said)
	v.posts(in, said)
	return v
}

// saying is the verdict on the accepted revision as it is now.
type saying struct {
	state State
	text  string
}

// at asks for a look at a time; zero: never mind.
func (v *Verdict) at(t time.Time) {
	if !t.IsZero() && (v.Again.IsZero() || t.Before(v.Again)) {
		v.Again = t
	}
}

// cause has the roll tell the newest cause as it was told first, and how many others as they were counted last. It returns when they are
// to be counted anew; zero: with the next cause.
func (m *Memory) cause(roll *health.Roll, now time.Time) (again time.Time) {
	if m.Meaning != roll.Meaning {
		m.Meaning, m.Words, m.Counted = roll.Meaning, roll.First, time.Time{}
	}
	if roll.Others != m.Others {
		if due := m.Counted.Add(othersEvery); m.Counted.IsZero() || !now.Before(due) {
			m.Others, m.Counted = roll.Others, now
		} else {
			again = due
		}
	}
	roll.First, roll.Others = m.Words, m.Others
	return again
}
