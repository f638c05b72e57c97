package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"lockstep/daemon/rights"
	"lockstep/internal/plain"
	"lockstep/internal/quota"
	"lockstep/store/view"
)

const (
	// requestTimeout ends what is not a watch or a followed log, and the reading of every request; Kubernetes gives as long.
	requestTimeout = 60 * time.Second
	// writeTimeout cuts off a client that reads nothing of an answer for so long.
	writeTimeout = 30 * time.Second
	// refusedBody is how long the rest of a request may take to arrive that was refused already.
	refusedBody = 5 * time.Second
	// retryAfter is what a client is told to wait when too many requests are under way.
	retryAfter = 1
)

// chain is what happens to every request, from the outside in.
func (s *server) chain() http.Handler {
	return s.observe(s.loaded(s.identified(s.permitted(s.bounded(s.routes())))))
}

// observe counts and times a request and turns a panic into a 500.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.now()
		out := &writer{ResponseWriter: w, control: http.NewResponseController(w)}
		unread := func(err error) {
			_ = out.control.SetReadDeadline(time.Now().Add(min(refusedBody, s.opts.RequestTimeout)))
			s.fail(out, r, err)
		}
		if len(r.RequestURI) > maxURI {
			unread(apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit of a request's address is %d bytes", maxURI)))
			return
		}
		info, err := s.infos.NewRequestInfo(r)
		if err != nil {
			unread(apierrors.NewBadRequest(err.Error()))
			return
		}
		// Also of a request that is refused unread: net/http reads on for the connection's next one.
		_ = out.control.SetReadDeadline(time.Now().Add(s.opts.RequestTimeout))
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // a sentinel that panics bear as it is
				s.log.Error("a request failed by a defect", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				if out.status == 0 {
					s.fail(out, r, apierrors.NewInternalError(errors.New("a defect of the server")))
				}
			}
			s.metrics.request(info, out.status, s.now().Sub(start))
			if out.status >= http.StatusBadRequest {
				// net/http reads on for the next request: what was refused is not worth a minute of waiting.
				_ = out.control.SetReadDeadline(time.Now().Add(min(refusedBody, s.opts.RequestTimeout)))
			}
		}()
		ctx := request.WithRequestInfo(r.Context(), info)
		ctx = request.WithReceivedTimestamp(ctx, start)
		ctx = unaudited(ctx)
		ctx = warning.WithWarningRecorder(ctx, warnings{w})
		next.ServeHTTP(out, r.WithContext(ctx))
	})
}

// warnings are told in the answer's header.
type warnings struct{ http.ResponseWriter }

// AddWarning implements warning.Recorder.
func (w warnings) AddWarning(_, text string) {
	if header, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
		w.Header().Add("Warning", header)
	}
}

// unaudited gives handlers the audit context that they want, set to record nothing.
func unaudited(ctx context.Context) context.Context {
	ctx = audit.WithAuditContext(ctx)
	if err := audit.AuditContextFrom(ctx).Init(audit.RequestAuditConfig{Level: auditinternal.LevelNone}, nil); err != nil {
		panic("api: a new audit context cannot be set already: " + err.Error())
	}
	return ctx
}

// loaded refuses everything but probes until the first view is complete: before, every token would be unknown and every
// right missing.
func (s *server) loaded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.hub.Begun() && !probing(r.URL.Path) {
			s.fail(w, r, unavailable(errors.New("the server is starting")))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// probing says that a path is for those who ask how the server is.
func probing(path string) bool {
	verdict, _ := rights.Decide(rights.Subject{}, rights.Access{Verb: "get", Path: path}, nil, nil)
	return verdict == rights.Allowed && !rights.Joins(path) && path != rights.HookPath
}

func (s *server) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := s.authenticate(r)
		credential := id.credential
		if err != nil {
			credential = peerOf(r)
		}
		// Probes must be answered above all when there is much to do, and what other servers ask has been paid for there.
		if !probing(r.URL.Path) && id.Role != rights.Server {
			if broke := s.budgets.afford(credential, s.now()); broke != nil {
				s.metrics.refused.Inc()
				s.fail(w, r, broke)
				return
			}
		}
		if err != nil {
			w.Header().Set("Connection", "close") // whoever is not known keeps no connection
			s.fail(w, r, err)
			return
		}
		out := w.(*writer)
		if id.Role != rights.Server {
			out.answered = s.metered(r, credential)
			defer out.charge()
		}
		if err := impersonates(id, r); err != nil {
			s.fail(w, r, err)
			return
		}
		ctx := request.WithUser(withIdentity(r.Context(), id), &id.User)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// bounded refuses requests over the bounds with 429, and ends those that take too long. Watches, followed logs and
// tunnels live long and cost little; probes must be answered above all when there is much to do; joins and webhooks have
// bounds of their own.
func (s *server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, _ := request.RequestInfoFrom(r.Context())
		id, a := identityOf(r.Context()), accessOf(r, info)
		if id.Role == rights.Server && !rights.Open(info.Path) {
			s.living(w, r, id, a, next) // who follows a log may do so there
			return
		}
		if longRunning(r, info) {
			s.lasting(w, r, id, a, next)
			return
		}
		slots, mine := s.reads, s.budgets.reads
		if !a.Read() {
			slots, mine = s.writes, s.budgets.writes
		}
		if !rights.Open(info.Path) || rights.Joins(info.Path) {
			if rights.Joins(info.Path) {
				slots = nil // who may be nobody takes no place of those who are known
			}
			leave := s.enter(id, a, slots, mine)
			if leave == nil {
				s.metrics.refused.Inc()
				s.fail(w, r, apierrors.NewTooManyRequests("too many requests are under way, try again", retryAfter))
				return
			}
			defer leave()
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.opts.RequestTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// enter takes a place among all requests under way, where there are slots, and among the client's own; nil where there is
// none.
func (s *server) enter(id identity, a rights.Access, slots chan struct{}, mine *quota.Gate) (leave func()) {
	if id.writes() && a.Resource == "events" && !a.Read() && !s.budgets.events.Allow(id.writer(), 1, s.now()) {
		return nil
	}
	own := mine.Enter(id.credential)
	if own == nil {
		return nil
	}
	if slots == nil {
		return own
	}
	select {
	case slots <- struct{}{}:
		return func() {
			<-slots
			own()
		}
	default:
		own()
		return nil
	}
}

func longRunning(r *http.Request, info *request.RequestInfo) bool {
	follow, _ := strconv.ParseBool(r.URL.Query().Get("follow"))
	return info.Verb == "watch" || info.Subresource == "log" && follow || info.Path == rights.TunnelPath
}

func (s *server) permitted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, _ := request.RequestInfoFrom(r.Context())
		id, a := identityOf(r.Context()), accessOf(r, info)
		v := s.hub.View()
		switch verdict, why := s.decide(id.Subject, a, v); verdict {
		case rights.Allowed:
			next.ServeHTTP(w, r)
		case rights.Unauthorized:
			s.fail(w, r, apierrors.NewUnauthorized(why))
		case rights.NotThisWay:
			s.fail(w, r, s.refusal(v, a, why))
		default:
			if id.views() && a.Confidential() {
				why = s.secretUnread(v, a)
			}
			s.fail(w, r, forbiddenError(id, a, why))
		}
	})
}

