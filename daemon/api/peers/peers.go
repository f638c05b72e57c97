// Package peers reaches agents that have their connection to another server of the cluster.
package peers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"lockstep/daemon/api/tunnel"
	"lockstep/daemon/rights"
)

const (
	// nodesPath lists the nodes that a server has connections of, and agentPath is before a node's name and a path of its agent's.
	nodesPath, agentPath = rights.PeersPath + "nodes", rights.PeersPath + "agents/"
	// authorityPath has the CA that is to be the cluster's.
	authorityPath = rights.PeersPath + "authority"
	// maxAuthority bounds it: a key and a certificate.
	maxAuthority = 64 << 10

	// forwardHeader of an answer says that it is the server's and not the agent's, and why there is none: noAgent or failed.
	forwardHeader   = "Lockstep-Forward"
	noAgent, failed = "none", "failed"

	// listTimeout bounds asking a server for its nodes: who waits is somebody who reads a log.
	listTimeout = 1500 * time.Millisecond
	// listLasts is how long a list is believed of a node that it has. One that has gone is refused there, and looked for anew; a server
	// that was cut off refuses nothing.
	listLasts = 2 * time.Second
	// listAgain is the least time between two lists for the sake of nodes that are in none: some ask for many of them.
	listAgain = time.Second
	// maxList bounds a list: some hundred bytes a node of 5,000.
	maxList = 4 << 20
	// pingAfter and pingTimeout end a connection to a server that is gone or cut off: there are few, and who waits is somebody who reads.
	pingAfter   = time.Second
	pingTimeout = time.Second
	dialTimeout = 2 * time.Second
	// idle is for how long a connection that nobody uses is kept.
	idle = 90 * time.Second
	// maxReason bounds what is read of why a server did not forward a request.
	maxReason = 4 << 10
)

// Server is another server of the cluster.
type Server struct {
	Name string
	// Address is host:port of its API.
	Address string
}

// Options of a server's peers; all are required.
type Options struct {
	// Own has the connections that this server has.
	Own *tunnel.Pool
	// Others returns the servers that run besides this one.
	Others func() []Server
	// Authority gives other servers the CA that is to be the cluster's, with its key.
	Authority func() ([]byte, error)
	// TLS is how this server shows others who it is, and knows them.
	TLS *tls.Config
	Log *slog.Logger
}

// listed is what a server said of the nodes that it has.
type listed struct {
	ages map[string]float64 // seconds since each opened its connection
	at   time.Time          // when it was asked
	err  error
}

// Peers reach the agents of all servers. Any number of goroutines may use them.
type Peers struct {
	opts      Options
	transport *http.Transport

	mu    sync.Mutex // held while servers are asked
	lists map[string]listed
}

// New makes no connection yet.
func New(o Options) *Peers {
	return &Peers{opts: o, lists: map[string]listed{}, transport: &http.Transport{
		DialContext:     (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig: o.TLS, TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true, DisableCompression: true,
		IdleConnTimeout: idle, // an answer may be long in coming: a followed log has nothing to say before its first line
		HTTP2:           &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}}
}

// Close ends the connections that nobody uses.
func (p *Peers) Close() { p.transport.CloseIdleConnections() }

// Accept takes the connection of an agent over; see tunnel.Pool.
func (p *Peers) Accept(w http.ResponseWriter, r *http.Request, node string) {
	p.opts.Own.Accept(w, r, node)
}

// Transport sends requests to the agent of a node: over its own connection to this server, or through the server that has it. It is nil
// where the node has none here and there is no other server. The error of a request that no server has an agent for is an Unreached.
func (p *Peers) Transport(node string) http.RoundTripper {
	own := p.opts.Own.Transport(node)
	switch {
	case len(p.opts.Others()) == 0:
		return own
	case own == nil:
		return far{p, node}
	default:
		return near{own, far{p, node}}
	}
}

// DialController reaches the controller service of a CSI driver through the agent of a node; see tunnel.DialController.
func (p *Peers) DialController(ctx context.Context, node, driver string) (net.Conn, error) {
	return tunnel.DialController(ctx, p.Transport(node), node, driver)
}

// Unreached says that no server reaches the agent of a node.
type Unreached struct {
	Node string
	// Silent are the servers that run and did not say which nodes they have, with why.
	Silent []string
}

// Error implements error.
func (u *Unreached) Error() string {
	text := "the agent of node " + u.Node + " has no connection to any server"
	if len(u.Silent) > 0 {
		text += " that answers (" + strings.Join(u.Silent, "; ") + ")"
	}
	return text
}

// near is the agent of a node that has a connection here, which may end: the agent is at another server then, or soon will be.
type near struct {
	own http.RoundTripper
	far far
}

// RoundTrip implements http.RoundTripper. A request with a body is sent once.
func (n near) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := n.own.RoundTrip(r)
	if err == nil || !bodiless(r) || r.Context().Err() != nil {
		return res, err
	}
	return n.far.RoundTrip(r)
}

// bodiless says whether a request may be sent again.
func bodiless(r *http.Request) bool { return r.Body == nil || r.Body == http.NoBody }

// far is the agent of a node that has no connection here.
type far struct {
	peers *Peers
	node  string
}

