package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"lockstep/daemon/control"
)

const (
	// progressPeriod is how often progress looks: often enough to feel live.
	progressPeriod = 200 * time.Millisecond
	// progressShare keeps looking to a small part of the time: after a report that took d, the next one waits for
	// progressShare times d. A report of 10,000 objects takes some 30 ms.
	progressShare = 20
)

// progress prints what changed from one report to the next.
type progress struct {
	out      io.Writer
	terminal bool
	last     map[string]string // what was printed of each thing
	open     bool              // a status line without its line end stands in the terminal
}

func newProgress(out io.Writer, terminal bool) *progress {
	return &progress{out: out, terminal: terminal, last: map[string]string{}}
}

// follow prints progress until ctx ends; settled is called once, when every source's newest revision has its verdict
// and at least one node is Ready.
func (p *progress) follow(ctx context.Context, b control.Backend, settled func(control.Report)) {
	done := false
	for {
		began := time.Now()
		if report, err := b.Report(ctx); err == nil {
			p.show(report)
			if !done && isSettled(report) {
				done = true
				p.line("")
				settled(report)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(progressPeriod, progressShare*time.Since(began))):
		}
	}
}

// isSettled says that there is nothing left to wait for.
func isSettled(r control.Report) bool {
	ready := false
	for _, n := range r.Nodes {
		ready = ready || n.Ready
	}
	for _, s := range r.Sources {
		switch s.Status.State {
		case "success":
		case "error":
		default:
			return false
		}
	}
	return ready
}

// show prints the lines of what is new in a report.
func (p *progress) show(r control.Report) {
	for _, n := range r.Nodes {
		state := "not ready"
		if n.Ready {
			state = "ready"
		}
		p.once("node "+n.Name, state)
	}
	var rolling []string
	for _, s := range r.Sources {
		status := s.Status
		if status.FetchError != "" {
			p.once("source "+s.Name, "cannot be read: "+status.FetchError)
		}
		for _, e := range status.Errors {
			p.once("source "+s.Name+" at "+short(status.Seen)+": "+e, "")
		}
		for _, o := range s.Objects {
			text := o.State
			if o.Cause != "" {
				text += ": " + o.Cause
			}
			if o.State != "progressing" || o.Cause != "" {
				p.once(o.Object, text)
			}
		}
		switch status.State {
		case "":
		case "pending":
			rolling = append(rolling, fmt.Sprintf("source %s at %s: %s", s.Name, short(status.Seen), status.Message))
		default:
			p.once("source "+s.Name, fmt.Sprintf("%s at %s: %s", status.State, short(status.Seen), status.Message))
		}
	}
	p.status(strings.Join(rolling, "; "))
}

// once prints a thing's state unless it was the last that was printed of it.
func (p *progress) once(thing, state string) {
	if last, ok := p.last[thing]; ok && last == state {
		return
	}
	p.last[thing] = state
	if state == "" {
		p.line(thing)
		return
	}
	p.line(thing + ": " + state)
}

func (p *progress) line(text string) {
	if p.open {
		_, _ = io.WriteString(p.out, "\r\x1b[K")
		p.open = false
	}
	_, _ = fmt.Fprintln(p.out, text)
}

// status keeps one line at the end of a terminal up to date; elsewhere it prints nothing.
func (p *progress) status(text string) {
	if !p.terminal {
		return
	}
	if text == "" && !p.open {
		return
	}
	_, _ = io.WriteString(p.out, "\r\x1b[K"+text)
	p.open = text != ""
}