// decide says whether somebody may, by the roles and bindings of a view.
func (s *server) decide(who rights.Subject, a rights.Access, v *view.View) (rights.Verdict, string) {
	var p *rights.Policy
	if who.Bound() {
		p = s.policies.of(v)
	}
	return rights.Decide(who, a, v, p)
}

// forbiddenError is Kubernetes' own.
func forbiddenError(id identity, a rights.Access, why string) error {
	return responsewriters.ForbiddenStatusError(a.Attributes(&id.User), plain.Text(why))
}

// accessOf reads what a request asks to do.
func accessOf(r *http.Request, info *request.RequestInfo) rights.Access {
	if !info.IsResourceRequest {
		return rights.Access{Verb: info.Verb, Path: info.Path}
	}
	a := rights.Access{
		Verb: info.Verb, Group: info.APIGroup, Resource: info.Resource, Subresource: info.Subresource,
		Namespace: info.Namespace, Name: info.Name, DryRun: r.URL.Query().Has("dryRun"),
	}
	if text := r.URL.Query().Get("fieldSelector"); text != "" {
		if selector, err := fields.ParseSelector(text); err == nil {
			a.Fields = selector
		}
	}
	if text := r.URL.Query().Get("labelSelector"); text != "" {
		if selector, err := labels.Parse(text); err == nil {
			a.Labels = selector
		}
	}
	return a
}

// fail answers with a Kubernetes Status in the format that the client asked for.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	gv := schema.GroupVersion{Version: "v1"}
	if info, ok := request.RequestInfoFrom(r.Context()); ok && info.APIVersion != "" {
		gv = schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	}
	if !scheme.IsVersionRegistered(gv) {
		gv = schema.GroupVersion{Version: "v1"}
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		s.log.Error("a request failed", "path", r.URL.Path, "error", err)
		err = apierrors.NewInternalError(err)
	} else if details := status.Status().Details; details != nil && details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(details.RetryAfterSeconds)))
	}
	responsewriters.ErrorNegotiated(err, codecs, gv, w, r)
}

// writer notes the status and gives every write a deadline of its own, so that a client that reads slowly may, and one that
// does not read at all is cut off.
type writer struct {
	http.ResponseWriter
	control *http.ResponseController
	status  int
	// answered is told of bytes that were written, some at a time; nil: nobody wants to know.
	answered func(n int)
	pending  int
}

// charge tells of the bytes that were written since it was told last.
func (w *writer) charge() {
	if w.answered != nil && w.pending > 0 {
		w.answered(w.pending)
	}
	w.pending = 0
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.pending += len(p); w.pending >= spendAfter {
		w.charge()
	}
	defer w.limit()()
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (w *writer) Flush() {
	defer w.limit()()
	_ = w.control.Flush()
}

// limit sets a deadline for one write and returns what lifts it: HTTP/2 ends also a stream that is idle at its deadline.
func (w *writer) limit() func() {
	_ = w.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	return func() { _ = w.control.SetWriteDeadline(time.Time{}) }
}

// Unwrap lets an http.ResponseController reach what is below, to take a connection over.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// statusOf is the body of an error as Kubernetes writes it.
func statusOf(err error) metav1.Status {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status()
	}
	return apierrors.NewInternalError(err).ErrStatus
}
