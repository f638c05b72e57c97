package clone

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lockstep/internal/giturl"
	"lockstep/internal/plain"
)

const (
	// idle is how long a process that has found something new waits for the files to be read, and for the next push.
	idle = 20 * time.Second
	// slack is what a process may take beyond its own limits of time before it is ended from here.
	slack = time.Minute
)

// Worker reads one repository through processes that it starts when they are needed: one looks, and while that one is at
// work another reads files of what was found before. It may be used by several goroutines.
type Worker struct {
	place   Place
	looking slot
	reading slot
	used    atomic.Int64
}

// NewWorker starts nothing.
func NewWorker(p Place, c *Crew) *Worker {
	p.Limits = p.Limits.OrDefault()
	w := &Worker{place: p}
	w.looking.room, w.looking.used = c.looking, &w.used
	w.reading.room, w.reading.used = c.reading, &w.used
	return w
}

// Used is what the processes have used of processors so far.
func (w *Worker) Used() time.Duration { return time.Duration(w.used.Load()) }

// crewMost is how many repositories are read at the same time. Each may take all the memory that it may, and a server that
// sends drop by drop keeps its place for an hour: so there are several times as many as a machine has processors for.
const crewMost = 16

// Crew bounds how many processes read repositories at the same time, over all Workers that share it: so many look, and as
// many read files while those look, so that neither waits for the other.
type Crew struct{ looking, reading chan struct{} }

// NewCrew makes a crew.
func NewCrew() *Crew {
	return &Crew{make(chan struct{}, crewMost), make(chan struct{}, crewMost)}
}

// Answer is what a look came to.
type Answer struct {
	Found []Found // in the order of what was asked
	// Commits are those that were new, by source, also where the look failed later.
	Commits map[string]string
	Steps   []Step
	Notes   []string // what somebody should know, for a log
}

// Look asks for the newest revisions. The error is a *Failure, about all sources alike, or ctx's.
func (w *Worker) Look(ctx context.Context, l Look) (Answer, error) {
	w.looking.mu.Lock()
	defer w.looking.mu.Unlock()
	if l.Anew { // what it has open is about to be removed
		w.reading.mu.Lock()
		w.reading.end()
		w.reading.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, w.place.Limits.Total+w.place.Silence+slack)
	defer cancel()
	r, err := w.looking.call(ctx, w.place, request{Place: w.place, Look: &l})
	news := false
	for _, f := range r.Found {
		news = news || f.Revision != nil
	}
	if err != nil || !news {
		w.looking.end()
	}
	return Answer{r.Found, r.Commits, r.Steps, r.Notes}, err
}

// Read returns a file by its hash, at most one byte more than manifests may have. An error is a *Failure, or ctx's.
func (w *Worker) Read(ctx context.Context, hash string) ([]byte, error) {
	r, err := w.ask(ctx, request{Place: w.place, Read: hash})
	return r.Data, err
}

// Passed lists the commits between two tips of a branch, the newest first, without both. What cannot be told is nothing.
func (w *Worker) Passed(ctx context.Context, p Passed) []string {
	r, err := w.ask(ctx, request{Place: w.place, Passed: &p})
	if err != nil {
		return nil
	}
	return r.Passed
}

// ask is answered from what is there: by the process that looks, or by another one while that is busy.
func (w *Worker) ask(ctx context.Context, r request) (reply, error) {
	s := &w.looking
	if !s.mu.TryLock() {
		s = &w.reading
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, w.place.Silence+slack)
	defer cancel()
	out, err := s.call(ctx, w.place, r)
	if err != nil {
		s.end()
	}
	return out, err
}

// Close ends the processes. What is asked later starts them again.
func (w *Worker) Close() {
	for _, s := range []*slot{&w.looking, &w.reading} {
		s.mu.Lock()
		s.end()
		s.mu.Unlock()
	}
}

// slot has a process, or none.
type slot struct {
	room chan struct{} // has one for each process
	used *atomic.Int64 // what processes have used

	mu    sync.Mutex
	run   *process
	timer *time.Timer // ends run once it is idle
}

