package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// eventTTL is Kubernetes' --event-ttl.
	eventTTL = time.Hour
	// leaseShared is how long events share one etcd lease, which so much outlives the hour.
	leaseShared = time.Minute
	// eventQueue bounds the events not written yet: a rollout of some thousand pods at once.
	eventQueue = 8192
	// maxEvents bounds the events kept, at about a kilobyte each; over it the oldest go.
	maxEvents = 20000
	// trimEvery is how often they are counted.
	trimEvery = 30 * time.Second
	// eventTimeout bounds one write of events.
	eventTimeout = 15 * time.Second
)

// recorder correlates Kubernetes events and writes them, behind a bounded queue.
type recorder struct {
	store      *Store
	queue      chan *corev1.Event
	now        func() time.Time
	correlator *Correlator
}

func newRecorder(s *Store, now func() time.Time) *recorder {
	return &recorder{store: s, queue: make(chan *corev1.Event, eventQueue), now: now, correlator: NewCorrelator(now)}
}

// Event records what happened; see Recorder.
func (s *Store) Event(component string, about kinds.Object, kind, reason, message string) {
	select {
	case s.events.queue <- NewEvent(component, about, kind, reason, message, s.now()):
	default:
		s.metrics.events.WithLabelValues("dropped").Inc()
	}
}

// NewEvent returns the Kubernetes event for what happened to an object at a time. Its name is unique to the object and
// the nanosecond.
func NewEvent(component string, about kinds.Object, kind, reason, message string, now time.Time) *corev1.Event {
	gvk := kinds.Of(about).GroupVersionKind
	namespace := about.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	at := metav1.NewTime(now)
	e := &corev1.Event{
		InvolvedObject: corev1.ObjectReference{
			APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: about.GetNamespace(), Name: about.GetName(),
			UID: about.GetUID(), ResourceVersion: about.GetResourceVersion(),
		},
		Reason: reason, Message: message, Type: kind, Count: 1, FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: component}, ReportingController: component,
	}
	e.Namespace, e.Name = namespace, fmt.Sprintf("%s.%x", about.GetName(), now.UnixNano())
	return e
}

// run writes events until ctx ends.
func (r *recorder) run(ctx context.Context) {
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	for {
		select {
		case e := <-r.queue:
			r.write(ctx, r.batch(e))
		case <-trim.C:
			r.trim(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// batch correlates the event and what waits behind it; of each name the last stays.
func (r *recorder) batch(e *corev1.Event) []*corev1.Event {
	var out []*corev1.Event
	at := map[string]int{}
	for n := 0; ; n++ {
		if e = r.correlator.Correlate(e); e == nil {
			r.store.metrics.events.WithLabelValues("spam").Inc()
		} else if i, ok := at[e.Namespace+"/"+e.Name]; ok {
			out[i] = e
		} else {
			at[e.Namespace+"/"+e.Name] = len(out)
			out = append(out, e)
		}
		if n == maxTxnOps {
			return out
		}
		select {
		case e = <-r.queue:
		default:
			return out
		}
	}
}

func (r *recorder) write(ctx context.Context, events []*corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	groups := make([]Group, len(events))
	for i, e := range events {
		groups[i] = Group{{Key: kinds.KeyOf(e), Object: e, If: Anyway, Reason: "an event was recorded"}}
	}
	var failed error
	for _, result := range r.store.Commit(ctx, groups...) {
		outcome := "written"
		if result.Err != nil {
			outcome, failed = "failed", result.Err
		}
		r.store.metrics.events.WithLabelValues(outcome).Inc()
	}
	if failed != nil && ctx.Err() == nil {
		r.store.warn(ctx, "cannot write events", "error", failed)
	}
}

// trim deletes the oldest events over the bound.
func (r *recorder) trim(ctx context.Context) {
	old := OldestEvents(r.store.View(), maxEvents)
	groups := make([]Group, len(old))
	for i, e := range old {
		groups[i] = Group{{Key: kinds.KeyOf(e), If: Anyway, Reason: "there are too many events"}}
	}
	for chunk := range slices.Chunk(groups, maxTxnOps) {
		if ctx.Err() != nil {
			return
		}
		r.store.Commit(ctx, chunk...)
	}
}

// OldestEvents returns the events over a bound, oldest first; nil where there are no more than that.
func OldestEvents(v *view.View, bound int) []*corev1.Event {
	if v.Len(kinds.For[*corev1.Event]().GroupResource()) <= bound {
		return nil
	}
	all := slices.Collect(view.List[*corev1.Event](v, ""))
	slices.SortStableFunc(all, func(a, b *corev1.Event) int { return lastSeen(a).Compare(lastSeen(b)) })
	return all[:len(all)-bound]
}

// lastSeen is when an event last happened, in whichever of its fields its reporter says so.
func lastSeen(e *corev1.Event) time.Time {
	last := e.CreationTimestamp.Time
	if e.LastTimestamp.After(last) {
		last = e.LastTimestamp.Time
	}
	if e.Series != nil && e.Series.LastObservedTime.After(last) {
		last = e.Series.LastObservedTime.Time
	}
	if e.EventTime.After(last) {
		last = e.EventTime.Time
	}
	return last
}

// eventLeases hands out etcd leases that last for an event's time; events of about the same time share one.
type eventLeases struct {
	client clientv3.Lease
	now    func() time.Time

	mu      sync.Mutex
	id      clientv3.LeaseID
	granted time.Time
}

func (l *eventLeases) get(ctx context.Context) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); l.id == clientv3.NoLease || now.Sub(l.granted) > leaseShared {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		resp, err := l.client.Grant(ctx, int64((eventTTL + leaseShared).Seconds()))
		if err != nil {
			return 0, fmt.Errorf("%w: cannot get a lease: %w", ErrUnavailable, err)
		}
		l.id, l.granted = resp.ID, now
	}
	return l.id, nil
}
