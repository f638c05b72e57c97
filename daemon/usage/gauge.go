package usage

import (
	"context"
	"maps"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/reconcilers/autoscaler"
	"lockstep/store/view"
)

// lasts is how long a measurement is good for: less than autoscalers' period, so that each of their turns has a new one, and
// longer than it takes all of them to read it.
const lasts = 10 * time.Second

// settles is how long after the first question a round that not all nodes have answered is not told, and is asked for again: the agents
// of a server that was started anew, or whose predecessor was lost, come to it within a few seconds.
const settles = 10 * time.Second

// Gauge has what the pods of autoscalers' targets use, in one round for all. It asks agents only when an autoscaler wants to know:
// without any it does nothing.
type Gauge struct {
	agents Agents
	view   func() *view.View
	now    func() time.Time
	asked  chan struct{} // of one: who asks while a round is due finds it so

	first time.Time // when the first round was; only Run reads and sets it

	mu   sync.Mutex
	at   time.Time          // of the last round
	of   map[types.UID]bool // the autoscalers that it was for
	used autoscaler.Usage
}

// NewGauge returns a gauge of the pods that view has. It starts nothing: see Run.
func NewGauge(agents Agents, view func() *view.View, now func() time.Time) *Gauge {
	return &Gauge{agents: agents, view: view, now: now, asked: make(chan struct{}, 1)}
}

// Read is an autoscaler.Gauge.
func (g *Gauge) Read(hpa types.UID, now time.Time) (autoscaler.Usage, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of[hpa] && now.Sub(g.at) < lasts {
		return g.used, true
	}
	select {
	case g.asked <- struct{}{}:
	default:
	}
	return nil, false
}

// Run measures whenever it was asked, until ctx ends; then it returns nil.
func (g *Gauge) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.asked:
			g.round(ctx)
		}
	}
}

func (g *Gauge) round(ctx context.Context) {
	v, at := g.view(), g.now()
	of := map[types.UID]bool{}
	pods := map[types.UID]*corev1.Pod{}
	for h := range view.List[*autoscalingv2.HorizontalPodAutoscaler](v, "") {
		of[h.UID] = true
		for _, p := range autoscaler.Pods(v, h) {
			pods[p.UID] = p
		}
	}
	if g.first.IsZero() {
		g.first = at
	}
	used, all, err := g.agents.pods(ctx, maps.Values(pods))
	if err != nil || !all && at.Before(g.first.Add(settles)) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.of, g.used = at, of, used
	select {
	case <-g.asked: // meanwhile: this was the answer, and whom it does not answer asks again
	default:
	}
}
