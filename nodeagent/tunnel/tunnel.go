// Package tunnel serves the agent's HTTP over a connection that the agent opens to an API server.
package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"lockstep/proxy"
)

const (
	// path and protocol are the API server's; see daemon/api/tunnel.
	path     = "/lockstep/v1/tunnel"
	protocol = "lockstep-tunnel"

	// maxStreams bounds the requests at a time: followers of logs, mostly. More are refused by HTTP/2 itself.
	maxStreams = 250
	// pingAfter and pingTimeout find a server that is gone or cut off within ten seconds.
	pingAfter   = 5 * time.Second
	pingTimeout = 5 * time.Second
	// dialTimeout bounds dialling: who waits longer for a server that was out of reach asks it at intervals that double.
	dialTimeout = 5 * time.Second
	// openTimeout bounds dialling and the upgrade.
	openTimeout = 15 * time.Second
	// firstWait doubles up to lastWait between attempts to open a tunnel. The first is short: a server that restarts
	// is back soon, and until then no log can be read.
	firstWait = 100 * time.Millisecond
	lastWait  = 2 * time.Second
	// settled is how long a connection must have held for the next attempt to begin with firstWait again.
	settled = 10 * time.Second
)

// Line opens TLS connections to the API server that is in use, one after the other.
type Line struct {
	config func() (*tls.Config, error)
	server func() string

	mu   sync.Mutex
	conn net.Conn // the last one; nil: none
}

// NewLine returns a line to the address that server names at the time, `10.0.0.1:6443`. The configuration, which is asked for each
// connection and not changed, has the node's certificate and the cluster's authority.
func NewLine(server func() string, config func() (*tls.Config, error)) *Line {
	return &Line{config: config, server: server}
}

// Dial opens a connection.
func (l *Line) Dial(ctx context.Context) (net.Conn, error) {
	config, err := l.config()
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade
	dialer := &tls.Dialer{NetDialer: proxy.Direct(&net.Dialer{Timeout: dialTimeout, KeepAlive: pingAfter}), Config: config}
	server := l.server()
	conn, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	if l.server() != server {
		conn.Close()
		return nil, errors.New("another server is used now")
	}
	return conn, nil
}

// Hang ends the connection, where there is one: another server is used now.
func (l *Line) Hang() {
	l.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// Serve opens a tunnel on what dial returns and serves handler over it, again and again, until ctx ends; then it
// returns nil. Requests' contexts end with their connection. Why one ended, and what net/http says of it, are debug lines.
func Serve(ctx context.Context, log *slog.Logger, dial func(context.Context) (net.Conn, error), handler http.Handler) error {
	wait := firstWait
	for ctx.Err() == nil {
		began := time.Now()
		err := serveOnce(ctx, log, dial, handler)
		if ctx.Err() != nil {
			return nil
		}
		log.Debug("tunnel ended", "error", err)
		if time.Since(began) > settled {
			wait = firstWait
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait = min(2*wait, lastWait)
	}
	return nil
}

// serveOnce opens one tunnel and serves it until it ends.
func serveOnce(
	ctx context.Context, log *slog.Logger, dial func(context.Context) (net.Conn, error), handler http.Handler,
) error {
	conn, err := open(ctx, dial)
	if err != nil {
		return err
	}
	defer conn.Close()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // the connection has its TLS already
	server := &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		ReadHeaderTimeout: openTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // a connection that ends is no news
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
		},
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	listener := newOneConn(conn)
	err = server.Serve(listener)
	server.Close()
	<-listener.closed
	if errors.Is(err, errEnded) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// open dials and upgrades the connection.
func open(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot open a tunnel: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	in, err := upgrade(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot open a tunnel: %w", err)
	}
	return &tunnelConn{Conn: conn, in: in}, nil
}

func upgrade(conn net.Conn) (*bufio.Reader, error) {
	request := "GET " + path + " HTTP/1.1\r\nHost: lockstep\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	if _, err := conn.Write([]byte(request)); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		response.Body.Close()
		return nil, fmt.Errorf("the server answers %s", response.Status)
	}
	return in, nil
}

// tunnelConn is a connection of which a reader has taken the first bytes. It also hides from the HTTP server that the
// connection is TLS, which is done.
type tunnelConn struct {
	net.Conn
	in *bufio.Reader
}

func (c *tunnelConn) Read(p []byte) (int, error) {
	if c.in.Buffered() > 0 {
		return c.in.Read(p[:min(len(p), c.in.Buffered())])
	}
	return c.Conn.Read(p)
}

var errEnded = errors.New("the tunnel has ended")

// oneConn is a listener to which one connection comes. Accept fails when that has been closed.
type oneConn struct {
	conn   net.Conn
	given  sync.Once
	ended  sync.Once
	closed chan struct{}
}

func newOneConn(conn net.Conn) *oneConn { return &oneConn{conn: conn, closed: make(chan struct{})} }

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	var conn net.Conn
	l.given.Do(func() { conn = &endingConn{l.conn, l} })
	if conn != nil {
		return conn, nil
	}
	<-l.closed
	return nil, errEnded
}

// Close implements net.Listener.
func (l *oneConn) Close() error {
	l.ended.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// endingConn ends its listener when it is closed.
type endingConn struct {
	net.Conn
	listener *oneConn
}

func (c *endingConn) Close() error {
	err := c.Conn.Close()
	c.listener.Close()
	return err
}
