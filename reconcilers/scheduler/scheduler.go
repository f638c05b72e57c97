package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store"
)

// component is how Kubernetes' scheduler signs its events.
const component = corev1.DefaultSchedulerName

const (
	// retryAfter is the pause after etcd took no bindings.
	retryAfter = time.Second
	// lookAgain is when pods that no node takes are decided again without cause, and their event repeated, as
	// kube-scheduler flushes its queue.
	lookAgain = 5 * time.Minute
	// commitTimeout bounds one round's writes, and the wait for the view to show them.
	commitTimeout = 30 * time.Second
)

// Options of a scheduler. Store, Commit and Events are required.
type Options struct {
	Store  store.Reader
	Commit store.Committer
	Events store.Recorder
	// Log. Nil: slog.Default().
	Log *slog.Logger
	// Registerer takes the metrics. Nil: they are not registered.
	Registerer prometheus.Registerer
	// Now is the clock of conditions. Nil: time.Now.
	Now func() time.Time
}

// Scheduler binds pods. One runs in a cluster: its Committer is the leader's.
type Scheduler struct {
	opts    Options
	metrics *metrics

	state *State
	seen  int64                  // revision the state is of
	fresh map[kinds.Key]struct{} // pods to decide
	all   bool                   // decide every pod that waits
	told  map[kinds.Key]verdict  // the last refusal of the pods that wait
	round uint64                 // seed of the next round
}

// verdict is what was last said about a pod.
type verdict struct {
	text string
	at   time.Time
}

// New returns a scheduler; Run starts it.
func New(opts Options) *Scheduler {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Scheduler{
		opts: opts, metrics: newMetrics(opts.Registerer),
		fresh: map[kinds.Key]struct{}{}, told: map[kinds.Key]verdict{},
	}
}

// Run schedules until ctx ends, then returns nil.
func (s *Scheduler) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s.follow(ctx)
	}
	return nil
}

// follow schedules until ctx ends or the subscription is lost.
func (s *Scheduler) follow(ctx context.Context) {
	sub := s.opts.Store.Subscribe("scheduler")
	defer sub.Close()
	v := s.opts.Store.View()
	s.state, s.seen, s.all = NewState(v), v.Revision(), true
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		if (s.all || len(s.fresh) > 0) && s.seen > 0 {
			if err := s.schedule(ctx); err != nil && ctx.Err() == nil {
				level := slog.LevelWarn
				if store.Outage(err) {
					level = slog.LevelDebug
				}
				s.opts.Log.Log(ctx, level, "cannot write the schedule, deciding again soon", "error", err)
				s.all = true
				sleep(ctx, retryAfter)
				if !s.catchUp(sub) {
					return
				}
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			s.all = true
		case b, ok := <-sub.C:
			if !ok {
				return
			}
			s.fold(b)
		}
		if !s.catchUp(sub) {
			return
		}
	}
}

// catchUp folds the batches that wait; false says that the subscription is lost.
func (s *Scheduler) catchUp(sub *store.Subscription) bool {
	for {
		select {
		case b, ok := <-sub.C:
			if !ok {
				return false
			}
			s.fold(b)
		default:
			return true
		}
	}
}

func (s *Scheduler) fold(b store.Batch) {
	if b.View.Revision() <= s.seen {
		return // the state was made of a view that has it
	}
	s.seen = b.View.Revision()
	for _, c := range b.Changes {
		switch s.state.Fold(c) {
		case Frees:
			s.all = true
		case Waits:
			s.fresh[c.Key] = struct{}{}
		}
	}
}

// schedule decides what there is to decide and writes it.
func (s *Scheduler) schedule(ctx context.Context) error {
	pods := s.state.Pending()
	s.metrics.pending.Set(float64(len(pods)))
	if !s.all {
		pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
			_, ok := s.fresh[kinds.KeyOf(p)]
			return !ok
		})
	}
	s.all = false
	clear(s.fresh)
	maps.DeleteFunc(s.told, func(k kinds.Key, _ verdict) bool { return s.state.pending[k] == nil })
	if len(pods) == 0 {
		return nil
	}
	start := time.Now()
	plan := Decide(s.state, pods, s.round)
	s.round++
	s.metrics.decide.Observe(time.Since(start).Seconds())
	return s.act(ctx, plan)
}

