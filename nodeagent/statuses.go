package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/pod"
)

const (
	// statusWriters bounds the writes at a time: they wait for the network and
	// etcd's disk, not for this machine's cores.
	statusWriters = 4
	// settleTime is how long a status that nobody waits for may be coalesced
	// with the next one of its pod; shorter than a container's start.
	settleTime = 300 * time.Millisecond
	// apiTimeout bounds one request, which takes milliseconds; a server that starts may need seconds.
	apiTimeout = 10 * time.Second
	// statusRetry is the pause after a failed write.
	statusRetry = time.Second
)

// errNeedless says that a pod is gone, so that nothing was written.
var errNeedless = errors.New("the pod is gone")

// statuses writes pods' statuses to the API, the newest of each pod only. The
// queue has at most one entry a pod.
type statuses struct {
	a    *Agent
	wake chan struct{}

	mu  sync.Mutex
	due map[types.UID]dueStatus
	// away says that the last write found no server; that is told once, not of each pod at each try.
	away bool
}

type dueStatus struct {
	p  *pod.Pod
	at time.Time
}

func newStatuses(a *Agent) *statuses {
	return &statuses{a: a, wake: make(chan struct{}, 1), due: map[types.UID]dueStatus{}}
}

// add asks for the pod's status to be written, at once if somebody waits for it.
func (s *statuses) add(p *pod.Pod, urgent bool) {
	at := time.Now()
	if !urgent {
		at = at.Add(settleTime)
	}
	s.mu.Lock()
	if d, ok := s.due[p.UID()]; !ok || at.Before(d.at) {
		s.due[p.UID()] = dueStatus{p, at}
	}
	s.mu.Unlock()
	s.nudge()
}

// tell logs what a write came to: of a server that does not answer a line when it goes and one when it is back.
func (s *statuses) tell(log *slog.Logger, err error) {
	if errors.Is(err, errNeedless) {
		return
	}
	answered := answered(err)
	s.mu.Lock()
	changed := s.away == answered
	s.away = !answered
	s.mu.Unlock()
	switch {
	case changed && answered:
		s.a.log.Info("the server takes statuses again")
	case changed:
		s.a.log.Warn("no server takes statuses: they wait until one answers", "error", err)
	}
	if answered && err != nil {
		log.Warn("cannot report status", "error", err)
	}
}

// nudge has the loop look again.
func (s *statuses) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *statuses) drop(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.due, uid)
}

// take returns the statuses that are due and when the next one is.
func (s *statuses) take(now time.Time) (ready []*pod.Pod, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, d := range s.due {
		if !now.Before(d.at) {
			ready = append(ready, d.p)
			delete(s.due, uid)
		} else if next.IsZero() || d.at.Before(next) {
			next = d.at
		}
	}
	return ready, next
}

// run writes until ctx ends.
func (s *statuses) run(ctx context.Context) error {
	for {
		if s.a.api() == nil { // statuses wait until the node has joined, which wakes this loop
			select {
			case <-ctx.Done():
				return nil
			case <-s.wake:
			}
			continue
		}
		ready, next := s.take(time.Now())
		g := errgroup.Group{}
		g.SetLimit(statusWriters)
		for _, p := range ready {
			g.Go(func() error {
				began := time.Now()
				err := s.write(ctx, p)
				if ctx.Err() == nil {
					s.tell(p.Log(), err)
				}
				if errors.Is(err, errNeedless) {
					return nil
				}
				s.a.metrics.report("pod status", began, err)
				if err != nil && ctx.Err() == nil {
					s.mu.Lock()
					if _, ok := s.due[p.UID()]; !ok {
						s.due[p.UID()] = dueStatus{p, time.Now().Add(statusRetry)}
					}
					s.mu.Unlock()
				}
				return nil
			})
		}
		_ = g.Wait() // errors are logged above
		if len(ready) > 0 {
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer:
		}
	}
}

// write sends the pod's newest status. The object is the API's: only its
// status is ours, and its uid makes sure that it is still this pod.
func (s *statuses) write(ctx context.Context, p *pod.Pod) error {
	api := s.a.api()
	if api == nil {
		return fmt.Errorf("not connected to the API")
	}
	object, version, needed := p.Status()
	if !needed {
		return errNeedless
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	pods := api.CoreV1().Pods(object.Namespace)
	written, err := pods.UpdateStatus(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		fresh, getErr := pods.Get(ctx, object.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(getErr) || getErr == nil && fresh.UID != object.UID || s.a.isLost(p.UID()):
			return errNeedless
		case getErr != nil:
			return getErr
		}
		fresh.Status = mergeStatus(fresh, object.Status)
		written, err = pods.UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	}
	if err != nil {
		if _, _, needed = p.Status(); !needed || apierrors.IsNotFound(err) || s.a.isLost(p.UID()) {
			return errNeedless // deleted meanwhile, or its deletion is on the way, or the API does not know it yet
		}
		return err
	}
	p.Confirm(version, kinds.Revision(written))
	return nil
}

// mergeStatus is ours with the conditions of others as the API has them, those of readiness gates too.
func mergeStatus(fresh *corev1.Pod, ours corev1.PodStatus) corev1.PodStatus {
	out := *ours.DeepCopy()
	gates := podstatus.Gates(fresh)
	out.Conditions = slices.DeleteFunc(out.Conditions, func(c corev1.PodCondition) bool { return slices.Contains(gates, c.Type) })
	for _, c := range fresh.Status.Conditions {
		if !slices.ContainsFunc(out.Conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type }) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	return out
}
