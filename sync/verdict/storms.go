package verdict

import (
	"maps"
	"slices"
	"time"

	"lockstep/kinds/drift"
)

const (
	// stormGap is how long nothing may come for what comes then to be another storm.
	stormGap = time.Minute
	// stormEvery is the least time between two statuses of a storm, driftEvery between two of a commit.
	stormEvery = 15 * time.Second
	driftEvery = 5 * time.Second
	// stormSettle is how long it is waited for what else nodes tell: they do so every three seconds at most, and what fails
	// on one of them may fail on all.
	stormSettle = 4 * time.Second
	// repairPatience is how long a repair may be under way before it is told that there is none: a container restarts within it,
	// unless it waits for its turn.
	repairPatience = 15 * time.Second
)

// Storm is what was found of one commit's objects.
type Storm struct {
	drift.Storm
	// Untold says that it has changed since it was told last, at Told.
	Untold bool
	Told   time.Time
}

// storms tells what drift was found: of each commit in one status, however much it is.
func (b *board) storms() {
	storms := maps.Clone(b.in.Memory.Storms)
	if storms == nil && len(b.in.Found) > 0 {
		storms = map[string]Storm{}
	}
	cloned := map[string]bool{}
	for _, f := range b.in.Found {
		s, ok := storms[f.Commit]
		if !ok || !s.Untold && (b.in.Now.Sub(s.Last) >= stormGap || s.Single() && !s.Has(f.ID)) {
			s = Storm{Told: s.Told}
		} else if !cloned[f.Commit] {
			s.Storm = *s.Clone()
		}
		cloned[f.Commit] = true
		s.Add([]drift.Finding{f}, b.in.Now)
		s.Untold = true
		storms[f.Commit] = s
	}
	for _, commit := range slices.Sorted(maps.Keys(storms)) {
		s := storms[commit]
		switch due := s.due(); {
		case !s.Untold:
			if b.in.Now.Sub(s.Last) >= stormGap {
				delete(storms, commit)
			}
			continue
		case b.in.Now.Before(due):
			b.verdict.at(due)
			continue
		}
		s.Untold, s.Told = false, b.in.Now
		storms[commit] = s
		state := Success
		if !s.Repaired() {
			state = Failure
		}
		b.post(Entry{Revision: commit, Kind: Drift, Found: true}, state, s.String())
	}
	b.verdict.Memory.Storms = storms
}

// due is when a storm is to be told.
func (s *Storm) due() time.Time {
	due := s.Begun
	if !s.Only(drift.Object) {
		due = due.Add(stormSettle)
	}
	every := stormEvery
	if s.Single() {
		every = driftEvery
	}
	if next := s.Told.Add(every); !s.Told.IsZero() && next.After(due) {
		due = next
	}
	if late := s.Last.Add(repairPatience); !s.Settled() && late.After(due) {
		due = late
	}
	return due
}