// act writes a plan and waits until the view shows it, so that no pod is decided twice.
func (s *Scheduler) act(ctx context.Context, plan Plan) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	now := metav1.NewTime(s.opts.Now())
	var groups []store.Group
	for _, b := range plan.Bindings {
		groups = append(groups, store.Group{write(bound(b, now), b.Reason)})
	}
	for _, r := range plan.Refusals {
		if s.news(r, now.Time) {
			s.opts.Events.Event(component, r.Pod, corev1.EventTypeWarning, "FailedScheduling", r.Reason)
		}
		if p, changed := refused(r, now); changed {
			groups = append(groups, store.Group{write(p, r.Reason)})
		}
	}
	s.metrics.refusals.Add(float64(len(plan.Refusals)))
	if len(groups) == 0 {
		return nil
	}
	results := s.opts.Commit.Commit(ctx, groups...)
	var reached int64
	var failed error
	for i, r := range results {
		reached = max(reached, r.Revision)
		switch {
		case r.Err == nil && i < len(plan.Bindings):
			s.announce(plan.Bindings[i], now.Time)
		case errors.Is(r.Err, store.ErrConflict):
			// The change that was in the way comes through the view and has the pod decided again.
			s.metrics.conflicts.Inc()
		case r.Err != nil:
			failed = r.Err
		}
	}
	if reached > 0 {
		if _, err := s.opts.Store.Wait(ctx, reached); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

func (s *Scheduler) announce(b Binding, now time.Time) {
	s.metrics.bindings.Inc()
	s.metrics.latency.Observe(now.Sub(b.Pod.CreationTimestamp.Time).Seconds())
	s.opts.Events.Event(component, b.Pod, corev1.EventTypeNormal, "Scheduled",
		fmt.Sprintf("Successfully assigned %s/%s to %s", b.Pod.Namespace, b.Pod.Name, b.Node))
}

// news says whether a refusal is to be told: it is another one than the last, or that was long ago.
func (s *Scheduler) news(r Refusal, now time.Time) bool {
	key := kinds.KeyOf(r.Pod)
	last := s.told[key]
	if last.text == r.Reason && now.Sub(last.at) < lookAgain {
		return false
	}
	s.told[key] = verdict{text: r.Reason, at: now}
	return true
}

func write(p *corev1.Pod, reason string) store.Write {
	return store.Write{Key: kinds.KeyOf(p), Object: p, If: store.Revision(p), Reason: reason}
}

// bound returns the pod of a binding as it is to be stored.
func bound(b Binding, now metav1.Time) *corev1.Pod {
	p, _ := withCondition(b.Pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now,
	})
	p.Spec.NodeName = b.Node
	return p
}

// refused returns the pod of a refusal as it is to be stored, and whether that is a change.
func refused(r Refusal, now metav1.Time) (*corev1.Pod, bool) {
	return withCondition(r.Pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, LastTransitionTime: now,
		Reason: corev1.PodReasonUnschedulable, Message: r.Reason,
	})
}

// withCondition returns a copy of the pod, sharing what it does not change, with the condition. Its transition time
// stays where its status does.
func withCondition(p *corev1.Pod, c corev1.PodCondition) (*corev1.Pod, bool) {
	out := *p
	out.Status.Conditions = slices.Clone(p.Status.Conditions)
	for i, old := range out.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.LastProbeTime, c.ObservedGeneration = old.LastProbeTime, old.ObservedGeneration
		out.Status.Conditions[i] = c
		return &out, old != c
	}
	out.Status.Conditions = append(out.Status.Conditions, c)
	return &out, true
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
