// Package logs is the agent's side of containers' logs.
package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"lockstep/internal/sleep"
	"lockstep/nodeagent/companion"
	"lockstep/nodeagent/logs/keeper"
	"lockstep/nodeagent/supervise"
)

// Stream, Stats and StreamStats are the keeper's own.
type (
	Stream      = keeper.Stream
	Stats       = keeper.Stats
	StreamStats = keeper.StreamStats
)

const (
	// askTimeout bounds one request: closing a stream writes up to the two FIFOs' 8 MiB.
	askTimeout = 30 * time.Second
	// retryAfter is the first pause between attempts to reach a keeper that is being replaced, or to start one that will
	// not: short, as the containers' pipes fill meanwhile. It doubles up to retryLast, since each is a process.
	retryAfter = 20 * time.Millisecond
	retryLast  = 5 * time.Second
)

// Options are what a keeper is started with.
type Options struct {
	// RunDir is the agent's run directory; there is one keeper for each. Required.
	RunDir string
	// Executable is the program to start; empty means this one. It must import package keeper/early.
	Executable string
	// Cgroup is the path under the cgroup mounts that the keeper is put into, `/lockstep-keeper/<node>`. Empty means that
	// it stays where the agent is.
	Cgroup string
	// Pods is the cgroup of all pods: a keeper that is sent SIGTERM ends once that has no process. Empty means that SIGTERM
	// never ends it.
	Pods string
	// Build is the program's version. A running keeper of another build is replaced, without loss.
	Build string
	// Ended is told when a keeper has ended while Run runs, Started when another serves in its place, Failed why none
	// can be started, each time, and when that is tried again. They must not block; nil drops what they would be told.
	Ended, Started func()
	Failed         func(err error, again time.Duration)
}

// Client speaks to the run directory's keeper, and starts one when there is none. It is safe for concurrent use.
type Client struct {
	program companion.Program
	options Options

	mu   sync.Mutex // one request at a time
	conn net.Conn   // nil when there is none
	in   *bufio.Reader
}

// Ensure returns a client of a running keeper of this build, which it starts, replacing one of another build, if need
// be. It starts nothing that must be stopped; see Run.
func Ensure(ctx context.Context, options Options) (*Client, error) {
	if options.RunDir == "" {
		return nil, errors.New("cannot start the log keeper: no run directory")
	}
	c := &Client{options: options, program: companion.Program{Name: keeper.Command, RunDir: options.RunDir, Executable: options.Executable,
		Cgroup: options.Cgroup, Build: options.Build, For: options.Pods}}
	stats, err := c.Stats(ctx)
	if err != nil {
		return nil, err
	}
	if stats.Build != options.Build {
		if err := c.Replace(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Run starts a new keeper whenever the running one ends, until ctx does. Without it a keeper that was killed is
// replaced at the next request only, and containers that print a lot wait for it.
func (c *Client) Run(ctx context.Context) error {
	return supervise.Keep(ctx, supervise.Service{
		Start: func(ctx context.Context) (int, error) {
			stats, err := c.Stats(ctx)
			if err != nil {
				return 0, err
			}
			return stats.PID, nil
		},
		Ended: c.options.Ended, Started: c.options.Started, Failed: c.options.Failed,
	})
}

// Open begins to keep a container's output. The FIFOs exist and are read when it returns, so a container may be
// started on them. Opening an open stream changes its limits.
func (c *Client) Open(ctx context.Context, s Stream) error {
	_, err := c.ask(ctx, keeper.Request{Op: "open", Stream: &s})
	return err
}

// Close writes what is left of a stream and forgets it, with its FIFOs; the log files stay. Call it when the task has
// been deleted: only then has the shim put everything into the FIFOs. Closing what is not open does nothing.
func (c *Client) Close(ctx context.Context, id string) error {
	_, err := c.ask(ctx, keeper.Request{Op: "close", ID: id})
	return err
}

// Reopen begins a new log file for a stream whose file was moved or removed.
func (c *Client) Reopen(ctx context.Context, id string) error {
	_, err := c.ask(ctx, keeper.Request{Op: "reopen", ID: id})
	return err
}

// Stats returns what the keeper has done, every open stream included.
func (c *Client) Stats(ctx context.Context) (*Stats, error) {
	answer, err := c.ask(ctx, keeper.Request{Op: "stats"})
	if err != nil {
		return nil, err
	}
	if answer.Stats == nil {
		return nil, errors.New("cannot ask the log keeper: it has no statistics")
	}
	return answer.Stats, nil
}

// Replace starts a keeper of this client's program, which takes over from the running one.
func (c *Client) Replace(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp()
	return c.program.Start(ctx)
}

// ask sends one request. A keeper that goes away before it answers is followed by its successor, or by one that is
// started: every request may be repeated.
func (c *Client) ask(ctx context.Context, req keeper.Request) (*keeper.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	req.Version = keeper.Version
	for wait := retryAfter; ; wait = min(2*wait, retryLast) {
		answer, err := c.try(ctx, &req)
		if err == nil {
			if answer.Version != keeper.Version {
				c.hangUp()
				if err := c.program.Start(ctx); err != nil {
					return nil, err
				}
				continue
			}
			if answer.Error != "" {
				return nil, errors.New(answer.Error)
			}
			return answer, nil
		}
		c.hangUp()
		sleep.For(ctx, wait)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("cannot ask the log keeper: %w", errors.Join(ctx.Err(), err))
		}
	}
}

func (c *Client) try(ctx context.Context, req *keeper.Request) (*keeper.Answer, error) {
	if c.conn == nil {
		if err := c.ensure(ctx); err != nil {
			return nil, err
		}
		conn, err := c.program.Dial(ctx)
		if err != nil {
			return nil, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.conn.SetDeadline(deadline)
	}
	conn := c.conn // c.conn may be gone by the time this runs
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(append(data, '\n')); err != nil {
		return nil, err
	}
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	var answer keeper.Answer
	if err := json.Unmarshal(line, &answer); err != nil {
		return nil, err
	}
	return &answer, nil
}

func (c *Client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn, c.in = nil, nil
	}
}

// ensure starts a keeper if none answers. c.mu is held.
func (c *Client) ensure(ctx context.Context) error {
	conn, err := c.program.Dial(ctx)
	if err == nil {
		return conn.Close()
	}
	return c.program.Start(ctx)
}
