package command

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"lockstep/daemon/control"
	"lockstep/kinds/v1alpha1"
)

const (
	// progressPeriod is how often progress looks while something goes on: often enough to feel live; and restPeriod while
	// nothing does: a cluster that is left alone costs nothing that could be seen.
	progressPeriod = 200 * time.Millisecond
	restPeriod     = time.Second
	// progressShare keeps looking to a small part of the time: after a report that took d, the next one waits for
	// progressShare times d. A report of 10,000 objects takes some 30 ms.
	progressShare = 20
)

// progress prints what changed from one report to the next.
type progress struct {
	screen *screen
	last   map[string]string // what was printed of each thing
}

func newProgress(s *screen) *progress { return &progress{screen: s, last: map[string]string{}} }

// follow prints progress until ctx ends; settled is called once, when every source's newest revision has its verdict
// and at least one node is Ready.
func (p *progress) follow(ctx context.Context, b control.Backend, settled func(control.Report)) {
	done := false
	for {
		began, period := time.Now(), progressPeriod
		if report, err := b.Report(ctx); err == nil {
			p.show(report)
			rests := isSettled(report)
			switch {
			case done:
				p.opened(report)
			case rests:
				done = true
				settled(report)
			}
			if rests {
				period = restPeriod
			}
		}
		select {
		case <-ctx.Done():
			p.screen.keep("")
			return
		case <-time.After(max(period, progressShare*time.Since(began))):
		}
	}
}

// isSettled says that it is known how everything went, for now.
func isSettled(r control.Report) bool {
	ready := false
	for _, n := range r.Nodes {
		ready = ready || n.Ready
	}
	for _, s := range r.Sources {
		unread := s.Status.State == "" && s.Status.FetchError == ""
		if unread || s.Status.State == "pending" {
			return false
		}
	}
	return ready
}

// opened prints the addresses that are new.
func (p *progress) opened(r control.Report) {
	for _, s := range r.Sources {
		for _, address := range s.Addresses {
			p.once("open/"+address, "open     "+address)
		}
	}
}

// show prints the lines of what is new in a report.
func (p *progress) show(r control.Report) {
	for _, n := range r.Nodes {
		state := "not ready"
		if n.Ready {
			state = "ready"
		}
		p.once("node/"+n.Name, "node "+n.Name+": "+state)
	}
	var rolling []string
	for _, s := range r.Sources {
		source, status := "source "+s.Name, s.Status
		p.once("where/"+s.Name, source+": following "+s.Where)
		p.fetched(s.Name, status.FetchError)
		for _, e := range more(status) {
			p.once("error/"+s.Name+"/"+status.Seen+"/"+e, source+" at "+short(status.Seen)+": "+e)
		}
		for _, o := range s.Objects {
			text := o.State
			if o.Cause != "" {
				text += ": " + o.Cause
			}
			if o.State != "progressing" || o.Cause != "" {
				p.once("object/"+s.Name+"/"+o.Object, o.Object+": "+text)
			}
		}
		switch status.State {
		case "":
		case "pending":
			rolling = append(rolling, fmt.Sprintf("%s at %s: %s", source, short(status.Seen), awaited(s)))
		default:
			p.once("verdict/"+s.Name, fmt.Sprintf("%s: %s at %s: %s", source, status.State, short(status.Seen), status.Message))
		}
	}
	p.screen.keep(strings.Join(rolling, "; "))
}

// more are the errors of a revision that its message does not tell.
func more(s v1alpha1.SourceStatus) []string {
	if len(s.Errors) == 1 && s.Message == s.Errors[0] {
		return nil
	}
	return s.Errors
}

// awaited says what a source waits for now. Of one that is rolling out its own message is posted too seldom for that.
func awaited(s control.SourceReport) string {
	healthy, waiting := 0, ""
	for _, o := range s.Objects {
		switch {
		case o.State == "healthy":
			healthy++
		case waiting == "" && o.Cause != "":
			waiting = "; " + o.Object + ": " + o.Cause
		}
	}
	if len(s.Objects) == 0 || !strings.HasPrefix(s.Status.Message, "rolling out ") {
		return s.Status.Message
	}
	return fmt.Sprintf("%d of %d healthy%s", healthy, len(s.Objects), waiting)
}

// fetched prints why a source cannot be read, and when it can be again.
func (p *progress) fetched(source, problem string) {
	key := "fetch/" + source
	switch {
	case problem != "":
		p.once(key, fmt.Sprintf("source %s: %s; trying again", source, problem))
	case p.last[key] != "":
		p.screen.line("source %s: can be read again", source)
		delete(p.last, key)
	}
}

// silence is how long a node has been silent, which says nothing new as it grows.
var silence = regexp.MustCompile(`silent for \d+ (s|min|h)\b`)

// once prints a thing's text unless it was the last that was printed of it.
func (p *progress) once(thing, text string) {
	meaning := silence.ReplaceAllString(text, "silent")
	if p.last[thing] == meaning {
		return
	}
	p.last[thing] = meaning
	p.screen.line("%s", text)
}
