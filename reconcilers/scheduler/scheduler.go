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

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
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

	table   *table
	state   *State
	seen    int64                  // revision the state is of
	fresh   map[kinds.Key]struct{} // pods to decide
	changes Changes                // decide the pods whose verdict these may change
	all     bool                   // decide every pod that waits
	told    map[kinds.Key]verdict  // the last refusal of the pods that wait
	round   uint64                 // seed of the next round
}

// verdict is what was last said about a pod.
type verdict struct {
	text  string
	at    time.Time
	wakes Changes
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
		opts: opts, metrics: newMetrics(opts.Registerer), table: rows(),
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
	s.state, s.seen, s.all = newState(v, s.table), v.Revision(), true
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		if (s.all || s.changes != 0 || len(s.fresh) > 0) && s.seen > 0 {
			if err := s.schedule(ctx); err != nil && ctx.Err() == nil {
				level := slog.LevelWarn
				if store.Outage(err) {
					level = slog.LevelDebug
				}
				s.opts.Log.Log(ctx, level, "cannot write the schedule, deciding again soon", "error", err)
				s.all = true
				sleep.For(ctx, retryAfter)
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
		changes := s.state.Fold(c)
		if changes&PodWaits != 0 {
			s.fresh[c.Key] = struct{}{}
		}
		s.changes |= changes &^ PodWaits
	}
}

// due returns the pods to decide now, in order, and forgets why. A pod that waits and was refused before is decided again
// after the changes that its refusal named.
func (s *Scheduler) due() []*corev1.Pod {
	maps.DeleteFunc(s.told, func(k kinds.Key, _ verdict) bool { return s.state.pending[k] == nil })
	pods := s.state.Pending(func(k kinds.Key) bool {
		if _, fresh := s.fresh[k]; fresh || s.all {
			return true
		}
		last, told := s.told[k]
		return s.changes != 0 && (!told || last.wakes&s.changes != 0)
	})
	for _, p := range pods { // until it is refused again, or bound
		if last, told := s.told[kinds.KeyOf(p)]; told {
			last.wakes = anything
			s.told[kinds.KeyOf(p)] = last
		}
	}
	s.all, s.changes = false, 0
	clear(s.fresh)
	return pods
}

// schedule decides what there is to decide and writes it.
func (s *Scheduler) schedule(ctx context.Context) error {
	pods := s.due()
	s.metrics.pending.Set(float64(len(s.state.pending)))
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
	var done []func() // what to tell once a group is written; nil for nothing
	add := func(w store.Write, tell func()) { groups, done = append(groups, store.Group{w}), append(done, tell) }
	for _, e := range plan.Evictions {
		if w, ok := s.evict(e, now); ok {
			add(w, func() { s.opts.Events.Event(component, e.Pod, corev1.EventTypeNormal, "Preempted", e.Reason) })
		}
	}
	for _, b := range plan.Bindings {
		add(write(bound(b, now), b.Reason), func() { s.announce(b, now.Time) })
	}
	for _, r := range plan.Refusals {
		if s.news(r, now.Time) {
			s.opts.Events.Event(component, r.Pod, corev1.EventTypeWarning, "FailedScheduling", r.Reason)
		}
		if p, changed := refused(r, now); changed {
			add(write(p, r.Reason), nil)
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
		case r.Err == nil:
			if done[i] != nil {
				done[i]()
			}
		case errors.Is(r.Err, store.ErrConflict):
			// The change that was in the way comes through the view and has the pod decided again.
			s.metrics.conflicts.Inc()
		default:
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

// news remembers a refusal and says whether it is to be told: it is another one than the last, or that was long ago.
func (s *Scheduler) news(r Refusal, now time.Time) bool {
	key := kinds.KeyOf(r.Pod)
	next := verdict{text: r.Reason, at: now, wakes: r.Wakes}
	last := s.told[key]
	old := last.text == r.Reason && now.Sub(last.at) < lookAgain
	if old {
		next.at = last.at
	}
	s.told[key] = next
	return !old
}

// evict is the write that ends a pod, marked as Kubernetes marks a preempted one; false: it is ending already.
func (s *Scheduler) evict(e Eviction, now metav1.Time) (store.Write, bool) {
	p, _ := withCondition(e.Pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: now,
		Reason: corev1.PodReasonPreemptionByScheduler, Message: e.Reason,
	})
	changed, gone := strategy.Delete(p, now.Time, nil)
	w := store.Write{Key: kinds.KeyOf(p), If: kinds.Revision(p), Reason: e.Reason}
	if !gone {
		w.Object = changed
	}
	return w, gone || changed != nil
}

func write(p *corev1.Pod, reason string) store.Write {
	return store.Write{Key: kinds.KeyOf(p), Object: p, If: kinds.Revision(p), Reason: reason}
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
