// Package drift is what differs from what was asked for though nobody pushed, as nodes and sync tell it.
package drift

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/plain"
)

// Kind of drift.
type Kind string

// The kinds that sync finds, in the store.
const (
	Object Kind = "Object" // an object was changed or deleted by hand
	Health Kind = "Health" // a revision that was healthy is not
)

// The kinds that nodes find.
const (
	Killed    Kind = "ContainerKilled"    // by somebody from outside the container
	Paused    Kind = "ContainerPaused"    // its processes were frozen
	Limits    Kind = "LimitsChanged"      // files of a cgroup
	Route     Kind = "RouteChanged"       // of the node, to other nodes' pods
	Rules     Kind = "RulesChanged"       // of services, and the link that they use
	Foreign   Kind = "ForeignContainer"   // in the agent's containerd namespace, made by somebody else
	Orphan    Kind = "OrphanContainer"    // of a pod that does not exist
	Forgotten Kind = "ForgottenContainer" // runs, and containerd does not know it any more
)

// OfNodes are the kinds that a node may tell.
func OfNodes() []Kind {
	return []Kind{Killed, Paused, Limits, Route, Rules, Foreign, Orphan, Forgotten}
}

// words says what has happened to one of a kind, and to several.
func (k Kind) words() (one, many string) {
	switch k {
	case Object:
		return "object changed", "objects changed"
	case Health:
		return "health lost", "times health lost"
	case Killed:
		return "container killed", "containers killed"
	case Paused:
		return "container paused", "containers paused"
	case Limits:
		return "limits changed", "times limits changed"
	case Route:
		return "route changed", "routes changed"
	case Rules:
		return "service rules changed", "times service rules changed"
	case Foreign:
		return "foreign container", "foreign containers"
	case Orphan:
		return "orphaned container", "orphaned containers"
	case Forgotten:
		return "forgotten container", "forgotten containers"
	}
	return "difference", "differences"
}

// Count writes how many of a kind there are: "1 container killed", "37 containers killed".
func (k Kind) Count(n int) string {
	one, many := k.words()
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Word is what has happened to one of the kind: "container killed".
func (k Kind) Word() string {
	one, _ := k.words()
	return one
}

// Pod names a pod of the node that tells of it.
type Pod struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
}

func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// Finding is one difference. No value of a Secret is in it: nothing that a container has in its environment, its files or its log.
type Finding struct {
	// ID is the same each time that the same difference is told of: as it is found, and as it is repaired.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// Node it was found on; empty for what is in the store.
	Node string `json:"node,omitempty"`
	// Pod it is of; nil: of none.
	Pod *Pod `json:"pod,omitempty"`
	// Object it is of, in the words of people: "Pod shop/cart-1", "Deployment shop/cart", "Node b".
	Object string `json:"object"`
	// Place in the object: a container's name, a file, a chain of rules, a link.
	Place string `json:"place,omitempty"`
	// What differs, in a line: "exit code 137 (SIGKILL)", "memory.max is 1048576 instead of 67108864".
	What string `json:"what"`
	// Evidence are lines of what was found, at most MaxEvidence.
	Evidence []string `json:"evidence,omitempty"`
	// Noticed is when it was found, Since since when it may have been so; zero: nobody knows.
	Noticed time.Time `json:"noticed"`
	Since   time.Time `json:"since,omitzero"`
	// Repaired is when it was put right; zero: it is not, and where it is Open somebody is at it.
	Repaired time.Time `json:"repaired,omitzero"`
	Open     bool      `json:"open,omitempty"`
	// How it was repaired, or why it was not.
	How string `json:"how,omitempty"`

	// Source, Commit, File ("path:line") and Author are of the manifest that the object comes from; empty: nobody declared it. Who
	// keeps the finding sets them.
	Source string `json:"source,omitempty"`
	Commit string `json:"commit,omitempty"`
	File   string `json:"file,omitempty"`
	Author string `json:"author,omitempty"`
	// Received is when it was kept first, by the clock of who did, Number which of its log's changes was the last of it.
	Received time.Time `json:"received,omitzero"`
	Number   int64     `json:"number,omitempty"`
}

// Line is the finding in one line: "container killed on node b, repaired: Pod shop/cart-1, cart: exit code 137 (SIGKILL)".
func (f *Finding) Line() string {
	text := f.Kind.Word()
	if f.Node != "" {
		text += " on node " + f.Node
	}
	return text + ", " + f.Outcome() + ": " + f.Subject()
}

