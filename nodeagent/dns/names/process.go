// Package names is the small process that answers a node's names, and goes on while the agent does not run.
package names

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"lockstep/nodeagent/companion/core"
)

// Version is the protocol's. Handover itself is the same in every version.
const Version = 1

// Command is the first argument that makes the program this process.
const Command = "names"

// maxMessage bounds a request: 10,000 services take 2 MiB, and the cluster's network has room for 65,536.
const maxMessage = 64 << 20

// State is what the agent wants to be answered, and where.
type State struct {
	Listen []netip.AddrPort `json:"listen"`
	Data   Data             `json:"data"`
}

// Request is one line of JSON from a client.
type Request struct {
	Version int `json:"v"`
	// Op is "state" (State), "stats", and between processes "handover", "descriptors" (From) and "release".
	Op    string `json:"op"`
	State *State `json:"state,omitempty"`
	From  int    `json:"from,omitempty"`
}

// Reply is one line of JSON from the process.
type Reply struct {
	Version int       `json:"v"`
	Error   string    `json:"error,omitempty"`
	Stats   *Stats    `json:"stats,omitempty"`
	Handed  *handover `json:"handed,omitempty"`
}

// handover describes what goes to a successor: first the process's own socket, then those that names are asked at.
type handover struct {
	Descriptors int    `json:"descriptors"`
	State       *State `json:"state,omitempty"` // nil: nothing is answered yet
}

// process outlives the agent that starts it, in a session and cgroup of its own. It answers what it was last told to.
type process struct {
	dir    string
	build  string
	pods   string   // the cgroup of all pods; empty where it is not told
	lock   *os.File // never closed
	server *Server

	mu       sync.Mutex
	handing  bool   // a successor takes over
	state    *State // nil: nothing is answered
	sockets  *Sockets
	end      func() // ends the answering and waits for it
	listener *net.UnixListener
	done     chan struct{} // closed when a successor has everything
}

// Main runs the process for the run directory in args (`RUNDIR [BUILD [PODS]]`) until a successor has taken over, or until
// it is asked to end and no process is left in the cgroup PODS, and returns its exit code. It says "ready" on its standard
// output once its socket answers; complaints go to standard error.
func Main(args []string) int {
	if len(args) < 1 {
		fmt.Fprintf(os.Stderr, "usage: lockstep %s RUNDIR [BUILD [PODS]]\n", Command)
		return 2
	}
	args = append(args, "", "")
	core.Frugal()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	p := &process{
		dir: filepath.Join(args[0], Command), build: args[1], pods: args[2],
		server: NewServer(Options{Log: log}), done: make(chan struct{}),
	}
	if err := p.run(); err != nil {
		fmt.Fprintf(os.Stderr, "names: %v\n", err)
		return 1
	}
	return 0
}

func (p *process) socket() string { return filepath.Join(p.dir, "sock") }

func (p *process) run() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	var err error
	if p.lock, err = core.Lock(p.dir); err != nil {
		return err
	}
	taken, err := p.takeOver()
	if err != nil {
		return err
	}
	if err := core.Acquire(p.lock); err != nil {
		return err
	}
	if !taken {
		if p.listener, err = core.Listen(p.socket()); err != nil {
			return err
		}
	}
	asked := core.Asked()
	defer core.Ready()()
	go core.Serve(p.listener, p.converse)
	core.Wait(p.done, asked, p.pods)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		p.end()
	}
	return nil
}

func (p *process) converse(conn *net.UnixConn) {
	core.Converse(conn, core.Dialog[Request, Reply]{
		Most: maxMessage, Answer: p.reply, Offer: p.offer, Over: p.over,
		Step: func(r *Request) (string, int) { return r.Op, r.From },
	})
}

func (p *process) over(offered []*os.File, taken bool) {
	closeAll(offered)
	if taken {
		p.listener.Close() // our descriptor of it; the successor has its own
		close(p.done)
		return
	}
	p.mu.Lock()
	p.handing = false
	p.mu.Unlock()
}

// reply carries a request out. It returns false when there is none to give, because a successor takes over.
func (p *process) reply(req *Request) (Reply, bool) {
	reply := Reply{Version: Version}
	if req.Version != Version {
		reply.Error = fmt.Sprintf("this process speaks version %d", Version)
		return reply, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handing {
		return reply, false
	}
	switch {
	case req.Op == "state" && req.State != nil:
		if err := p.set(req.State); err != nil {
			reply.Error = err.Error()
		}
	case req.Op == "stats":
		stats := p.server.Stats()
		stats.PID, stats.Build = os.Getpid(), p.build
		reply.Stats = &stats
	default:
		reply.Error = fmt.Sprintf("unknown request %q", req.Op)
	}
	return reply, true
}

// set answers from a state. Where other addresses are wanted the ones before are given up first. p.mu is held.
func (p *process) set(s *State) error {
	p.server.Set(s.Data)
	if p.state != nil && slices.Equal(p.state.Listen, s.Listen) {
		p.state = s
		return nil
	}
	if p.end != nil {
		p.end()
		p.end, p.state, p.sockets = nil, nil, nil
	}
	sockets, err := Listen(context.Background(), s.Listen)
	if err != nil {
		return err
	}
	p.serve(s, sockets)
	return nil
}

// serve answers at sockets from now on. p.mu is held.
func (p *process) serve(s *State, sockets *Sockets) {
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := p.server.Run(ctx, sockets, func() { close(started) }); err != nil {
			// The agent starts another one, which listens anew.
			fmt.Fprintf(os.Stderr, "names: %v\n", err)
			os.Exit(1)
		}
	})
	<-started
	p.state, p.sockets = s, sockets
	p.end = func() {
		cancel()
		serving.Wait()
	}
}

// offer describes what a successor gets. Questions are answered until it has everything.
func (p *process) offer() ([]*os.File, Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reply := Reply{Version: Version}
	if p.handing {
		reply.Error = "this process is being replaced already"
		return nil, reply
	}
	listener, err := p.listener.File()
	if err != nil {
		reply.Error = err.Error()
		return nil, reply
	}
	files := []*os.File{listener}
	if p.sockets != nil {
		more, err := p.sockets.files()
		if err != nil {
			listener.Close()
			reply.Error = err.Error()
			return nil, reply
		}
		files = append(files, more...)
	}
	p.handing = true
	reply.Handed = &handover{Descriptors: len(files), State: p.state}
	return files, reply
}

// takeOver takes the sockets of the process behind the socket. It returns false when nobody is there.
func (p *process) takeOver() (bool, error) {
	var err error
	p.listener, err = core.TakeOver(p.socket(), core.Succession[Request, Reply]{
		Most: maxMessage,
		Ask:  func(op string, from int) *Request { return &Request{Version: Version, Op: op, From: from} },
		Handed: func(r *Reply) (int, string) {
			if r.Handed == nil {
				return 0, r.Error
			}
			return r.Handed.Descriptors, ""
		},
		Take: p.take,
	})
	return p.listener != nil, err
}

// take answers at what another process had.
func (p *process) take(r *Reply, files []*os.File) error {
	s := r.Handed.State
	if s == nil {
		return nil
	}
	sockets, err := takeSockets(s.Listen, files)
	if err != nil {
		return fmt.Errorf("cannot take the sockets for names: %w", err)
	}
	p.server.Set(s.Data)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serve(s, sockets)
	return nil
}
