package api

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"lockstep/daemon/rights"
	"lockstep/reconcilers/apiservers"
	"lockstep/store/view"
)

// stay is a request that lives long: a watch, a followed log or a tunnel. What permitted it may end before it does.
type stay struct {
	id     identity
	access rights.Access
	end    context.CancelFunc
}

// decision is who says whether somebody may.
type decision func(rights.Subject, rights.Access, *view.View) (rights.Verdict, string)

// stays are all requests that live long.
type stays struct {
	decide decision

	mu  sync.Mutex
	all map[*stay]struct{}
	// ofPods are those that rest on which pods there are, by what bearing says has lost one.
	ofPods map[string]map[*stay]struct{}
}

func newStays(decide decision) *stays {
	return &stays{decide: decide, all: map[*stay]struct{}{}, ofPods: map[string]map[*stay]struct{}{}}
}

// restsOn says whose loss of a pod may end it: the node's, where the right is its pods' need, or the pod's own, by whose token
// it is made; empty: nobody's.
func (s *stay) restsOn() string {
	switch {
	case s.id.Role == rights.Account, s.id.Role == rights.Node && (s.access.Resource == "secrets" || s.access.Resource == "configmaps"):
		return s.id.credential
	}
	return ""
}

func (s *stays) enter(st *stay) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[st] = struct{}{}
	on := st.restsOn()
	if on != "" {
		set := s.ofPods[on]
		if set == nil {
			set = map[*stay]struct{}{}
			s.ofPods[on] = set
		}
		set[st] = struct{}{}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.all, st)
		if set := s.ofPods[on]; set != nil {
			delete(set, st)
			if len(set) == 0 {
				delete(s.ofPods, on)
			}
		}
	}
}

// judge ends what a view takes the right from: all are judged where credentials, roles or bindings may have changed, which is
// seldom, else those of who has lost a pod.
func (s *stays) judge(v *view.View, all bool, losers map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		for st := range s.all {
			s.look(st, v)
		}
		return
	}
	for name := range losers {
		for st := range s.ofPods[name] {
			s.look(st, v)
		}
	}
}

// look ends a request that would not be permitted now.
func (s *stays) look(st *stay, v *view.View) {
	if st.id.holds == nil || st.id.holds(v) {
		if verdict, _ := s.decide(st.id.Subject, st.access, v); verdict == rights.Allowed {
			return
		}
	}
	st.end()
}

// bearing says what changes may take: anybody's credential, what roles and bindings grant, or by their credentials the rights of
// nodes that have lost pods, and of those pods.
func bearing(changes []view.Change) (credentials, grants bool, losers map[string]bool) {
	for _, c := range changes {
		for _, r := range []*view.Record{c.OldRecord, c.NewRecord} {
			if r != nil && credentialTables[r.Table] {
				return true, true, nil
			}
		}
		if gone(c) {
			return true, true, nil
		}
		grants = grants || c.Key.Group == rbacv1.GroupName
		p, ok := c.Old.(*corev1.Pod)
		if !ok || p == nil || p.Spec.NodeName == "" {
			continue
		}
		if now, stays := c.New.(*corev1.Pod); !stays || now == nil || now.Spec.NodeName != p.Spec.NodeName || now.UID != p.UID {
			if losers == nil {
				losers = map[string]bool{}
			}
			losers[nodeCredential(p.Spec.NodeName)], losers[podCredential(string(p.UID))] = true, true
		}
	}
	return false, grants, losers
}

// gone says that a change takes a server, an account, a node or a Secret, which tokens of accounts rest on, or puts another in its place.
func gone(c view.Change) bool {
	switch c.Old.(type) {
	case *coordinationv1.Lease:
		return c.New == nil && apiservers.Named(c.Key.Namespace, c.Key.Name)
	case *corev1.ServiceAccount, *corev1.Node, *corev1.Secret:
		return c.New == nil || c.New.GetUID() != c.Old.GetUID()
	}
	return false
}

// credentialTables are the records that credentials rest on; see package pki.
var credentialTables = map[string]bool{"pki": true, "token": true}

// conns are the connections on which nodes have shown their certificates.
type conns struct {
	mu  sync.Mutex
	all map[net.Conn]identity
}

func newConns() *conns { return &conns{all: map[net.Conn]identity{}} }

type connKey struct{}

// context is http.Server's ConnContext.
func (c *conns) context(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// state is http.Server's ConnState.
func (c *conns) state(conn net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all, conn)
	}
}

// know notes whose the connection of a request is, and says whether it is new.
func (c *conns) know(ctx context.Context, id identity) bool {
	conn, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.all[conn]
	if !known && ctx.Err() == nil { // the context ends before the connection is closed: nobody would forget it later
		c.all[conn] = id
	}
	return !known
}

// judge closes the connections of nodes whose certificates hold no more, with all that goes on in them.
func (c *conns) judge(v *view.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn, id := range c.all {
		if id.holds(v) {
			continue
		}
		if inner, ok := conn.(interface{ NetConn() net.Conn }); ok {
			conn = inner.NetConn() // at once: TLS would say goodbye first, for seconds where nobody listens
		}
		_ = conn.Close()
	}
}

// lasting lets a request that lives long go on for as long as its credential and its right do, and bounds how many there
// are of a credential and from an address.
func (s *server) lasting(w http.ResponseWriter, r *http.Request, id identity, a rights.Access, next http.Handler) {
	if r.ContentLength != 0 {
		s.fail(w, r, apierrors.NewBadRequest("a request that lives long has no body"))
		return
	}
	leave := s.budgets.stay(id, peerOf(r))
	if leave == nil {
		s.metrics.refused.Inc()
		s.fail(w, r, apierrors.NewTooManyRequests("this client has too many watches and followed logs open", retryAfter))
		return
	}
	defer leave()
	s.living(w, r, id, a, next)
}

// living lets a request go on for as long as its credential and its right do.
func (s *server) living(w http.ResponseWriter, r *http.Request, id identity, a rights.Access, next http.Handler) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	end := id.until
	if a.Verb == "watch" {
		if most := s.now().Add(maxWatch); end.IsZero() || most.Before(end) {
			end = most
		}
	}
	if !end.IsZero() {
		ctx, cancel = context.WithTimeout(ctx, end.Sub(s.now()))
		defer cancel()
	}
	st := &stay{id: id, access: a, end: cancel}
	defer s.stays.enter(st)()
	s.stays.look(st, s.store.View()) // what permitted it may have ended before it was entered
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	s.metrics.longRunning.Inc()
	defer s.metrics.longRunning.Dec()
	next.ServeHTTP(w, r.WithContext(ctx))
}
