package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// listenRetry is the pause before a port is asked for again that somebody else has.
	listenRetry = 2 * time.Second
	// headerTime is how long a client may take for a request's header, idleTime how long it may leave a connection without one: nginx's.
	headerTime, idleTime = time.Minute, 75 * time.Second
	// maxHeader is what nginx takes of a request's header.
	maxHeader = 32 << 10
	// drainTime is how long requests may go on when the agent stops, or nothing is to be served any more.
	drainTime = 5 * time.Second
)

// door listens at a port while there is something to serve.
type door struct {
	server *Server
	port   uint16
	secure bool
	wake   chan struct{}

	mu     sync.Mutex
	wanted bool
	why    string // it cannot listen
}

func newDoor(s *Server, port uint16, secure bool) *door {
	return &door{server: s, port: port, secure: secure, wake: make(chan struct{}, 1)}
}

// open says whether it is to listen.
func (d *door) open(wanted bool) {
	d.mu.Lock()
	changed := d.wanted != wanted
	d.wanted = wanted
	d.mu.Unlock()
	if changed {
		nudge(d.wake)
	}
}

func (d *door) isWanted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wanted
}

func (d *door) trouble() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why
}

// tell notes why it cannot listen; empty: it can. What is new is logged once.
func (d *door) tell(why string) {
	d.mu.Lock()
	changed := d.why != why
	d.why = why
	d.mu.Unlock()
	if !changed {
		return
	}
	if why != "" {
		d.server.opts.Log.Warn("cannot serve ingress, trying again", "error", why)
	}
	if d.server.opts.Changed != nil {
		d.server.opts.Changed()
	}
}

// run returns when ctx has ended and what it served has come to an end.
func (d *door) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !d.isWanted() {
			d.tell("")
			select {
			case <-ctx.Done():
			case <-d.wake:
			}
			continue
		}
		listeners, err := d.listen(ctx)
		if err != nil {
			d.tell(portInUse(d.port, err))
			select {
			case <-ctx.Done():
			case <-d.wake:
			case <-time.After(listenRetry):
			}
			continue
		}
		d.tell("")
		if err := d.serve(ctx, listeners); err != nil && ctx.Err() == nil {
			d.tell(portInUse(d.port, err))
		}
	}
}

func (d *door) listen(ctx context.Context) (out []net.Listener, err error) {
	addresses := d.server.opts.Addresses
	if len(addresses) == 0 {
		addresses = []netip.Addr{{}}
	}
	for _, a := range addresses {
		at := ":" + strconv.Itoa(int(d.port))
		if a.IsValid() {
			at = netip.AddrPortFrom(a, d.port).String()
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
		if err != nil {
			for _, l := range out {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// serve serves at listeners until ctx ends or nothing is to be served any more, and lets go then.
func (d *door) serve(ctx context.Context, listeners []net.Listener) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	if d.secure {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	h := &http.Server{
		Handler: d.server, Protocols: protocols, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // what clients do wrong is theirs to know
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: d.server.certificate},
	}
	g, running := errgroup.WithContext(ctx)
	for _, l := range listeners {
		l = bounded{l, make(chan struct{}, maxConnections)}
		if len(d.server.opts.Proxied) > 0 {
			l = proxied{l, d.server.opts.Proxied}
		}
		g.Go(func() error {
			if d.secure {
				return h.ServeTLS(l, "", "")
			}
			return h.Serve(l)
		})
	}
	g.Go(func() error {
		for running.Err() == nil && d.isWanted() {
			select {
			case <-running.Done():
			case <-d.wake:
			}
		}
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if h.Shutdown(end) != nil {
			return h.Close()
		}
		return nil
	})
	if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bounded takes no more connections at once than its channel has room for.
type bounded struct {
	net.Listener
	room chan struct{}
}

func (b bounded) Accept() (net.Conn, error) {
	b.room <- struct{}{}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.room
		return nil, err
	}
	return &counted{Conn: c, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
