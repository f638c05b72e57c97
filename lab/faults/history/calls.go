package history

import (
	"slices"
	"time"
)

// Call is one request that a client has made, from a host.
type Call struct {
	From string
	At   time.Time
	Took time.Duration
	// OK says that it was answered as it should be; Tries how often it was made anew until then, with another server.
	OK    bool
	Tries int
}

// Outage is a stretch of time in which no call from a host was answered.
type Outage struct {
	From  string
	Began time.Time
	// Lasted is from the first call that failed to the end of the first one that did not, or of the last of all.
	Lasted time.Duration
	Failed int
}

// Outages are those that calls show, by when they began.
func Outages(calls []Call) []Outage {
	byHost := map[string][]Call{}
	for _, c := range calls {
		byHost[c.From] = append(byHost[c.From], c)
	}
	var out []Outage
	for _, host := range sorted(byHost) {
		calls := byHost[host]
		slices.SortStableFunc(calls, func(a, b Call) int { return a.At.Compare(b.At) })
		var open *Outage
		for _, c := range calls {
			if open != nil {
				open.Lasted = c.At.Add(c.Took).Sub(open.Began)
			}
			switch {
			case c.OK && open != nil:
				out, open = append(out, *open), nil
			case !c.OK && open == nil:
				open = &Outage{From: host, Began: c.At, Lasted: c.Took, Failed: 1}
			case !c.OK:
				open.Failed++
			}
		}
		if open != nil {
			out = append(out, *open)
		}
	}
	slices.SortStableFunc(out, func(a, b Outage) int { return a.Began.Compare(b.Began) })
	return out
}
