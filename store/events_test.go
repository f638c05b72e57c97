package store_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/daemon/etcd/etcdtest"
	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

// leaseOf returns the etcd lease of the event with that name, and the time it was granted for.
func leaseOf(t *testing.T, client *clientv3.Client, name string) (clientv3.LeaseID, time.Duration) {
	t.Helper()
	resp, err := client.Get(t.Context(), store.DefaultPrefix+"events/default/"+name)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("event %s is not in etcd: %v", name, err)
	}
	id := clientv3.LeaseID(resp.Kvs[0].Lease)
	lease, err := client.TimeToLive(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return id, time.Duration(lease.GrantedTTL) * time.Second
}

func event(name string, at time.Time) *corev1.Event {
	e := &corev1.Event{Reason: "Test", Type: corev1.EventTypeNormal, LastTimestamp: metav1.NewTime(at)}
	e.Namespace, e.Name = "default", name
	return e
}

// TestEventsExpire gives each event an hour, and at most a minute more: events of one minute share a lease.
func TestEventsExpire(t *testing.T) {
	client := etcdtest.Client(t)
	var now atomic.Int64
	now.Store(time.Now().Unix())
	s := open(t, client, store.Options{Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	leases := map[string]clientv3.LeaseID{}
	for _, e := range []struct {
		name string
		at   int64 // seconds later
	}{{"first", 0}, {"second", 59}, {"third", 61}} {
		now.Add(e.at)
		commit(t, s, put(event(e.name, time.Now()), 0))
		id, lasts := leaseOf(t, client, e.name)
		if lasts < time.Hour || lasts > time.Hour+2*time.Minute {
			t.Errorf("event %s is kept for %v, want an hour", e.name, lasts)
		}
		leases[e.name] = id
	}
	if leases["first"] != leases["second"] || leases["second"] == leases["third"] {
		t.Errorf("the leases are %v, want one a minute", leases)
	}

	// The hour is etcd's to count. What it does at its end is done here now.
	ended, err := client.Revoke(t.Context(), leases["first"])
	if err != nil {
		t.Fatal(err)
	}
	v := wait(t, s, ended.Header.Revision)
	var left []string
	for e := range view.List[*corev1.Event](v, "") {
		left = append(left, e.Name)
	}
	if !slices.Equal(left, []string{"third"}) {
		t.Errorf("the view has events %v, want the third", left)
	}
	// An event that happens again after its lease has ended gets a new one.
	commit(t, s, put(event("first", time.Now()), store.Anyway))
	if id, _ := leaseOf(t, client, "first"); id != leases["third"] {
		t.Errorf("the lease is %v, want %v", id, leases["third"])
	}
}

// TestEventsAreBounded writes more events than are kept: those that happened last stay.
func TestEventsAreBounded(t *testing.T) {
	const over = 300
	s := open(t, etcdtest.Client(t), store.Options{})
	start := time.Now().Truncate(time.Second).Add(time.Minute) // after their creation, which counts too
	groups := make([]store.Group, store.MaxEvents+over)
	for i := range groups {
		// Names are in the reverse of the order in time.
		groups[i] = put(event(fmt.Sprintf("e%06d", len(groups)-i), start.Add(time.Duration(i)*time.Second)), 0)
	}
	var reached int64
	for _, r := range s.Commit(t.Context(), groups...) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		reached = max(reached, r.Revision)
	}
	gr := kinds.For[*corev1.Event]().GroupResource()
	if n := wait(t, s, reached).Len(gr); n != len(groups) {
		t.Fatalf("the view has %d events, want %d", n, len(groups))
	}
	store.TrimEvents(t.Context(), s)
	rev, err := s.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := wait(t, s, rev)
	if n := v.Len(gr); n != store.MaxEvents {
		t.Errorf("%d events are kept, want %d", n, store.MaxEvents)
	}
	for e := range view.List[*corev1.Event](v, "") {
		if e.LastTimestamp.Time.Before(start.Add(over * time.Second)) {
			t.Fatalf("event %s of %v is kept, and newer ones are not", e.Name, e.LastTimestamp)
		}
	}
	if _, ok := view.Get[*corev1.Event](v, "default", "e000001"); !ok {
		t.Error("the newest event is gone")
	}
}
