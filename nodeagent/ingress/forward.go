package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lockstep/internal/sleep"
	"lockstep/kinds/ingress"
	"lockstep/nodeagent/ingress/routes"
)

const (
	// maxTries bounds the endpoints that are asked for one request: of more that cannot be reached the next may as well be none.
	maxTries = 3
	// asideTime is for how long an endpoint that could not be reached comes last: nginx's fail_timeout.
	asideTime = 10 * time.Second
	// otherTime is how long a request that can be asked again waits for other endpoints: a change gets to a node in a fraction of it.
	otherTime, otherPause = time.Second, 20 * time.Millisecond
	// maxIdle bounds the connections that are kept to one endpoint, all of them to all.
	maxIdle, maxIdleAll = 128, 4096
	// backendIdle is less than what most servers keep a connection for without a request, nginx's own for backends.
	backendIdle = 60 * time.Second
	// maxAnswerHeader bounds what a backend may send before its answer.
	maxAnswerHeader = 256 << 10
)

// errSilent: nothing has come for as long as the Ingress allows.
var errSilent = errors.New("the backend or the client was silent for too long")

// dialError says that no connection was made: nothing of the request was sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// pool is the connections to backends of one protocol.
type pool struct {
	*http.Transport
	scheme string
}

func (s *Server) makeForward() {
	s.pools = map[ingress.Protocol]*pool{
		ingress.HTTP:  newPool("http", (*http.Protocols).SetHTTP1),
		ingress.HTTPS: newPool("https", (*http.Protocols).SetHTTP1),
		ingress.GRPC:  newPool("http", (*http.Protocols).SetUnencryptedHTTP2),
		ingress.GRPCS: newPool("https", (*http.Protocols).SetHTTP2),
	}
	s.forward = &httputil.ReverseProxy{
		Rewrite: rewrite, Transport: s, ModifyResponse: answered, ErrorHandler: refused, BufferPool: &buffers{},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // the access log has what failed
	}
}

func newPool(scheme string, speaks func(*http.Protocols, bool)) *pool {
	protocols := &http.Protocols{}
	speaks(protocols, true)
	return &pool{scheme: scheme, Transport: &http.Transport{
		DialContext: dial, Protocols: protocols, DisableCompression: true, MaxIdleConns: maxIdleAll, MaxIdleConnsPerHost: maxIdle,
		IdleConnTimeout: backendIdle, MaxResponseHeaderBytes: maxAnswerHeader, TLSHandshakeTimeout: 10 * time.Second,
		// As ingress-nginx: pods' certificates are of nobody that nodes know.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if f, ok := ctx.Value(flightKey{}).(*flight); ok {
		d.Timeout = f.route.Settings.Connect
	}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, dialError{err}
	}
	return c, nil
}

// rewrite makes of a request what backends see of it.
func rewrite(p *httputil.ProxyRequest) {
	f := p.In.Context().Value(flightKey{}).(*flight)
	set := &f.route.Settings
	p.Out.URL.RawQuery = p.In.URL.RawQuery // as it came: what it means is the backend's to say
	if set.Rewrite != "" {
		p.Out.URL.Path, p.Out.URL.RawPath = f.route.Rewritten(p.In.URL.Path), ""
	}
	if p.Out.Host = p.In.Host; set.Host != "" {
		p.Out.Host = set.Host
	}
	believed := f.trusted()
	clean(p.Out.Header, believed)
	if believed {
		p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
	}
	p.SetXForwarded()
	scheme, port := f.scheme(), f.server.opts.HTTP
	if scheme == "https" {
		port = f.server.opts.HTTPS
	}
	h := p.Out.Header
	h.Set("X-Forwarded-Proto", scheme)
	h.Set("X-Forwarded-Port", strconv.Itoa(int(port)))
	first := f.client.Addr().Unmap().String()
	if believed {
		for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Port"} {
			if v := p.In.Header.Get(name); v != "" {
				h.Set(name, v)
			}
		}
		if v, _, _ := strings.Cut(p.In.Header.Get("X-Forwarded-For"), ","); strings.TrimSpace(v) != "" {
			first = strings.TrimSpace(v)
		}
	}
	h.Set("X-Real-Ip", first)
}

// clean takes from a request's header what backends might take for this server's own words: what a client that is not believed says of
// itself, also with _ for -, which many read as the same; and the wish to speak HTTP/2 in the clear from here on, by which further
// requests would come to the backend that no route has let through.
func clean(h http.Header, believed bool) {
	maps.DeleteFunc(h, func(name string, _ []string) bool {
		return ofClient(name) && (!believed || strings.Contains(name, "_"))
	})
	if strings.Contains(strings.ToLower(h.Get("Upgrade")), "h2c") {
		for _, name := range []string{"Connection", "Upgrade", "Http2-Settings"} {
			h.Del(name)
		}
	}
}

// ofClient says that a header is one in which proxies tell of the client.
func ofClient(name string) bool {
	switch name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")); name {
	case "Forwarded", "X-Real-Ip", "X-Scheme":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-")
}