// RoundTrip implements http.RoundTripper. A request with a body is sent once: to the server that has the node by what all say now.
func (f far) RoundTrip(r *http.Request) (*http.Response, error) {
	whole := bodiless(r)
	for fresh := !whole; ; fresh = true {
		server, err := f.peers.find(r.Context(), f.node, fresh)
		if err != nil {
			return nil, err
		}
		res, err := f.peers.transport.RoundTrip(f.to(server, r))
		switch {
		case err != nil:
			err = fmt.Errorf("cannot reach the agent of node %s through server %s: %w", f.node, server.Name, err)
		case res.Header.Get(forwardHeader) == "":
			return res, nil
		default:
			reason, _ := io.ReadAll(io.LimitReader(res.Body, maxReason))
			res.Body.Close()
			err = fmt.Errorf("cannot reach the agent of node %s through server %s: %s", f.node, server.Name,
				strings.TrimSpace(string(reason)))
			if res.Header.Get(forwardHeader) == noAgent && !fresh {
				continue // it has moved since
			}
		}
		if whole && !fresh && r.Context().Err() == nil {
			continue
		}
		return nil, err
	}
}

// to is a request as it goes to the server that has the node.
func (f far) to(server Server, r *http.Request) *http.Request {
	out := r.Clone(r.Context())
	out.URL = &url.URL{
		Scheme: "https", Host: server.Address, Path: agentPath + f.node + r.URL.Path, RawPath: "", RawQuery: r.URL.RawQuery,
	}
	if r.URL.RawPath != "" {
		out.URL.RawPath = agentPath + f.node + r.URL.RawPath
	}
	out.Host, out.RequestURI = "", ""
	return out
}

// find is the server that has a node: by lists that are not old, or, fresh, by what servers say now. Of several, one of which has not
// noticed that its connection is dead, it is the one with the newest.
func (p *Peers) find(ctx context.Context, node string, fresh bool) (Server, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	others := p.opts.Others()
	now := time.Now()
	if server, ok := p.has(node, others, now.Add(-listLasts)); ok && !fresh {
		return server, nil
	}
	p.list(ctx, others, now)
	if server, ok := p.has(node, others, time.Time{}); ok {
		return server, nil
	}
	if err := ctx.Err(); err != nil {
		return Server{}, err
	}
	u := &Unreached{Node: node}
	for _, s := range others {
		if err := p.lists[s.Name].err; err != nil {
			u.Silent = append(u.Silent, s.Name+": "+err.Error())
		}
	}
	return Server{}, u
}

// has finds the server with the newest connection of a node in lists that are not older than since; p.mu is held.
func (p *Peers) has(node string, others []Server, since time.Time) (found Server, ok bool) {
	newest := 0.0
	for _, s := range others {
		l := p.lists[s.Name]
		if age, has := l.ages[node]; has && !l.at.Before(since) && (!ok || age < newest) {
			found, newest, ok = s, age, true
		}
	}
	return found, ok
}

// list asks the servers that were not asked a moment ago, all at once; p.mu is held.
func (p *Peers) list(ctx context.Context, others []Server, now time.Time) {
	asked := make([]listed, len(others))
	var all sync.WaitGroup
	for i, s := range others {
		if last := p.lists[s.Name]; now.Sub(last.at) < listAgain {
			asked[i] = last
			continue
		}
		all.Go(func() { asked[i] = p.ask(ctx, s, now) })
	}
	all.Wait()
	clear(p.lists)
	for i, s := range others {
		p.lists[s.Name] = asked[i]
		if err := asked[i].err; err != nil && asked[i].at.Equal(now) {
			p.opts.Log.Debug("a server does not say which nodes it has", "server", s.Name, "error", err)
		}
	}
}

// ask asks one server which nodes it has.
func (p *Peers) ask(ctx context.Context, s Server, now time.Time) listed {
	out := listed{at: now, ages: map[string]float64{}}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.Address+nodesPath, nil)
	if err != nil {
		out.err = err
		return out
	}
	res, err := p.transport.RoundTrip(r)
	if err != nil {
		out.err = reason(err)
		return out
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxList))
	switch {
	case err != nil:
		out.err = reason(err)
	case res.StatusCode != http.StatusOK:
		out.err = fmt.Errorf("it answers %s", res.Status)
	default:
		out.err = json.Unmarshal(body, &out.ages)
	}
	return out
}

// Authority gets the CA that is to be the cluster's, with its key, from the first server that gives it.
func (p *Peers) Authority(ctx context.Context) ([]byte, error) {
	errs := []error{errors.New("no other server runs that could give the new CA")}
	for i, s := range p.opts.Others() {
		if i == 0 {
			errs = nil
		}
		bundle, err := p.authority(ctx, s)
		if err == nil {
			return bundle, nil
		}
		errs = append(errs, fmt.Errorf("server %s does not give the new CA: %w", s.Name, reason(err)))
	}
	return nil, errors.Join(errs...)
}

func (p *Peers) authority(ctx context.Context, s Server) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.Address+authorityPath, nil)
	if err != nil {
		return nil, err
	}
	res, err := p.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", res.Status)
	}
	return io.ReadAll(io.LimitReader(res.Body, maxAuthority))
}

// reason is an error in words for who reads a log.
func reason(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("it does not answer")
	}
	return err
}
