package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/sleep"
	"lockstep/store"
	"lockstep/store/view"
)

// component is how Kubernetes' scheduler signs its events.
const component = corev1.DefaultSchedulerName

const (
	// retryAfter is the pause after etcd took no bindings.
	retryAfter = time.Second
	// lookAgain is when pods that no node takes are decided again without cause, and their event repeated, as
	// kube-scheduler flushes its queue.
	lookAgain = 5 * time.Minute
	// bindTimeout bounds how long a pod waits on its node for its claims to be bound, as kube-scheduler's bindTimeoutSeconds.
	bindTimeout = 10 * time.Minute
	// commitTimeout bounds the writes of one parcel, and the wait for the view to show them all.
	commitTimeout = 30 * time.Second
)

// Options of a scheduler. Store, Commit and Events are required.
type Options struct {
	Store  store.Reader
	Commit store.Committer
	Events store.Recorder
	// Profiles are those that pods may name besides default-scheduler, or it, with settings of its own. All of them have been validated.
	Profiles []Profile
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

	table  *table
	tables map[string]*table // by profile
	state  *State
	seen   int64 // revision the state is of
	queue  queue
	round  uint64 // seed of the next round
}

// New returns a scheduler; Run starts it.
func New(opts Options) *Scheduler {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Scheduler{opts: opts, metrics: newMetrics(opts.Registerer), table: rows(), queue: newQueue()}
	s.tables = map[string]*table{}
	for i := range opts.Profiles {
		p := &opts.Profiles[i]
		t, err := p.table()
		if err != nil {
			opts.Log.Error("leaving out a scheduler profile", "profile", p.Name, "error", err)
			continue
		}
		s.tables[cmp.Or(p.Name, component)] = t
	}
	return s
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
	s.state, s.seen, s.queue.all = s.stateOf(v), v.Revision(), true
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	retry := time.NewTimer(lookAgain)
	defer retry.Stop()
	for {
		if s.queue.ready(s.opts.Now()) && s.seen > 0 {
			if err := s.schedule(ctx); err != nil && ctx.Err() == nil {
				level := slog.LevelWarn
				if store.Outage(err) {
					level = slog.LevelDebug
				}
				s.opts.Log.Log(ctx, level, "cannot write the schedule, deciding again soon", "error", err)
				s.queue.all = true
				sleep.For(ctx, retryAfter)
				if !s.catchUp(sub) {
					return
				}
				continue
			}
			if s.queue.giving { // it is their turn now
				if !s.catchUp(sub) {
					return
				}
				continue
			}
		}
		retry.Stop()
		if next, ok := s.queue.next(); ok {
			retry.Reset(next.Sub(s.opts.Now()))
		}
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		case <-again.C:
			s.queue.all = true
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

// stateOf is the state of a view, with the profiles' tables.
func (s *Scheduler) stateOf(v *view.View) *State {
	tables := map[string]*table{component: s.table}
	maps.Copy(tables, s.tables)
	return newStateOf(v, s.table, tables)
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
		if changes&ClaimChanged != 0 {
			s.claimChanged(c)
		}
		if changes&PodWaits != 0 {
			s.queue.fresh[c.Key] = struct{}{}
		}
		s.queue.changes |= changes &^ (PodWaits | ClaimChanged)
	}
}

// claimChanged has the pods that mount a claim decided again: later where its volume could not be made, as kube-scheduler does.
func (s *Scheduler) claimChanged(c view.Change) {
	for _, pod := range s.state.mounting[c.Key] {
		if !lostNode(c.Old, c.New) {
			s.queue.wake(pod)
			continue
		}
		s.queue.fail(pod, s.opts.Now())
		if s.state.nominated[pod] != nil {
			s.queue.failed[pod] = unbound(fmt.Sprintf("provisioning failed for PVC %q", c.Key.Name))
		}
	}
}

// unbound words why the claims of a pod were not bound, as kube-scheduler does.
func unbound(why string) string {
	return `running PreBind plugin "VolumeBinding": binding volumes: ` + why
}

// schedule decides what there is to decide and writes it.
func (s *Scheduler) schedule(ctx context.Context) error {
	pods := s.queue.due(s.state, s.opts.Now())
	s.metrics.pending.Set(float64(len(s.state.pending)))
	failures := s.queue.failures(s.state)
	if len(pods)+len(failures) == 0 {
		return nil
	}
	now := metav1.NewTime(s.opts.Now())
	w := &writing{commit: s.opts.Commit}
	plan := Plan{}
	if len(pods) > 0 {
		start := time.Now()
		plan = decide(s.state, pods, s.round, func(b Binding) {
			w.add(ctx, action{b.Pod, store.Group{write(bound(b, now), b.Reason)}, func() { s.announce(b, now.Time) }})
		})
		s.round++
		s.metrics.decide.Observe(time.Since(start).Seconds())
	}
	plan.Failures = failures
	s.act(ctx, plan, w, now)
	return s.finish(ctx, w, now.Time)
}