// RoundTrip asks an endpoint, and another one where that could not be reached, or went away before it has answered a request that may be
// made twice.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	f := r.Context().Value(flightKey{}).(*flight)
	bare := r.Body == nil || r.Body == http.NoBody
	if !bare {
		r.Body = &sent{ReadCloser: r.Body, flight: f}
	}
	backend, start := &f.route.Backend, s.next.Add(1)
	var tried []string
	for {
		at := s.pick(backend.Endpoints, start, tried)
		if at == "" {
			return nil, errors.New("no endpoint is left to ask")
		}
		tried = append(tried, at)
		f.endpoint = at
		p := s.pools[backend.Protocol]
		try := new(http.Request)
		*try = *r
		to := *r.URL
		to.Scheme, to.Host = p.scheme, at
		try.URL = &to
		answer, err := p.RoundTrip(try)
		if err == nil {
			return answer, nil
		}
		var unreached dialError
		dialed := !errors.As(err, &unreached)
		if !dialed && f.Err() == nil {
			s.failed.Store(at, time.Now())
		}
		if f.Err() != nil || len(tried) == maxTries || dialed && (!bare || !idempotent(r.Method)) {
			return nil, err
		}
		if backend = s.others(f, tried); backend == nil {
			return nil, err
		}
		s.metrics.retries.Inc()
	}
}

// others is the backend with an endpoint that was not tried yet. The newest may be on its way here while those of before are gone: it is
// waited for a moment. Nil: there is none.
func (s *Server) others(f *flight, tried []string) *routes.Backend {
	for waited := time.Duration(0); ; waited += otherPause {
		now := s.table.Load().Match(f.request.Host, f.request.URL.Path)
		if now != nil && now.Ingress == f.route.Ingress && s.pick(now.Backend.Endpoints, 0, tried) != "" {
			return &now.Backend
		}
		if waited >= otherTime || !sleep.For(f, otherPause) {
			return nil
		}
	}
}

// pick is the endpoint whose turn it is: of those that were not tried one that could be reached, else any. Empty: none is left.
func (s *Server) pick(all []string, start uint32, tried []string) string {
	later := ""
	for n := range all {
		at := all[(uint64(start)+uint64(n))%uint64(len(all))]
		if slices.Contains(tried, at) {
			continue
		}
		if when, failed := s.failed.Load(at); failed {
			if time.Since(when.(time.Time)) < asideTime {
				if later == "" {
					later = at
				}
				continue
			}
			s.failed.Delete(at)
		}
		return at
	}
	return later
}

// idempotent methods may be asked for twice (RFC 9110, 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// answered looks after an answer: that it goes on, and what browsers are told.
func answered(a *http.Response) error {
	f := a.Request.Context().Value(flightKey{}).(*flight)
	if c := f.route.Settings.CORS; c != nil {
		allowOrigin(a.Header, c, f.request.Header.Get("Origin"))
	}
	if both, ok := a.Body.(io.ReadWriteCloser); ok && a.StatusCode == http.StatusSwitchingProtocols {
		a.Body = &tunnel{both, f}
	} else {
		a.Body = &received{a.Body, f}
	}
	f.heard()
	return nil
}

// refused answers what no backend has.
func refused(w http.ResponseWriter, r *http.Request, err error) {
	f := r.Context().Value(flightKey{}).(*flight)
	f.err = err
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		fail(w, http.StatusRequestEntityTooLarge)
	case errors.Is(context.Cause(f), errSilent), isTimeout(err):
		fail(w, http.StatusGatewayTimeout)
	case f.request.Context().Err() != nil:
		f.code = clientClosed // nobody is there to be told
	default:
		fail(w, http.StatusBadGateway)
	}
}

// clientClosed is nginx's code for a client that went away.
const clientClosed = 499

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// buffers are those that answers pass through.
type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.Pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.Pool.Put(&p) }

// flightKey is the key of a flight in its own context.
type flightKey struct{}

// flight is one request under way: the context of what is done for it, and where its answer goes.
type flight struct {
	context.Context
	server   *Server
	cancel   context.CancelCauseFunc
	request  *http.Request
	writer   http.ResponseWriter
	client   netip.AddrPort
	route    *routes.Route
	began    time.Time
	timer    *time.Timer
	endpoint string
	err      error
	code     int
	bytes    int64
}

// Value has the flight itself, and what its context has.
func (f *flight) Value(key any) any {
	if _, ok := key.(flightKey); ok {
		return f
	}
	return f.Context.Value(key)
}

func (f *flight) silent() { f.cancel(errSilent) }

// heard says that the backend goes on.
func (f *flight) heard() { f.timer.Reset(f.route.Settings.Read) }

// Header is that of the answer.
func (f *flight) Header() http.Header { return f.writer.Header() }

// WriteHeader notes the code of the answer.
func (f *flight) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		f.code = code
	}
	f.writer.WriteHeader(code)
}

// Write counts what is written.
func (f *flight) Write(p []byte) (int, error) {
	if f.code == 0 {
		f.code = http.StatusOK
	}
	n, err := f.writer.Write(p)
	f.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (f *flight) Unwrap() http.ResponseWriter { return f.writer }

// sent is a request's body. Closing it is whoever's who serves: another endpoint may be sent it.
type sent struct {
	io.ReadCloser
	flight *flight
}

func (s *sent) Read(p []byte) (int, error) {
	s.flight.timer.Reset(s.flight.route.Settings.Send)
	n, err := s.ReadCloser.Read(p)
	s.flight.heard()
	return n, err
}

func (*sent) Close() error { return nil }

// received is an answer's body.
type received struct {
	io.ReadCloser
	flight *flight
}

func (r *received) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.flight.heard()
	return n, err
}

// tunnel is a connection that has become something else, as a WebSocket.
type tunnel struct {
	io.ReadWriteCloser
	flight *flight
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	t.flight.heard()
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Write(p)
	t.flight.heard()
	return n, err
}
