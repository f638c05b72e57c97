package register

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"lockstep/nodeagent/servers"
	"lockstep/proxy"
)

const (
	// pingAfter and pingTimeout end a connection that leads nowhere within 9 s:
	// the kernel would send into it for many minutes, at intervals that double,
	// and notice late that the network is back.
	pingAfter   = 5 * time.Second
	pingTimeout = 4 * time.Second
	// dialTimeout is short for the same reason: SYNs are sent at once, after 1 s,
	// and then at intervals that double.
	dialTimeout      = 3 * time.Second
	handshakeTimeout = 5 * time.Second
	// linkRetry is how often somebody asks whether the server is there again.
	linkRetry = 500 * time.Millisecond
	// maxReady bounds what is read of why a server is not ready: a line for each of its checks.
	maxReady = 4 << 10
)

// Link is how a node that has joined reaches the API: connections that are soon
// noticed to be dead, and requests that wait while the server is out of reach.
//
// Lists and watches have no deadline. Whoever makes them backs off after each
// failure, up to a minute; therefore they do not fail while there is no
// connection, but are sent as soon as any request has been answered again.
// Requests with a deadline fail at once.
type Link struct {
	// Heard, where set, is told of every answer before its body is read. It is set before the link is used.
	Heard func(*http.Response)
	// Servers, where set, say which server requests go to, whichever they name, and are told of requests that found no answer. It
	// is set before the link is used. Nil: all go to the identity's.
	Servers *servers.Servers

	id        Identity
	transport *http.Transport // by mu; see Trust
	dialer    *connrotation.Dialer
	pings     http.HTTP2Config
	asking    chan struct{} // has room while nobody asks for all who wait

	mu       sync.Mutex
	answered chan struct{} // closed by the next answer
}

// Link makes no connection yet.
func (i Identity) Link() (*Link, error) { return i.link(pingAfter, pingTimeout) }

func (i Identity) link(pingAfter, pingTimeout time.Duration) (*Link, error) {
	l := &Link{id: i, asking: make(chan struct{}, 1), answered: make(chan struct{}),
		dialer: connrotation.NewDialer(direct()), pings: http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}}
	return l, l.Trust()
}

// Trust has new connections trust what the node's files say now, and ends those that there are; see Reset.
func (l *Link) Trust() error {
	conf, err := l.id.TLS()
	if err != nil {
		return err
	}
	next := &http.Transport{
		DialContext: l.dialer.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: handshakeTimeout, ForceAttemptHTTP2: true,
		IdleConnTimeout: 90 * time.Second, // Go's default
		HTTP2:           &l.pings,
	}
	l.mu.Lock()
	was := l.transport
	l.transport = next
	l.mu.Unlock()
	if was != nil {
		was.CloseIdleConnections()
		l.dialer.CloseAll()
	}
	return nil
}

// by is what requests are sent by now.
func (l *Link) by() *http.Transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.transport
}

// direct dials the API past all services' rules: they must not decide whether the node learns of their change.
func direct() func(ctx context.Context, network, address string) (net.Conn, error) {
	return proxy.Direct(&net.Dialer{Timeout: dialTimeout}).DialContext
}

// Config is for clients that use the link.
func (l *Link) Config() *rest.Config {
	return &rest.Config{
		Host: l.id.Server, Transport: l,
		ContentConfig: rest.ContentConfig{
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
			ContentType:        "application/json",
		},
		UserAgent: "lockstep-agent/" + l.id.Node,
		// One agent's writes are coalesced before they get here; the client's
		// default of 5 requests a second would make a node of 50 pods wait.
		QPS: 200, Burst: 400,
	}
}

// Reset ends all connections, so that the next ones use the node's newest certificate. Those that nobody uses the transport
// forgets at once: it would give one that has just been closed to the next request.
func (l *Link) Reset() {
	l.by().CloseIdleConnections()
	l.dialer.CloseAll()
}

// RoundTrip implements http.RoundTripper.
func (l *Link) RoundTrip(req *http.Request) (*http.Response, error) {
	_, hurries := req.Context().Deadline()
	asks := false // of all who wait, one asks for the others
	for {
		answered := l.Answered()
		server := l.server()
		res, err := l.by().RoundTrip(to(server, req))
		if asks {
			<-l.asking
		}
		if err == nil {
			l.tell()
			if l.Heard != nil {
				l.Heard(res)
			}
			return res, nil
		}
		if l.Servers != nil && req.Context().Err() == nil {
			l.Servers.Failed(server)
		}
		if hurries || req.Method != http.MethodGet {
			return nil, err
		}
		var retry <-chan time.Time
		select {
		case <-req.Context().Done():
			return nil, err
		case <-answered:
			asks = false
			continue
		case l.asking <- struct{}{}:
			asks, retry = true, time.After(linkRetry)
		}
		select {
		case <-req.Context().Done():
			<-l.asking
			return nil, err
		case <-answered:
		case <-retry:
		}
	}
}

// server is the one that requests go to now.
func (l *Link) server() string {
	if l.Servers == nil {
		return l.id.Server
	}
	return l.Servers.Current()
}

// to is a request as it goes to a server.
func to(server string, req *http.Request) *http.Request {
	u, err := url.Parse(server)
	if err != nil || u.Host == req.URL.Host {
		return req
	}
	out := *req
	address := *req.URL
	address.Host = u.Host
	out.URL, out.Host = &address, ""
	return &out
}

// readyPath is where a server says whether it serves.
const readyPath = "/readyz"

// Held implements servers.Prober.
func (l *Link) Held(ctx context.Context) error { return ready(ctx, l.by(), l.server()) }

// Anew implements servers.Prober. The server is not told whose the question is: the answer is for everybody.
func (l *Link) Anew(ctx context.Context, server string) error {
	conf := l.by().TLSClientConfig.Clone()
	conf.GetClientCertificate = nil
	conf.NextProtos = []string{"http/1.1"} // the link's transport has set its own, HTTP/2
	once := &http.Transport{DialContext: direct(), TLSClientConfig: conf, TLSHandshakeTimeout: handshakeTimeout, DisableKeepAlives: true}
	defer once.CloseIdleConnections()
	return ready(ctx, once, server)
}

// Moved implements servers.Prober: who waits for an answer asks the new server.
func (l *Link) Moved(_, _ string) {
	l.Reset()
	l.tell()
}

func ready(ctx context.Context, by http.RoundTripper, server string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+readyPath, nil)
	if err != nil {
		return err
	}
	res, err := by.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxReady))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%w: %s", servers.ErrAnswered, strings.TrimSpace(string(text)))
	}
	return err
}

// Answered returns a channel that is closed by the next answer, to whomever.
func (l *Link) Answered() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}

// Unanswered says that a request of a client failed because no server was reached, or none answered.
func Unanswered(err error) bool {
	var transport *url.Error
	return errors.As(err, &transport)
}

func (l *Link) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.answered)
	l.answered = make(chan struct{})
}
