// Package servers is which of the cluster's API servers a node uses.
package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/sleep"
	"lockstep/internal/whole"
)

const (
	// period is how often the server in use is looked at, and lookTimeout how long it may take to answer. One that is cut off is left
	// once two looks have failed and the delay is over: period + 2 × lookTimeout + moveSpread, below the 3 s that are promised.
	period      = 750 * time.Millisecond
	lookTimeout = 750 * time.Millisecond
	// moveSpread is the time over which the nodes of a server that is gone come to the others.
	moveSpread = 400 * time.Millisecond
	// shareSpread is the time over which nodes come to a server that is new. Nothing waits for them.
	shareSpread = 5 * time.Second
	// maxListed bounds the servers of a list, and maxEarlier those that are remembered: a cluster has five at most.
	maxListed, maxEarlier = 16, 16
)

// Prober looks at servers. Its methods are bounded by their contexts.
type Prober interface {
	// Held asks the server in use whether it serves, over the connections that the node has. It returns nil where it does, else why
	// not; the error matches ErrAnswered where the server said so itself.
	Held(ctx context.Context) error
	// Anew asks any server over a connection of its own.
	Anew(ctx context.Context, server string) error
	// Reset ends the connections to the server in use: it answers, but not on them.
	Reset()
	// Moved is told that another server is used now: what goes to the one before is to end.
	Moved(from, to string)
}

// ErrAnswered says that a server answered that it cannot serve.
var ErrAnswered = errors.New("the server says that it cannot serve")

// Options of a node's servers. Node, Seeds and File are required.
type Options struct {
	Node string
	// Seeds are servers that the node was told of, as https://host:port.
	Seeds []string
	// Own says that the first seed runs on this machine, with the node: it is used for as long as it serves.
	Own bool
	// File keeps the servers that were learnt.
	File string
	// Log. Nil: it is discarded.
	Log *slog.Logger
}

// kept is what the file has, as JSON.
type kept struct {
	// Listed are those that the cluster named last, and Earlier those that it named before, the last first.
	Listed  []string `json:"listed"`
	Earlier []string `json:"earlier,omitempty"`
}

// Servers are those that a node knows, one of which it uses. Any number of goroutines may use them.
type Servers struct {
	opts Options
	wake chan struct{}

	mu      sync.Mutex
	kept    kept
	current string
	news    string // a server that was not known before, to which the node is to go; empty: none
	newsAt  time.Time
}

// New reads what is kept, and begins with the server that the node prefers. What cannot be read is told once and done without. It starts
// nothing.
func New(o Options) *Servers {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Servers{opts: o, wake: make(chan struct{}, 1)}
	var err error
	if s.kept, err = load(o.File); err != nil {
		o.Log.Warn("cannot use the list of servers that was kept", "error", err)
	}
	s.current = s.ordered()[0]
	return s
}

func load(path string) (kept, error) {
	var k kept
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept{}, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err == nil && !slices.ContainsFunc(slices.Concat(k.Listed, k.Earlier), bad) {
		return k, nil
	}
	if err == nil {
		err = fmt.Errorf("%s has what is no server", path)
	}
	return kept{}, err
}

func bad(server string) bool { return !strings.HasPrefix(server, "https://") }

// ordered are all servers as the node prefers them; s.mu is held, or nobody else has s. Those that were listed earlier come last.
func (s *Servers) ordered() []string {
	now := slices.Concat(s.opts.Seeds, s.kept.Listed)
	if len(s.kept.Listed) > 0 && !s.opts.Own { // the names by which the node was told of them stand for the same servers
		now = s.kept.Listed
	}
	out := order(s.opts.Node, now)
	if s.opts.Own {
		out = slices.Insert(out, 0, s.opts.Seeds[0])
	}
	out = append(out, order(s.opts.Node, s.opts.Seeds)...)
	out = append(out, s.kept.Earlier...)
	var once []string
	for _, server := range out {
		if !slices.Contains(once, server) {
			once = append(once, server)
		}
	}
	return once
}

// Current is the server in use.
func (s *Servers) Current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Known are all servers, as the node prefers them.
func (s *Servers) Known() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ordered()
}

