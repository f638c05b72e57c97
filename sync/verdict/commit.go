package verdict

import (
	"strings"
	"time"

	"lockstep/internal/plain"
	"lockstep/store/view"
)

// State of a commit status; forges that know others are mapped to these.
type State string

const (
	Pending State = "pending"
	Success State = "success"
	Failure State = "failure" // it was applied, and does not work
	Error   State = "error"   // it could not be applied
)

// Status is one commit status.
type Status struct {
	State       State  `json:"state"`
	Context     string `json:"context"`     // "lockstep/<cluster>/<source>"
	Description string `json:"description"` // at most MaxDescription characters
	TargetURL   string `json:"targetURL,omitempty"`
}

// Kind tells a revision's statuses apart.
type Kind string

const (
	Outcome Kind = "verdict"
	Drift   Kind = "drift"
)

// Entry is a status that a source wants on a revision; the data of the records that package forge keeps.
type Entry struct {
	Source   string    `json:"source"`
	Revision string    `json:"revision"`
	Kind     Kind      `json:"kind"`
	Status   Status    `json:"status"`
	At       time.Time `json:"at"` // when it was decided, or posted
	// Found says, of drift, that it tells what was found, and not that health was lost.
	Found bool `json:"found,omitempty"`
}

// Name identifies the entry among those of all sources: "<source>/<revision>/<kind>".
func (e Entry) Name() string { return e.Source + "/" + e.Revision + "/" + string(e.Kind) }

// Outbox has the statuses that are to be posted, and Posted those that were posted last; a row is named by Entry.Name. Package
// forge writes both.
const (
	Outbox view.Table[Entry] = "outbox"
	Posted view.Table[Entry] = "posted"
)

// Last is the last status of one name, on its forge or on the way there; false where there is none that can be read.
func Last(v *view.View, name string) (Entry, bool) {
	for _, table := range []view.Table[Entry]{Outbox, Posted} {
		if row, ok, err := table.Get(v, name); ok {
			return row.Value, err == nil
		}
	}
	return Entry{}, false
}

// MaxDescription is the longest description, in characters, that every forge shows whole (GitHub refuses more).
const MaxDescription = 140

// Cut makes a text plain, and shortens it to MaxDescription characters, on a character's border, with an ellipsis where it did: at
// the end, and before what stands after the last semicolon, which most often is what to do.
func Cut(text string) string {
	return shorten(plain.Text(strings.Join(strings.Fields(text), " ")), MaxDescription)
}
