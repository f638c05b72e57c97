// Package keeper is the log keeper: the small process that writes containers' output to log files.
package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"lockstep/nodeagent/companion/core"
)

// keeper is the process: its streams and the connections that ask for them. It outlives the agent that starts it, in a
// session and cgroup of its own, so that no container ever waits for an agent. This package imports little, so that it
// may run before the rest of the program initialises (package early).
type keeper struct {
	dir   string
	build string
	pods  string   // the cgroup of all pods; empty where it is not told
	lock  *os.File // never closed: whoever gets it knows that this process accepts no connection any more

	mu       sync.Mutex
	streams  map[string]*stream
	handing  bool // the streams are stopped, a successor is taking them over
	listener *net.UnixListener
	done     chan struct{} // closed when a successor has everything
}

// Main runs a keeper for the run directory in args (`RUNDIR [BUILD [PODS]]`) until a successor has taken over, or until
// it is asked to end and no process is left in the cgroup PODS, and returns the process's exit code. BUILD names the
// program's version; it is reported, not interpreted.
//
// It says "ready" on its standard output, and nothing else, once its socket answers. Complaints go to standard error.
func Main(args []string) int {
	if len(args) < 1 {
		fmt.Fprintf(os.Stderr, "usage: lockstep %s RUNDIR [BUILD [PODS]]\n", Command)
		return 2
	}
	args = append(args, "", "")
	core.Frugal()
	k := &keeper{dir: Dir(args[0]), build: args[1], pods: args[2], streams: map[string]*stream{}, done: make(chan struct{})}
	if err := k.run(args[0]); err != nil {
		fmt.Fprintf(os.Stderr, "log keeper: %v\n", err)
		return 1
	}
	return 0
}

func (k *keeper) run(runDir string) error {
	if err := os.MkdirAll(filepath.Join(k.dir, "streams"), 0o700); err != nil {
		return fmt.Errorf("cannot make the keeper's directory: %w", err)
	}
	var err error
	if k.lock, err = core.Lock(k.dir); err != nil {
		return err
	}
	if err := k.inherit(runDir); err != nil {
		return err
	}
	asked := core.Asked()
	defer core.Ready()()
	go core.Serve(k.listener, k.converse)
	if core.Wait(k.done, asked, k.pods) {
		k.end()
	}
	return nil
}

// end writes what is left. The streams stay on record, for the keeper that comes next. While a successor takes over it
// does nothing: that has the streams, or has ended as well.
func (k *keeper) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.handing {
		return
	}
	k.handing = true
	for _, s := range k.streams {
		s.stop()
		s.drain()
	}
}

// inherit makes this process the only keeper of the directory: it takes the running keeper's streams and socket
// over, or, when there is none, those that a killed one left.
func (k *keeper) inherit(runDir string) error {
	taken, err := k.takeOver(Socket(runDir))
	if err != nil {
		return err
	}
	if taken {
		k.start() // now: the end of the other process may take a while, and the FIFOs fill
		return core.Acquire(k.lock)
	}
	if err := core.Acquire(k.lock); err != nil {
		return err
	}
	k.restore()
	k.start()
	k.listener, err = core.Listen(Socket(runDir))
	return err
}

func (k *keeper) start() {
	for _, s := range k.streams {
		s.start()
	}
}

// restore opens the streams that are on record. One that cannot be opened stays there, for a later "open" of it.
func (k *keeper) restore() {
	records, _ := filepath.Glob(filepath.Join(escapeGlob(k.dir), "streams", "*.json"))
	for _, name := range records {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var spec Stream
		if json.Unmarshal(data, &spec) != nil || spec.validate() != nil {
			os.Remove(name)
			continue
		}
		spec.applyDefaults()
		s, err := newStream(spec)
		if err != nil {
			fmt.Fprintf(os.Stderr, "log keeper: %v\n", err)
			continue
		}
		k.streams[spec.ID] = s
	}
}

func (k *keeper) record(id string) string { return filepath.Join(k.dir, "streams", id+".json") }

