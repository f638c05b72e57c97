package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// maxRefusal bounds what is read of why an agent refuses a stream.
const maxRefusal = 4 << 10

// DialController reaches the controller service of a CSI driver through the agent of a node, which transport sends requests to, nil where
// nothing does, and which must say that it has it: see kinds.CSIControllers. ctx bounds dialling alone. The connection has no deadlines:
// setting one ends it when it passes.
func DialController(ctx context.Context, transport http.RoundTripper, node, driver string) (net.Conn, error) {
	if transport == nil {
		return nil, fmt.Errorf("cannot reach the controller of CSI driver %s: the agent of node %s has no connection to this server",
			driver, node)
	}
	conn, err := stream(ctx, transport, node, "/csi/"+url.PathEscape(driver))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the controller of CSI driver %s on node %s: %w", driver, node, err)
	}
	return conn, nil
}

// stream opens a stream of bytes in both directions at a path of an agent.
func stream(ctx context.Context, transport http.RoundTripper, node, path string) (net.Conn, error) {
	living, cancel := context.WithCancel(context.WithoutCancel(ctx))
	in, out := io.Pipe()
	r, err := http.NewRequestWithContext(living, http.MethodPost, "http://"+node+path, in)
	if err != nil {
		cancel()
		return nil, err
	}
	stop := context.AfterFunc(ctx, cancel)
	answer, err := transport.RoundTrip(r)
	if !stop() && err == nil {
		answer.Body.Close()
		err = ctx.Err()
	}
	if err == nil && answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
		answer.Body.Close()
		err = errors.New(strings.TrimSpace(string(text)))
	}
	if err != nil {
		cancel()
		out.Close()
		return nil, err
	}
	return &streamConn{in: answer.Body, out: out, end: cancel, node: node}, nil
}

// streamConn is a request whose body is written and whose answer is read.
type streamConn struct {
	in   io.ReadCloser
	out  *io.PipeWriter
	end  context.CancelFunc
	node string

	mu     sync.Mutex
	timers [2]*time.Timer // that end reading and writing
	late   bool
}

// Read implements net.Conn.
func (c *streamConn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	return n, c.told(err)
}

// Write implements net.Conn.
func (c *streamConn) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	return n, c.told(err)
}

// told is an error as the deadline explains it.
func (c *streamConn) told(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.late {
		return os.ErrDeadlineExceeded
	}
	return err
}

// Close implements net.Conn. It may be called again.
func (c *streamConn) Close() error {
	c.mu.Lock()
	for _, t := range c.timers {
		if t != nil {
			t.Stop()
		}
	}
	c.mu.Unlock()
	c.out.Close()
	c.end()
	return c.in.Close()
}

func (c *streamConn) deadline(t time.Time, which ...int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range which {
		if c.timers[i] != nil {
			c.timers[i].Stop()
			c.timers[i] = nil
		}
		if !t.IsZero() {
			c.timers[i] = time.AfterFunc(time.Until(t), func() {
				c.mu.Lock()
				c.late = true
				c.mu.Unlock()
				c.end()
				c.out.CloseWithError(os.ErrDeadlineExceeded)
			})
		}
	}
	return nil
}

// SetDeadline implements net.Conn; a deadline that passes ends the connection.
func (c *streamConn) SetDeadline(t time.Time) error { return c.deadline(t, 0, 1) }

// SetReadDeadline is as SetDeadline.
func (c *streamConn) SetReadDeadline(t time.Time) error { return c.deadline(t, 0) }

// SetWriteDeadline is as SetDeadline.
func (c *streamConn) SetWriteDeadline(t time.Time) error { return c.deadline(t, 1) }

// LocalAddr implements net.Conn.
func (c *streamConn) LocalAddr() net.Addr { return streamAddr("") }

// RemoteAddr implements net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return streamAddr(c.node) }

type streamAddr string

func (streamAddr) Network() string  { return "tunnel" }
func (a streamAddr) String() string { return string(a) }
