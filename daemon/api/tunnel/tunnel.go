// Package tunnel reaches node agents over the connections that they opened to the API server.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Protocol is what an agent asks to upgrade its connection to, `GET /lockstep/v1/tunnel`. After the answer 101 the API
// server speaks HTTP/2 as a client on the connection, and the agent serves it.
const Protocol = "lockstep-tunnel"

const (
	// pingAfter and pingTimeout are how a connection whose other end is gone, or cut off, is noticed: within ten seconds, in which
	// the agent may have another one to another server. It costs nothing where the agent is there: that asks each 5 s of silence.
	pingAfter   = 6 * time.Second
	pingTimeout = 4 * time.Second
	// setupTimeout bounds the beginning of HTTP/2 on a connection that was just opened.
	setupTimeout = 10 * time.Second
)

// Pool has the connections of the agents. The zero value is ready to use, and safe for concurrent use.
type Pool struct {
	mu    sync.Mutex
	nodes map[string]*agent
	close bool
}

// agent is a node's connection.
type agent struct {
	conn  *http.ClientConn
	raw   net.Conn
	since time.Time // when it was opened
	once  sync.Once
	ended chan struct{}
}

// Accept answers the request of a node's agent for a tunnel and takes its connection over. A connection that the node
// has already is closed: its agent opens a new one only when the old one is of no use to it. Node is the name in the
// certificate that was verified. It returns when the tunnel has ended; the end of the request's context ends it.
func (p *Pool) Accept(w http.ResponseWriter, r *http.Request, node string) {
	if node == "" || !strings.EqualFold(r.Header.Get("Upgrade"), Protocol) {
		w.Header().Set("Upgrade", Protocol)
		w.Header().Set("Connection", "Upgrade")
		http.Error(w, "only a node's agent may open a tunnel here", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "cannot open a tunnel on this connection: "+err.Error(), http.StatusBadRequest)
		return
	}
	a, err := p.begin(r.Context(), conn, buffered.Reader.Buffered(), node)
	if err != nil {
		conn.Close()
		return
	}
	select {
	case <-a.ended:
	case <-r.Context().Done():
		a.end()
	}
}

func (p *Pool) begin(ctx context.Context, conn net.Conn, early int, node string) (*agent, error) {
	if early > 0 {
		return nil, errors.New("the agent spoke first")
	}
	_ = conn.SetDeadline(time.Now().Add(setupTimeout))
	_, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", Protocol)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	client, err := newTransport(conn).NewClientConn(ctx, "http", net.JoinHostPort(node, "80"))
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	a := &agent{conn: client, raw: conn, since: time.Now(), ended: make(chan struct{})}
	if !p.put(node, a) {
		client.Close()
		return nil, errors.New("the pool is closed")
	}
	return a, nil
}

// newTransport makes a client whose only connection is conn.
func newTransport(conn net.Conn) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // the connection has its TLS already
	var taken atomic.Bool
	return &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errors.New("the tunnel is closed")
			}
			return conn, nil
		},
	}
}

// put makes the connection the node's. It returns false when the pool is closed.
func (p *Pool) put(node string, a *agent) bool {
	p.mu.Lock()
	if p.close {
		p.mu.Unlock()
		return false
	}
	if p.nodes == nil {
		p.nodes = map[string]*agent{}
	}
	before := p.nodes[node]
	p.nodes[node] = a
	p.mu.Unlock()
	before.end()
	a.conn.SetStateHook(func(c *http.ClientConn) {
		if c.Err() != nil {
			p.drop(node, a)
			a.over()
		}
	})
	return true
}

// drop forgets a connection that has ended.
func (p *Pool) drop(node string, a *agent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.nodes[node] == a {
		delete(p.nodes, node)
	}
}

// end closes the connection, also under requests that are being answered.
func (a *agent) end() {
	if a == nil {
		return
	}
	a.raw.Close()
	a.conn.Close()
	a.over()
}

// over lets Accept return.
func (a *agent) over() { a.once.Do(func() { close(a.ended) }) }

// Transport sends requests to the agent of a node; nil when the node has no connection here. The requests' scheme and
// host are of no matter. A connection that ends fails its requests; a later Transport has the next one.
func (p *Pool) Transport(node string) http.RoundTripper {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.nodes[node]
	if a == nil || a.conn.Err() != nil {
		return nil
	}
	return a
}

// RoundTrip implements http.RoundTripper.
func (a *agent) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "http" {
		r = r.Clone(r.Context())
		r.URL.Scheme = "http"
	}
	return a.conn.RoundTrip(r)
}

// Since has the nodes that have a connection here, with when each opened it.
func (p *Pool) Since() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	nodes := make(map[string]time.Time, len(p.nodes))
	for node, a := range p.nodes {
		if a.conn.Err() == nil {
			nodes[node] = a.since
		}
	}
	return nodes
}

// Close closes all connections and refuses new ones.
func (p *Pool) Close() {
	p.mu.Lock()
	nodes := p.nodes
	p.nodes, p.close = nil, true
	p.mu.Unlock()
	for _, a := range nodes {
		a.end()
	}
}
