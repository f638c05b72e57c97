package clone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"golang.org/x/net/proxy"
)

// limit is an error that says that something is more than the limits allow.
type limit struct{ text string }

func (l *limit) Error() string { return l.text }

func exceeded(format string, args ...any) error { return &limit{fmt.Sprintf(format, args...)} }

func isLimit(err error) bool {
	var l *limit
	return errors.As(err, &l)
}

// full is an error that says that the disk has no room for more: it may have later.
type full struct{ text string }

func (f *full) Error() string { return f.text }

func isFull(err error) bool {
	var f *full
	return errors.As(err, &f)
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// errSilent, errLong, errBusy end a look.
var (
	errSilent = errors.New("silent")
	errLong   = errors.New("too long")
	errBusy   = errors.New("too much work")
)

// meter counts what comes from a Git server, ends what comes without end, and notices when nothing comes. Its
// connections are closed when a look is given up, which ends the server's side, too.
type meter struct {
	moved atomic.Int64 // bytes and other signs of life

	mu     sync.Mutex
	left   int64 // bytes until the limit
	err    error // what to say once they are used up; then it stays
	told   error
	conns  map[net.Conn]bool
	closed bool
}

// allow bounds what may be read until the next allow.
func (m *meter) allow(n int64, otherwise error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.err, m.told = n, otherwise, nil
}

// took counts bytes, and says when there are too many.
func (m *meter) took(n int) error {
	if n > 0 {
		m.moved.Add(int64(n))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left -= int64(n); m.left < 0 {
		m.told = m.err
	}
	return m.told
}

// refuse remembers why a fetch was ended, which go-git's errors may hide.
func (m *meter) refuse(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told == nil {
		m.told = err
	}
	return m.told
}

// cause is why a fetch was ended, or err.
func (m *meter) cause(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && m.told != nil {
		return m.told
	}
	return err
}

// hangUp closes all connections.
func (m *meter) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.Close()
	}
	clear(m.conns)
}

// Write takes a server's own words on its progress, which only show that it lives.
func (m *meter) Write(p []byte) (int, error) {
	m.moved.Add(int64(len(p)))
	return len(p), nil
}

// watch ends the look once nothing has moved and next to nothing been done for as long as silence, or it has lasted too
// long, or used too much of the processor.
func (m *meter) watch(ctx context.Context, silence time.Duration, limits Limits, end context.CancelCauseFunc) {
	const every = 100 * time.Millisecond
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	began, atStart := time.Now(), busy()
	alive, moved, done := began, m.moved.Load(), atStart
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, used := time.Now(), busy()
		// What takes a tenth of a processor is at work on what has come.
		if n := m.moved.Load(); n != moved || used-done > every/10 {
			alive, moved = now, n
		}
		done = used
		switch {
		case used-atStart > limits.CPU:
			end(errBusy)
		case now.Sub(began) > limits.Total:
			end(errLong)
		case now.Sub(alive) > silence:
			end(errSilent)
		default:
			continue
		}
		m.hangUp()
		return
	}
}

// busy is what this process has used of processors.
func busy() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// dial connects as the environment's proxy settings say.
func (m *meter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := proxy.Dial(ctx, network, address)
	return m.metered(c, err)
}

func (m *meter) metered(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[c] = true
	return &conn{c, m}, nil
}

type conn struct {
	net.Conn
	meter *meter
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if over := c.meter.took(n); over != nil {
		return 0, over
	}
	return n, err
}

func (c *conn) Close() error {
	c.meter.mu.Lock()
	delete(c.meter.conns, c.Conn)
	c.meter.mu.Unlock()
	return c.Conn.Close()
}

// metered names the dialer that go-git is told to reach SSH servers through: its own cannot be changed otherwise.
const meteredScheme = "lockstep-metered"

type sshDialer struct{ m *meter }

func (d sshDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d sshDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.m.dial(ctx, network, address)
}

// install makes go-git's transports use the meter. It is for this process alone.
func (m *meter) install() {
	m.conns = map[net.Conn]bool{}
	tcp := &net.Dialer{}
	web := http.DefaultTransport.(*http.Transport).Clone()
	web.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := tcp.DialContext(ctx, network, address)
		return m.metered(c, err)
	}
	web.DisableCompression = true // what is counted is what is read
	web.TLSHandshakeTimeout = 0   // the watch ends what is silent
	over := githttp.NewClient(&http.Client{Transport: web})
	client.InstallProtocol("http", over)
	client.InstallProtocol("https", over)
	proxy.RegisterDialerType(meteredScheme, func(*url.URL, proxy.Dialer) (proxy.Dialer, error) { return sshDialer{m}, nil })
}

// through is the proxy option that leads to the meter's dialer.
func through(endpoint *transport.Endpoint) transport.ProxyOptions {
	if endpoint.Protocol == "ssh" {
		return transport.ProxyOptions{URL: meteredScheme + "://"}
	}
	return transport.ProxyOptions{}
}
