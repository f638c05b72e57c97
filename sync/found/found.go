// Package found keeps what drift was found.
package found

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/internal/sleep"
	"lockstep/kinds/drift"
	"lockstep/store"
	"lockstep/store/view"
)

// Table has a log of each node and each source; see OfNode and OfSource.
const Table view.Table[drift.Log] = "drift"

// OfNode and OfSource name the logs of what a node has told, and of what sync has found of a source's objects.
func OfNode(name string) string   { return nodes + name }
func OfSource(name string) string { return "source/" + name }

const nodes = "node/"

const (
	// attempts is how often a log is written anew after somebody else wrote it, which only two servers at once do.
	attempts = 5
	// showTime is what the view gets to show the change that a write conflicted with.
	showTime = 20 * time.Millisecond
)

// Counts count drift. A nil Counts counts nothing.
type Counts struct{ total *prometheus.CounterVec }

// NewCounts registers them, unless r is nil.
func NewCounts(r prometheus.Registerer) *Counts {
	c := &Counts{prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstep_drift_total",
		Help: "Differences that were found though nobody pushed, by kind and whether they were repaired: yes or no."},
		[]string{"kind", "repaired"})}
	if r != nil {
		r.MustRegister(c.total)
	}
	return c
}

func (c *Counts) add(news []drift.Finding) {
	if c == nil {
		return
	}
	for _, f := range news {
		switch {
		case !f.Repaired.IsZero():
			c.total.WithLabelValues(string(f.Kind), "yes").Inc()
		case f.Settled():
			c.total.WithLabelValues(string(f.Kind), "no").Inc()
		}
	}
}

// Keeper writes logs. All but Counts is required.
type Keeper struct {
	Store  store.Reader
	Commit store.Committer
	Counts *Counts
	Now    func() time.Time
}

// Add adds findings, the oldest first, to a log, in one write, and returns which of them say something new. Nothing new, nothing is
// written.
func (k Keeper) Add(ctx context.Context, name string, findings []drift.Finding, dropped int64) ([]drift.Finding, error) {
	findings = slices.Clone(findings)
	for i := range findings {
		findings[i].Received = k.Now()
	}
	var failure error
	for range attempts {
		row, ok, err := Table.Get(k.Store.View(), name) // one that cannot be read is replaced
		if !ok || err != nil {
			row.Value = drift.Log{}
		}
		log, news := row.Value.Add(findings, dropped)
		if len(news) == 0 && log.Dropped == row.Value.Dropped {
			return nil, nil
		}
		w := store.Write{Record: Table.Record(name, log), If: row.Revision, Reason: "drift was found"}
		r := k.Commit.Commit(ctx, store.Group{w})[0]
		if failure = r.Err; failure == nil {
			k.Counts.add(news)
			_, err := k.Store.Wait(ctx, r.Revision)
			return news, err
		}
		if !errors.Is(failure, store.ErrConflict) || !sleep.For(ctx, showTime) {
			break
		}
	}
	return nil, fmt.Errorf("cannot keep what drift was found: %w", failure)
}

// Forget drops a log. One that is not there is no error.
func (k Keeper) Forget(ctx context.Context, name string) error {
	if _, ok := k.Store.View().Record(string(Table), name); !ok {
		return nil
	}
	r := k.Commit.Commit(ctx, store.Group{{Record: Table.Gone(name), If: store.Anyway, Reason: "it is followed no longer"}})[0]
	if r.Err != nil {
		return fmt.Errorf("cannot forget what drift was found: %w", r.Err)
	}
	return nil
}

// Filter chooses among what was found. The zero value takes all.
type Filter struct{ Source, Node string }

func (f Filter) takes(g *drift.Finding) bool {
	return (f.Source == "" || f.Source == g.Source) && (f.Node == "" || f.Node == g.Node)
}

// In returns what a view has, the newest first and never nil, and how many more were found once, which no filter can choose among.
func In(v *view.View, f Filter) (findings []drift.Finding, dropped int64) {
	findings = []drift.Finding{}
	for row, err := range Table.Rows(v, "") {
		if err != nil {
			continue // the next write replaces it
		}
		for _, g := range row.Value.Findings {
			if f.takes(&g) {
				findings = append(findings, g)
			}
		}
		dropped += row.Value.Dropped
	}
	drift.Newest(findings)
	return findings, dropped
}

// Told returns what a node has told anew by a change; nil where the change is of something else.
func Told(c view.Change) []drift.Finding {
	if c.NewRecord == nil || c.NewRecord.Table != string(Table) || !strings.HasPrefix(c.NewRecord.Name, nodes) {
		return nil
	}
	now, err := Table.Decode(*c.NewRecord)
	if err != nil {
		return nil
	}
	before := int64(0)
	if c.OldRecord != nil {
		if row, err := Table.Decode(*c.OldRecord); err == nil {
			before = row.Value.Changes
		}
	}
	var out []drift.Finding
	for _, f := range slices.Backward(now.Value.Findings) {
		if f.Number > before {
			out = append(out, f)
		}
	}
	return out
}