// call asks the process, which it starts where there is none.
func (s *slot) call(ctx context.Context, p Place, r request) (reply, error) {
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.run == nil {
		if err := s.begin(ctx, p); err != nil {
			return reply{}, err
		}
	}
	run := s.run
	out, err := run.ask(ctx, r)
	if err != nil {
		s.end()
		return out, run.ended(ctx, p)
	}
	s.charge(out.Busy)
	s.timer = time.AfterFunc(idle, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.run == run {
			s.end()
		}
	})
	if out.Err != nil {
		return out, out.Err
	}
	return out, nil
}

// begin starts the process, once there is room for it.
func (s *slot) begin(ctx context.Context, p Place) error {
	timer := time.NewTimer(p.Silence)
	defer timer.Stop()
	select {
	case s.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return &Failure{Text: fmt.Sprintf("cannot read %s: %d repositories are being read, and none was done within %s",
			giturl.Redact(p.URL), cap(s.room), p.Silence)}
	}
	run, err := start()
	if err != nil {
		<-s.room
		return &Failure{Text: err.Error()}
	}
	s.run = run
	return nil
}

// charge counts what the process has used since it was last charged.
func (s *slot) charge(total time.Duration) {
	s.used.Add(int64(total - s.run.charged))
	s.run.charged = total
}

func (s *slot) end() {
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.run == nil {
		return
	}
	s.run.kill()
	s.run.over = s.run.command.Wait() // how it has ended, where it was not killed
	state := s.run.command.ProcessState
	s.charge(state.UserTime() + state.SystemTime())
	s.run = nil
	<-s.room
}

// process is a process that serves a repository.
type process struct {
	command *exec.Cmd
	in      *gob.Encoder
	out     *gob.Decoder
	words   head
	charged time.Duration // of what it has used
	over    error         // how it has ended
}

func start() (*process, error) {
	p := &process{command: exec.Command("/proc/self/exe", Command)}
	// A group of its own: what it starts ends with it, and what ends a terminal's programs is for the daemon to say.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.command.Env = append(os.Environ(), "GOTRACEBACK=single")
	p.command.Stderr = &p.words
	in, err := p.command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start a process to read a repository: %w", err)
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start a process to read a repository: %w", err)
	}
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("cannot start a process to read a repository: %w", err)
	}
	p.in, p.out = gob.NewEncoder(in), gob.NewDecoder(out)
	return p, nil
}

func (p *process) kill() { _ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL) }

// ask returns the answer, or an error where there is none because the process has ended or ctx has.
func (p *process) ask(ctx context.Context, r request) (reply, error) {
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	if err := p.in.Encode(r); err != nil {
		return reply{}, err
	}
	var commits map[string]string
	for {
		var r reply
		if err := p.out.Decode(&r); err != nil {
			return reply{Commits: commits}, err
		}
		if r.Commits != nil {
			commits = r.Commits
		}
		if r.Done {
			r.Commits = commits
			return r, nil
		}
	}
}

// ended says why a process that should have answered is over.
func (p *process) ended(ctx context.Context, place Place) error {
	if cause := ctx.Err(); errors.Is(cause, context.Canceled) {
		return cause
	}
	words := p.words.String()
	code := p.command.ProcessState.ExitCode()
	why := ""
	switch {
	case ctx.Err() != nil, code == overdue:
		why = fmt.Sprintf("reading it takes longer than %s", place.Limits.Total)
	case strings.Contains(words, "out of memory"), strings.Contains(words, "cannot allocate memory"):
		why = fmt.Sprintf("reading it needs more than %s of memory", size(place.Limits.Memory))
	default:
		line, _, _ := strings.Cut(strings.TrimSpace(words), "\n")
		why = plain.Text(giturl.Text(fmt.Sprintf("the process that reads it has ended: %v %s", p.over, line)))
	}
	return &Failure{Text: fmt.Sprintf("cannot read %s: %s", giturl.Redact(place.URL), why), Limit: true}
}

// head keeps the first of what is written: how a program's last words begin.
type head struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// maxWords holds the message of a panic, or of Go's own end, and the innermost calls.
const maxWords = 4 << 10

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b.Write(p[:min(len(p), maxWords-h.b.Len())])
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.String()
}