// Learn takes the list that the cluster has of its servers, and keeps it. An empty one says nothing: some server told it. A server that
// was never known takes its share of nodes.
func (s *Servers) Learn(listed []string) error {
	listed = slices.DeleteFunc(slices.Clone(listed), bad)
	slices.Sort(listed)
	if listed = slices.Compact(listed); len(listed) == 0 {
		return nil
	}
	listed = listed[:min(len(listed), maxListed)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(listed, s.kept.Listed) {
		return nil
	}
	before := s.ordered()
	now := kept{Listed: listed, Earlier: remember(listed, s.kept.Listed, s.kept.Earlier)}
	data, err := json.Marshal(now)
	if err != nil {
		return err
	}
	s.kept = now
	first := order(s.opts.Node, listed)[0]
	if len(listed) > 1 && !slices.Contains(before, first) && !s.opts.Own {
		s.news, s.newsAt = first, time.Now().Add(Delay(s.opts.Node, shareSpread))
	}
	s.poke()
	if err := whole.Write(s.opts.File, data); err != nil {
		return fmt.Errorf("cannot keep the list of servers: %w", err)
	}
	return nil
}

// Failed has a server looked at at once, where it is the one in use: a request to it found no answer.
func (s *Servers) Failed(server string) {
	if server == s.Current() {
		s.poke()
	}
}

func (s *Servers) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // a wake-up is pending
	}
}

// several says that there are more servers than one: one that the cluster lists and one that the node was told of are the same.
func (s *Servers) several() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.opts.Seeds) > 1 || len(s.kept.Listed)+len(s.kept.Earlier) > 1
}

// Run looks at the server in use, and goes to another one when it does not serve and another one does, until ctx ends; then it returns
// nil. Where there is only one it is not asked but when a request fails.
func (s *Servers) Run(ctx context.Context, p Prober) error {
	s.poke()
	for {
		var tick <-chan time.Time
		if s.several() {
			tick = time.After(period)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick:
		}
		if len(s.Known()) > 1 {
			s.look(ctx, p)
		}
	}
}

// look looks once, and moves where that is better.
func (s *Servers) look(ctx context.Context, p Prober) {
	held := within(ctx, p.Held)
	if held == nil {
		s.share(ctx, p)
		return
	}
	current := s.Current()
	serves := s.ask(ctx, p)
	if ctx.Err() != nil {
		return
	}
	if serves[current] {
		if !errors.Is(held, ErrAnswered) {
			p.Reset()
			s.opts.Log.Info("the connections to the server had died, and are made anew", "server", current, "error", held)
		}
		return
	}
	to := choose(current, s.Known(), serves)
	if to == current || !sleep.For(ctx, Delay(s.opts.Node, moveSpread)) {
		return
	}
	s.move(p, to, "the server does not serve", held)
}

// ask asks all known servers at once whether they serve.
func (s *Servers) ask(ctx context.Context, p Prober) map[string]bool {
	known := s.Known()
	answers := make([]error, len(known))
	var asked sync.WaitGroup
	for i, server := range known {
		asked.Go(func() { answers[i] = within(ctx, func(ctx context.Context) error { return p.Anew(ctx, server) }) })
	}
	asked.Wait()
	serves := map[string]bool{}
	for i, server := range known {
		serves[server] = answers[i] == nil
	}
	return serves
}

func within(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return ask(ctx)
}

// share goes to a server that is new and whose share the node is, once that serves.
func (s *Servers) share(ctx context.Context, p Prober) {
	s.mu.Lock()
	to, due := s.news, s.newsAt
	if to == s.current {
		s.news, to = "", ""
	}
	s.mu.Unlock()
	if to == "" || time.Now().Before(due) {
		return
	}
	if within(ctx, func(ctx context.Context) error { return p.Anew(ctx, to) }) == nil {
		s.move(p, to, "it is the node's share of the servers", nil)
	}
}

func (s *Servers) move(p Prober, to, reason string, err error) {
	s.mu.Lock()
	from := s.current
	s.current, s.news = to, ""
	s.mu.Unlock()
	attrs := []any{"server", to, "before", from, "reason", reason}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	s.opts.Log.Info("another server is used", attrs...)
	p.Moved(from, to)
}
