package dns

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/internal/sleep"
	"lockstep/nodeagent/companion"
	"lockstep/nodeagent/dns/names"
)

// Options of a Client. Listen, Domain, State and Process.RunDir are required.
type Options struct {
	// Listen are the addresses to answer at, by UDP and TCP. They need not exist yet.
	Listen []netip.AddrPort
	// Domain of the cluster, such as "cluster.local".
	Domain string
	// State returns the cluster's state as it is now, from one goroutine. Its zero value is a cluster without services.
	State func() State
	// Wake says that State may return something else. It carries nothing; one pending wake-up is enough.
	Wake <-chan struct{}
	// Process says what is started to answer; its Name is set here.
	Process companion.Program
	// Changed, if set, is told that Health has changed, from Run's goroutine; also of the first success.
	Changed func()
	// Log may be nil: then nothing is logged.
	Log *slog.Logger
	// Registerer may be nil: then metrics are not registered.
	Registerer prometheus.Registerer
}

func (o Options) validate() error {
	switch {
	case len(o.Listen) == 0:
		return errors.New("cannot have names answered: no address to listen on")
	case o.Domain == "":
		return errors.New("cannot have names answered: no domain")
	case o.State == nil:
		return errors.New("cannot have names answered: no State")
	case o.Process.RunDir == "":
		return errors.New("cannot have names answered: no run directory")
	}
	return nil
}

const (
	// askTimeout bounds one request: taking in 10,000 services takes 0.1 s, and giving addresses up as long as a question
	// under way.
	askTimeout = 15 * time.Second
	// statsTimeout bounds asking for statistics, which takes less than a millisecond.
	statsTimeout = time.Second
	// retryFirst and retryMost bound the pause between attempts to start the process or to have it listen. The first is
	// short, since nobody answers meanwhile.
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
	// settle is the least time between two states, and settleShare bounds making them to a part of the time: one takes
	// 50 ms for 10,000 services, and endpoints change in bursts.
	settle      = 50 * time.Millisecond
	settleShare = 4
)

// ErrNotAnswered says that no attempt to have names answered has ended yet.
var ErrNotAnswered = errors.New("names are not answered yet")

// Client keeps a process that answers the node's names, and tells it the newest state. The process goes on when Run ends.
type Client struct {
	opts Options
	log  *slog.Logger

	mu     sync.Mutex
	health error
}

// New returns a client that does nothing until Run.
func New(opts Options) (*Client, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	c := &Client{opts: opts, log: opts.Log, health: ErrNotAnswered}
	c.opts.Process.Name = names.Command
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(collector{c})
	}
	return c, nil
}

// Health is nil while names are answered, else why not; ErrNotAnswered before the first attempt.
func (c *Client) Health() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health
}

// Answers says whether the run directory's process runs.
func Answers(ctx context.Context, runDir string) bool {
	conn, err := companion.Program{Name: names.Command, RunDir: runDir}.Dial(ctx)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Run has names answered until ctx ends, and then returns nil and leaves the process answering what it was told last. A
// process that ends is started again; one of another build is replaced, between two questions.
func (c *Client) Run(ctx context.Context) error {
	pause := retryFirst
	for ctx.Err() == nil {
		settled, err := c.keep(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.note(err)
		if settled {
			pause = retryFirst
		}
		sleep.For(ctx, pause)
		pause = min(2*pause, retryMost)
	}
	return nil
}

// keep connects to a process of this build and tells it what to answer until the connection or ctx ends; settled says that
// it answered meanwhile.
func (c *Client) keep(ctx context.Context) (settled bool, err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	watch, err := c.opts.Process.Dial(ctx)
	if err != nil {
		return false, err
	}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		defer close(ended)
		_, _ = watch.Read(make([]byte, 1)) // nothing is said unasked, so this returns when the process is gone
	})
	defer func() {
		watch.Close()
		watching.Wait()
	}()
	var told []byte
	for {
		began := time.Now()
		state := names.State{Listen: c.opts.Listen, Data: DataOf(c.opts.Domain, c.opts.State())}
		text, err := json.Marshal(state)
		if err != nil {
			return settled, err
		}
		if !bytes.Equal(text, told) {
			if _, err := ask(ctx, conn, names.Request{Op: "state", State: &state}); err != nil {
				return settled, err
			}
			told = text
		}
		settled = true
		c.note(nil)
		sleep.For(ctx, max(settle, settleShare*time.Since(began)))
		select {
		case <-ctx.Done():
			return settled, nil
		case <-ended:
			return settled, errors.New("the process that answers names has ended")
		case <-c.opts.Wake:
		}
	}
}

// connect returns a connection to a process of this build, which it starts if need be.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	for range 2 {
		conn, err := c.opts.Process.Dial(ctx)
		if err != nil {
			if err := c.opts.Process.Start(ctx); err != nil {
				return nil, err
			}
			if conn, err = c.opts.Process.Dial(ctx); err != nil {
				return nil, err
			}
		}
		reply, err := ask(ctx, conn, names.Request{Op: "stats"})
		if err == nil && reply.Stats != nil && reply.Stats.Build == c.opts.Process.Build {
			return conn, nil
		}
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Another build, or one that speaks another version: it hands over.
		if err := c.opts.Process.Start(ctx); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("cannot reach the process that answers names: another one takes its place")
}

// ask sends one request and waits for its reply.
func ask(ctx context.Context, conn net.Conn, req names.Request) (names.Reply, error) {
	deadline := time.Now().Add(askTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req.Version = names.Version
	var reply names.Reply
	data, err := json.Marshal(req)
	if err == nil {
		_, err = conn.Write(append(data, '\n'))
	}
	if err == nil {
		var line []byte
		if line, err = bufio.NewReader(conn).ReadBytes('\n'); err == nil { // one reply a request: nothing is read ahead
			err = json.Unmarshal(line, &reply)
		}
	}
	switch {
	case err != nil:
		return reply, fmt.Errorf("cannot ask the process that answers names: %w", err)
	case reply.Error != "":
		return reply, errors.New(reply.Error)
	}
	return reply, nil
}

// note takes in whether names are answered, and tells it once.
func (c *Client) note(err error) {
	c.mu.Lock()
	changed := (c.health == nil) != (err == nil) || errors.Is(c.health, ErrNotAnswered)
	c.health = err
	c.mu.Unlock()
	if !changed {
		return
	}
	if err != nil {
		c.log.Error("names are not answered", "error", err)
	} else {
		c.log.Info("names are answered", "addresses", c.opts.Listen)
	}
	if c.opts.Changed != nil {
		c.opts.Changed()
	}
}
