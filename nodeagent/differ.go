package nodeagent

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/sleep"
	"lockstep/kinds/drift"
	"lockstep/nodeagent/client"
)

const (
	// driftPath takes what nodes have found.
	driftPath = "/lockstep/v1/drift"
	// driftGather is how long it is waited for what else is found, driftPause the least time between two reports: a storm of drift is
	// a few writes.
	driftGather = 500 * time.Millisecond
	driftPause  = 3 * time.Second
	// driftRetry doubles up to lastDriftRetry between tries to report to a server that is away.
	driftRetry     = time.Second
	lastDriftRetry = 10 * time.Second
)

// findings are those that the API has not been told, the newest word of each; there are at most drift.MaxFindings, and the oldest go
// first.
type findings struct {
	wake chan struct{}

	mu  sync.Mutex
	log drift.Log
}

func (q *findings) add(f drift.Finding) {
	q.mu.Lock()
	q.log, _ = q.log.Add([]drift.Finding{f}, 0)
	q.mu.Unlock()
	poke(q.wake)
}

// take returns what is to be told, the oldest first, which is then no longer there.
func (q *findings) take() drift.Report {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := drift.Report{Findings: q.log.Findings, Dropped: q.log.Dropped}
	q.log = drift.Log{}
	slices.Reverse(r.Findings)
	return r
}

// putBack takes in again what could not be told; what was found meanwhile is newer.
func (q *findings) putBack(r drift.Report) {
	q.mu.Lock()
	defer q.mu.Unlock()
	newer := slices.Clone(q.log.Findings)
	slices.Reverse(newer)
	older, _ := drift.Log{}.Add(r.Findings, r.Dropped)
	q.log, _ = older.Add(newer, q.log.Dropped)
}

// differs tells that something is not as it was asked for, or is again: in the log, in metrics, as an event about the pod that it is of,
// and to the API.
func (a *Agent) differs(f drift.Finding) {
	f.Node, f.Object = a.opts.NodeName, "Node "+a.opts.NodeName
	if f.Pod != nil {
		f.Object = "Pod " + f.Pod.String()
	}
	if f.Noticed.IsZero() {
		f.Noticed = time.Now()
	}
	a.log.Warn("drift was found", "kind", f.Kind, "subject", f.Subject(), "outcome", f.Outcome(), "how", f.How, "evidence", f.Evidence)
	a.metrics.differed(&f)
	if f.Pod != nil && f.Settled() {
		reason := "DriftRepaired"
		if f.Repaired.IsZero() {
			reason = "DriftFound"
		}
		a.events.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: f.Pod.Namespace, Name: f.Pod.Name, UID: f.Pod.UID},
			corev1.EventTypeWarning, reason, f.Line()+"; "+f.How)
	}
	a.findings.add(f)
}

// tellDrift reports what was found until ctx ends.
func (a *Agent) tellDrift(ctx context.Context, api client.Interface) error {
	for pause := driftRetry; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-a.findings.wake:
		}
		if !sleep.For(ctx, driftGather) {
			return nil
		}
		r := a.findings.take()
		if len(r.Findings) == 0 {
			continue
		}
		began := time.Now()
		err := postDrift(ctx, api, r)
		a.metrics.report("drift", began, err)
		rest := driftPause
		switch {
		case err == nil:
			pause = driftRetry
		case answered(err): // it will say so each time
			a.log.Warn("the server does not take what drift was found", "findings", len(r.Findings), "error", err)
		default:
			a.findings.putBack(r)
			poke(a.findings.wake)
			rest, pause = pause, min(2*pause, lastDriftRetry)
		}
		if !sleep.For(ctx, rest) {
			return nil
		}
	}
}

func postDrift(ctx context.Context, api client.Interface, r drift.Report) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return api.CoreV1().RESTClient().Post().AbsPath(driftPath).SetHeader("Content-Type", "application/json").Body(data).Do(ctx).Error()
}

// Found implements pod.Owner.
func (o owner) Found(f drift.Finding) { o.differs(f) }