// Subject is what differs where: "Pod shop/cart-1, cart: exit code 137 (SIGKILL)".
func (f *Finding) Subject() string {
	text := f.Object
	if f.Place != "" {
		text += ", " + f.Place
	}
	return text + ": " + f.What
}

// Outcome is what became of it in a word or two.
func (f *Finding) Outcome() string {
	switch {
	case !f.Repaired.IsZero():
		return "repaired"
	case f.Open:
		return "being repaired"
	}
	return "not repaired"
}

// Settled says that no more is to be told of it: it is repaired, or will not be.
func (f *Finding) Settled() bool { return !f.Open || !f.Repaired.IsZero() }

const (
	// MaxEvidence bounds the lines of a finding: a flush of all rules is evident from its first.
	MaxEvidence = 12
	// maxText bounds each of its texts, in bytes: a rule is shorter, as is a path that people made.
	maxText = 300
	// MaxFindings bounds those that a log keeps, and that a report has: with all their texts far below what etcd takes in a write.
	MaxFindings = 64
)

// Clean returns a finding whose texts are plain and bounded.
func (f Finding) Clean() Finding {
	for _, text := range []*string{&f.ID, (*string)(&f.Kind), &f.Node, &f.Object, &f.Place, &f.What, &f.How, &f.Source, &f.Commit, &f.File,
		&f.Author} {
		*text = plain.Cut(*text, maxText)
	}
	lines := f.Evidence[:min(len(f.Evidence), MaxEvidence)]
	f.Evidence = nil
	for _, line := range lines {
		f.Evidence = append(f.Evidence, plain.Cut(line, maxText))
	}
	return f
}

// Report is what a node tells: the body of POST /lockstep/v1/drift.
type Report struct {
	Findings []Finding `json:"findings"`
	// Dropped counts findings before these that there was no room for.
	Dropped int64 `json:"dropped,omitempty"`
}

// Log is what is kept of one node or one source.
type Log struct {
	// Findings are the newest ones, the newest first, at most MaxFindings.
	Findings []Finding `json:"findings,omitempty"`
	// Dropped counts those that are kept no longer, or never were. Changes counts all that was added or altered.
	Dropped int64 `json:"dropped,omitempty"`
	Changes int64 `json:"changes,omitempty"`
}

// Add returns a log with findings, the oldest first, and which of them say something new. Of one that is there already the later word
// counts, and the first time at which it was noticed; one that is settled is never unsettled. The log itself is not changed.
func (l Log) Add(found []Finding, dropped int64) (Log, []Finding) {
	out := Log{Findings: slices.Clone(l.Findings), Dropped: l.Dropped + max(dropped, 0), Changes: l.Changes}
	var news []Finding
	for _, f := range found {
		f = f.Clean()
		i := slices.IndexFunc(out.Findings, func(g Finding) bool { return g.ID == f.ID })
		if i >= 0 {
			before := &out.Findings[i]
			if before.Settled() && !(before.Repaired.IsZero() && !f.Repaired.IsZero()) ||
				before.Settled() == f.Settled() && before.What == f.What && before.How == f.How && before.Repaired.Equal(f.Repaired) {
				continue
			}
			f.Noticed, f.Received = before.Noticed, before.Received
			f.Since = earliest(before.Since, f.Since)
			if f.Source == "" { // who made the object may be gone by now
				f.Source, f.Commit, f.File, f.Author = before.Source, before.Commit, before.File, before.Author
			}
		}
		out.Changes++
		f.Number = out.Changes
		news = append(news, f)
		if i >= 0 {
			out.Findings[i] = f
			continue
		}
		out.Findings = slices.Insert(out.Findings, 0, f)
		if over := len(out.Findings) - MaxFindings; over > 0 {
			out.Findings, out.Dropped = out.Findings[:MaxFindings], out.Dropped+int64(over)
		}
	}
	return out, news
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Newest sorts findings of several logs, the newest first.
func Newest(found []Finding) {
	slices.SortStableFunc(found, func(a, b Finding) int {
		return cmp.Or(b.Noticed.Compare(a.Noticed), cmp.Compare(b.Number, a.Number), cmp.Compare(a.ID, b.ID))
	})
}