func (k *keeper) converse(conn *net.UnixConn) {
	core.Converse(conn, core.Dialog[Request, Answer]{
		Most: maxMessage, Answer: k.answer, Offer: k.offer, Over: k.over,
		Step: func(r *Request) (string, int) { return r.Op, r.From },
	})
}

func (k *keeper) over(_ []*os.File, taken bool) {
	if !taken {
		k.resume()
		return
	}
	k.listener.Close() // our descriptor of it; the successor has its own
	close(k.done)
}

// answer carries a request out. It returns false when there is no answer to give, because the keeper is being
// replaced: the client hangs up and asks the successor.
func (k *keeper) answer(req *Request) (Answer, bool) {
	answer := Answer{Version: Version}
	if req.Version != Version {
		answer.Error = fmt.Sprintf("this log keeper speaks version %d", Version)
		return answer, true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.handing {
		return answer, false
	}
	var err error
	switch {
	case req.Op == "open" && req.Stream != nil:
		err = k.open(*req.Stream)
	case req.Op == "close":
		err = k.close(req.ID)
	case req.Op == "reopen":
		if s := k.streams[req.ID]; s != nil {
			s.reopen()
		}
	case req.Op == "stats":
		answer.Stats = k.statistics()
	default:
		err = fmt.Errorf("unknown request %q", req.Op)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	return answer, true
}

// open begins to keep a stream. Opening one that is open changes its limits and nothing else.
func (k *keeper) open(spec Stream) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("cannot open log stream %q: %w", spec.ID, err)
	}
	spec.applyDefaults()
	if s := k.streams[spec.ID]; s != nil {
		if s.spec.Path != spec.Path || s.spec.Stdout != spec.Stdout || s.spec.Stderr != spec.Stderr {
			return fmt.Errorf("cannot open log stream %q: it is open with other paths", spec.ID)
		}
		s.writes.Lock()
		s.mu.Lock()
		s.spec, s.stats.Stream = spec, spec
		s.file.maxSize, s.file.maxFiles, s.file.compress = spec.MaxSize, spec.MaxFiles, spec.Compress
		s.mu.Unlock()
		s.writes.Unlock()
		return k.remember(spec)
	}
	s, err := newStream(spec)
	if err != nil {
		return fmt.Errorf("cannot open log stream %q: %w", spec.ID, err)
	}
	if err := k.remember(spec); err != nil {
		s.closeFIFOs()
		return err
	}
	// The file is made at once: a log that is empty is not a log that is missing. A disk that refuses it is a reason
	// to drop output, not one to keep the container from running.
	if err := s.file.open(time.Now()); err != nil {
		s.stats.Error = "cannot open " + spec.Path + ": " + err.Error()
	}
	k.streams[spec.ID] = s
	s.start()
	return nil
}

// remember puts a stream on record, for the keeper that comes after one that was killed.
func (k *keeper) remember(spec Stream) error {
	data, err := json.Marshal(spec)
	if err == nil {
		if err = os.WriteFile(k.record(spec.ID)+tempSuffix, data, 0o600); err == nil {
			err = os.Rename(k.record(spec.ID)+tempSuffix, k.record(spec.ID))
		}
	}
	if err != nil {
		return fmt.Errorf("cannot record log stream %q: %w", spec.ID, err)
	}
	return nil
}

// close takes what is left in a stream's FIFOs and forgets it. Closing one that is not open does nothing.
func (k *keeper) close(id string) error {
	s := k.streams[id]
	if s == nil {
		return nil
	}
	s.stop()
	s.drain()
	s.closeFIFOs()
	delete(k.streams, id)
	for _, path := range []string{s.spec.Stdout, s.spec.Stderr, k.record(id)} {
		if path == "" {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot close log stream %q: %w", id, err)
		}
	}
	return nil
}

func (k *keeper) statistics() *Stats {
	stats := &Stats{PID: os.Getpid(), Build: k.build, Streams: []StreamStats{}}
	for _, s := range k.streams {
		stats.Streams = append(stats.Streams, s.statistics())
	}
	sort.Slice(stats.Streams, func(i, j int) bool { return stats.Streams[i].Stream.ID < stats.Streams[j].Stream.ID })
	return stats
}
