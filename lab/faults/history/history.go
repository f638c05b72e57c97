// Package history judges what clients saw of a cluster while it was broken.
package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Log is what was seen. Reads are in the order in which each client has made them; of all else the order does not matter.
type Log struct {
	Pushes []Push
	Reads  []Read
	Runs   []Run
	Things []Thing
	Writes []Write
	// Kept is what pods have kept in the end, by pod.
	Kept map[string]map[int64]bool
}

// Push is one change that was pushed. Numbers grow from 1, by the order of the commits.
type Push struct {
	Number int
	// Acked says that it was acknowledged. One that was not may have been pushed all the same.
	Acked bool
}

// Read is one answer to a client: what was pushed of the object that has the number of each push.
type Read struct {
	Client string
	At     time.Time
	// Data names the store's data: revisions of two such have nothing to do with each other.
	Data string
	// Version is the object's resourceVersion; zero: the answer was that there is no such object.
	Version uint64
	Number  int
	// Stale says that the answer itself warns that it may be old, as where most servers are lost.
	Stale bool
}

// Run is one instance of a pod, in which a container was seen running at First and at Last for certain, and at times between. Where Last
// is before First nothing is certain, as of one that was seen once.
type Run struct {
	Pod, Instance string
	First, Last   time.Time
}

// Thing is an object that is to stay the one that it is, with what it has got: a claim with its volume, a service with its address. Has is
// empty before it has got that. Lost says that what it had was taken away on purpose.
type Thing struct {
	Name, UID, Has string
	Lost           bool
}

// Write is one that a pod has acknowledged to have kept.
type Write struct {
	Pod    string
	Number int64
}

// Violations says, each in a sentence, what was promised and not kept; none: all was. Each promise is told once at most for each client,
// pod or thing, by the first case.
func (l Log) Violations() []string {
	var out []string
	for _, check := range []func() []string{l.back, l.disordered, l.lost, l.twice, l.otherThings, l.forgotten} {
		out = append(out, check()...)
	}
	return out
}

// Lasting are those violations that can be told of a history that goes on: what was pushed last may still be applied, and what pods have
// kept is asked in the end.
func (l Log) Lasting() []string {
	return slices.Concat(l.back(), l.disordered(), l.twice(), l.otherThings())
}

// back finds clients whose reads went back, by the object's version, or by what was pushed. Where the store's data are others the
// object may be absent until it is there again; what was pushed does not go back even then.
func (l Log) back() []string {
	var out []string
	last, told := map[string]Read{}, map[string]bool{}
	for _, r := range l.Reads {
		if r.Stale || told[r.Client] {
			continue
		}
		before, seen := last[r.Client]
		others := before.Data != r.Data
		switch {
		case !seen:
		case r.Version == 0 && (others || before.Version == 0):
			before.Data, before.Version = r.Data, 0
			last[r.Client] = before
			continue
		case r.Version == 0:
			out = append(out, fmt.Sprintf("%s read push %d, and then nothing, at %s", r.Client, before.Number, clock(r.At)))
			told[r.Client] = true
		case r.Number < before.Number:
			out = append(out, fmt.Sprintf("%s read push %d, and then push %d, at %s", r.Client, before.Number, r.Number, clock(r.At)))
			told[r.Client] = true
		case !others && r.Version < before.Version:
			out = append(out, fmt.Sprintf("%s read version %d, and then version %d, at %s", r.Client, before.Version, r.Version,
				clock(r.At)))
			told[r.Client] = true
		}
		last[r.Client] = r
	}
	return out
}

// disordered finds pushes that were applied after later ones, whoever saw it, and what nobody has pushed.
func (l Log) disordered() []string {
	pushed := map[int]bool{}
	for _, p := range l.Pushes {
		pushed[p.Number] = true
	}
	versions := map[string][]Read{}
	for _, r := range l.Reads {
		if r.Version == 0 {
			continue
		}
		if !pushed[r.Number] {
			return []string{fmt.Sprintf("%s read push %d, which nobody has pushed, at %s", r.Client, r.Number, clock(r.At))}
		}
		versions[r.Data] = append(versions[r.Data], r)
	}
	for _, reads := range versions {
		slices.SortStableFunc(reads, func(a, b Read) int { return cmp.Compare(a.Version, b.Version) })
		for i := 1; i < len(reads); i++ {
			switch before, r := reads[i-1], reads[i]; {
			case r.Version == before.Version && r.Number != before.Number:
				return []string{fmt.Sprintf("version %d is push %d and push %d", r.Version, before.Number, r.Number)}
			case r.Number < before.Number:
				return []string{fmt.Sprintf("push %d was applied after push %d", r.Number, before.Number)}
			}
		}
	}
	return nil
}

// lost finds that the last push that was acknowledged, or a later one, was never applied. An earlier one that nobody has seen was
// superseded.
func (l Log) lost() []string {
	last, applied := 0, 0
	for _, p := range l.Pushes {
		if p.Acked {
			last = max(last, p.Number)
		}
	}
	for _, r := range l.Reads {
		applied = max(applied, r.Number)
	}
	if applied < last {
		return []string{fmt.Sprintf("push %d was acknowledged, and the last that was applied is %d", last, applied)}
	}
	return nil
}

// twice finds pods of which two instances ran at a time.
func (l Log) twice() []string {
	var out []string
	pods := map[string][]Run{}
	for _, r := range l.Runs {
		if !r.Last.Before(r.First) {
			pods[r.Pod] = append(pods[r.Pod], r)
		}
	}
	for _, pod := range sorted(pods) {
		runs := pods[pod]
		slices.SortStableFunc(runs, func(a, b Run) int { return a.First.Compare(b.First) })
		for i := 1; i < len(runs); i++ {
			// The one that ends last of those before is the one that could overlap.
			before := slices.MaxFunc(runs[:i], func(a, b Run) int { return a.Last.Compare(b.Last) })
			if r := runs[i]; !before.Last.Before(r.First) && before.Instance != r.Instance {
				out = append(out, fmt.Sprintf("pod %s ran twice at %s: as %s and as %s", pod, clock(r.First), before.Instance, r.Instance))
				break
			}
		}
	}
	return out
}

// otherThings finds things that became others, or have got something else.
func (l Log) otherThings() []string {
	var out []string
	first, told := map[string]Thing{}, map[string]bool{}
	for _, c := range l.Things {
		before, seen := first[c.Name]
		switch {
		case !seen || before.Has == "" && before.UID == c.UID, c.Lost:
			first[c.Name] = c
		case !told[c.Name] && (before.UID != c.UID || before.Has != c.Has):
			told[c.Name] = true
			out = append(out, fmt.Sprintf("%s was %s with %s, and is %s with %q", c.Name, before.UID, before.Has, c.UID, c.Has))
		}
	}
	return out
}

// forgotten finds pods that have not kept what they have acknowledged.
func (l Log) forgotten() []string {
	var out []string
	missing, acked := map[string][]int64{}, map[string]int{}
	for _, w := range l.Writes {
		acked[w.Pod]++
		if !l.Kept[w.Pod][w.Number] {
			missing[w.Pod] = append(missing[w.Pod], w.Number)
		}
	}
	for _, pod := range sorted(missing) {
		out = append(out, fmt.Sprintf("pod %s has lost %d of %d writes that it acknowledged, the first is %d", pod, len(missing[pod]),
			acked[pod], slices.Min(missing[pod])))
	}
	return out
}

func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }
