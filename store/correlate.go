package store

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"
)

// The figures of Kubernetes' clients (record.NewEventCorrelator).
const (
	// correlated is how many objects' events are remembered.
	correlated = 4096
	// similarFrom events of one reason within similarFor seconds are joined to one.
	similarFrom = 10
	similarFor  = 600
	// burst events of one component about one object are written at once, then one every five minutes.
	burst     = 25
	perSecond = 1. / 300
)

// Correlator counts equal events, joins similar ones and drops floods, as Kubernetes' clients do. It answers as their
// record.EventCorrelator, which besides works out a patch for each event, also for the thousand of a flood that it drops. It is
// for one goroutine at a time.
type Correlator struct {
	similar *record.EventAggregator
	flood   *record.EventSourceObjectSpamFilter
	seen    *lru.Cache // of equal events, to the observation
}

// observation is what is known of an event that happened before.
type observation struct {
	count int32
	first metav1.Time
	name  string
}

// NewCorrelator returns one with Kubernetes' defaults, on a clock.
func NewCorrelator(now func() time.Time) *Correlator {
	return &Correlator{
		similar: record.NewEventAggregator(correlated, record.EventAggregatorByReasonFunc, record.EventAggregatorByReasonMessageFunc,
			similarFrom, similarFor, clock(now)),
		flood: record.NewEventSourceObjectSpamFilter(correlated, burst, perSecond, clock(now), about),
		seen:  lru.New(correlated),
	}
}

// clock makes a function a passive clock.
type clock func() time.Time

func (c clock) Now() time.Time                  { return c() }
func (c clock) Since(t time.Time) time.Duration { return c().Sub(t) }

// Correlate returns the event to write, under the name by which it was written before if it was; nil where it is dropped as one
// of a flood.
func (c *Correlator) Correlate(e *corev1.Event) *corev1.Event {
	joined, key := c.similar.EventAggregate(e)
	out := *joined
	if before, ok := c.seen.Get(key); ok {
		o := before.(observation)
		out.Name, out.FirstTimestamp, out.Count = o.name, o.first, o.count+1
	}
	c.seen.Add(key, observation{out.Count, out.FirstTimestamp, out.Name})
	if c.flood.Filter(&out) {
		return nil
	}
	return out.DeepCopy()
}

// about is what a flood is counted by.
func about(e *corev1.Event) string {
	o := e.InvolvedObject
	return strings.Join([]string{
		e.Source.Component, e.Source.Host, o.Kind, o.Namespace, o.Name, string(o.UID), o.APIVersion, e.Type,
	}, "")
}
