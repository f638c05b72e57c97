// Package ingress serves Ingresses on a node: HTTP and HTTPS, straight to the pods.
package ingress

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"lockstep/internal/sleep"
	"lockstep/kinds/ingress"
	"lockstep/nodeagent/ingress/routes"
)

const (
	// DefaultHTTP and DefaultHTTPS are the ports of the protocols (RFC 9110).
	DefaultHTTP, DefaultHTTPS = 80, 443
	// compileShare bounds compiling to a part of the time, whatever there is to compile.
	compileShare = 4
	// maxConnections bounds those of clients, for each port: with what HTTP/2 buffers for each they are some 200 MiB, and further ones
	// wait in the kernel.
	maxConnections = 8192
)

// Options are what a Server needs.
type Options struct {
	// State is what there is to serve, as it is now; Certificates are left out of it. It wakes whoever has Wake. Both are required.
	State func() routes.Input
	Wake  <-chan struct{}
	// Secrets are where certificates come from; required.
	Secrets Secrets
	// HTTP and HTTPS are the ports; DefaultHTTP and DefaultHTTPS if zero. Addresses to listen at; all if empty.
	HTTP, HTTPS uint16
	Addresses   []netip.Addr
	// Trusted are proxies in front, whose X-Forwarded headers are believed. Proxied are those whose connections begin with a header of
	// the PROXY protocol.
	Trusted, Proxied []netip.Prefix
	// AccessLog is a file that gets a line of JSON for each request; empty: none does.
	AccessLog string
	// Changed is told that Trouble may say something else; nil: nobody.
	Changed func()
	// Log and Registerer are required.
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Server serves what Options.State has. New makes it, Run runs it once.
type Server struct {
	opts    Options
	metrics *metrics
	access  *slog.Logger // nil: nothing is logged
	certs   *certificates
	doors   []*door
	forward *httputil.ReverseProxy
	pools   map[ingress.Protocol]*pool

	table   atomic.Pointer[routes.Table]
	next    atomic.Uint32  // whose turn it is among endpoints
	failed  sync.Map       // when a connection to an endpoint could last not be made, by its address
	flights sync.WaitGroup // requests under way

	fake func() (*tls.Certificate, error)
}

// New starts nothing.
func New(o Options) *Server {
	o.HTTP, o.HTTPS = cmp.Or(o.HTTP, DefaultHTTP), cmp.Or(o.HTTPS, DefaultHTTPS)
	s := &Server{opts: o, metrics: newMetrics(o.Registerer), fake: sync.OnceValues(selfSigned)}
	s.certs = newCertificates(o.Secrets)
	s.doors = []*door{newDoor(s, o.HTTP, false), newDoor(s, o.HTTPS, true)}
	s.table.Store(&routes.Table{})
	s.makeForward()
	return s
}

// Trouble is why not all is served; empty: nothing is known.
func (s *Server) Trouble() string {
	var out []string
	for _, d := range s.doors {
		if t := d.trouble(); t != "" {
			out = append(out, t)
		}
	}
	return strings.Join(out, "; ")
}

// Ports says where it listens, when there is something to serve.
func (s *Server) Ports() (http, https uint16) { return s.opts.HTTP, s.opts.HTTPS }

// SecretChanged has a certificate looked at again.
func (s *Server) SecretChanged(namespace, name string) { s.certs.poke(namespace + "/" + name) }

// Run serves until ctx ends, then lets requests under way come to their end for a while.
func (s *Server) Run(ctx context.Context) error {
	end := s.openAccessLog()
	defer end()
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { s.certs.run(running); return nil })
	g.Go(func() error { s.follow(running); return nil })
	for _, d := range s.doors {
		g.Go(func() error { d.run(running); return nil })
	}
	err := g.Wait()
	s.flights.Wait()
	for _, p := range s.pools {
		p.CloseIdleConnections()
	}
	return err
}

// follow compiles what there is to serve whenever it changes.
func (s *Server) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.opts.Wake:
		case <-s.certs.changed:
		}
		began := time.Now()
		s.compile(ctx)
		took := time.Since(began)
		s.metrics.compiled.Observe(took.Seconds())
		sleep.For(ctx, took*compileShare)
	}
}

func (s *Server) compile(ctx context.Context) {
	in := s.opts.State()
	var wanted []string
	for _, i := range in.Ingresses {
		for _, name := range ingress.Secrets(i) {
			wanted = append(wanted, i.Namespace+"/"+name)
		}
	}
	in.Certificates = s.certs.want(ctx, wanted)
	t := routes.Compile(in)
	s.table.Store(t)
	for _, d := range s.doors {
		d.open(!t.Empty())
	}
	s.metrics.keep(in.Ingresses)
}

// certificate is that of the host that a client asks for. Where there is none, it is one that no client trusts, as with ingress-nginx:
// what is served without TLS of its own can be reached all the same.
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.table.Load().Certificate(hello.ServerName); c != nil {
		return c, nil
	}
	return s.fake()
}

// within says that an address is in one of some networks.
func within(all []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) })
}

func portInUse(port uint16, err error) string {
	return fmt.Sprintf("cannot listen at port %d: %v", port, err)
}
