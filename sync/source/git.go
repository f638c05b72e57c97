package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"lockstep/internal/giturl"
	"lockstep/internal/plain"
	"lockstep/kinds/v1alpha1"
	"lockstep/sync/source/clone"
)

const (
	defaultGitInterval = 15 * time.Second
	// defaultTimeout is how long a server may say nothing: longer than the largest forges take to begin.
	defaultTimeout = time.Minute
	// pokeEvery and pokeBurst bound the looks that are asked for: a few pushes one after the other are followed at once, a
	// storm of webhooks costs a forge one listing a second.
	pokeEvery, pokeBurst = time.Second, 10
)

// Repository is the shared place of all sources of one Git repository: they are listed and fetched together.
type Repository struct {
	url     string
	dir     string // of the clone
	sources []v1alpha1.Source
	opts    Options
	metrics *Metrics
	poke    chan struct{}
	asked   *rate.Limiter
	backoff *backoff

	damaged atomic.Bool  // the clone is to be made anew
	renewed atomic.Int64 // when it was, in seconds since 1970; zero: never

	mu     sync.Mutex    // one look at a time
	worker *clone.Worker // nil before the first look
	part   part
	last   map[string]yielded
}

type yielded struct {
	id  string
	err string
}

// identity of a repository: its URL and credentials. Two sources that differ in either share nothing.
func identity(s v1alpha1.Source) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00", s.Spec.URL)
	if c := s.Spec.Credentials; c != nil {
		fmt.Fprintf(h, "%q", []string{c.TokenFile, c.UsernameFile, c.PasswordFile, c.SSHKeyFile, c.KnownHostsFile, c.CAFile})
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

func newRepository(id string, s v1alpha1.Source, opts Options, m *Metrics) *Repository {
	poke := make(chan struct{}, 1)
	r := &Repository{
		url:     normalURL(s.Spec.URL),
		opts:    opts,
		metrics: m,
		poke:    poke,
		asked:   rate.NewLimiter(rate.Every(pokeEvery), pokeBurst),
		backoff: newBackoff(opts.Seed),
		part:    newPart(opts.Limits.OrDefault().CPU, time.Now()),
		last:    map[string]yielded{},
		dir:     filepath.Join(opts.DataDir, "git", id),
	}
	return r
}

// normalURL writes a path without a scheme as the file URL that it means.
func normalURL(raw string) string {
	if strings.HasPrefix(raw, "/") {
		return "file://" + raw
	}
	return raw
}

// Sources implements Watcher.
func (r *Repository) Sources() []v1alpha1.Source { return r.sources }

// Poke implements Watcher.
func (r *Repository) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Run implements Watcher.
func (r *Repository) Run(ctx context.Context, yield func(Update)) error {
	defer r.close()
	r.mu.Lock()
	clear(r.last)
	r.mu.Unlock()
	told := ""
	for ctx.Err() == nil {
		err := r.look(ctx, yield)
		if ctx.Err() != nil {
			break
		}
		r.metrics.looks.WithLabelValues(giturl.Redact(r.url), result(err)).Inc()
		wait := r.backoff.jitter(r.interval())
		if err != nil {
			wait = r.backoff.next()
			level := slog.LevelWarn
			if err.Error() == told {
				level = slog.LevelInfo
			}
			r.opts.Log.Log(ctx, level, "cannot look at the repository", "error", err, "again", wait.Round(time.Millisecond))
			told = err.Error()
		} else {
			r.backoff.reset()
			told = ""
		}
		if !r.rest(ctx, wait) {
			break
		}
	}
	return nil
}

func (r *Repository) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.worker != nil {
		r.worker.Close()
	}
}

// rest waits until the next look is due; false: ctx has ended.
func (r *Repository) rest(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-r.poke:
		return r.asked.Wait(ctx) == nil
	}
}

func (r *Repository) interval() time.Duration {
	shortest := time.Duration(0)
	for _, s := range r.sources {
		d := s.Spec.Interval.Duration
		if d == 0 {
			d = defaultGitInterval
		}
		if shortest == 0 || d < shortest {
			shortest = d
		}
	}
	return shortest
}

func (r *Repository) timeout() time.Duration {
	longest := time.Duration(0)
	for _, s := range r.sources {
		d := s.Spec.Timeout.Duration
		if d == 0 {
			d = defaultTimeout
		}
		longest = max(longest, d)
	}
	return longest
}

// look looks at all sources together, and yields what is new. The error is the first of any source.
func (r *Repository) look(ctx context.Context, yield func(Update)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.inTurn(ctx, r.sources)
	if ctx.Err() != nil {
		return nil
	}
	var first error
	for _, f := range found {
		switch {
		case f.err != nil:
			if r.last[f.name].err != f.err.Error() {
				r.last[f.name] = yielded{err: f.err.Error()}
				yield(Update{Source: f.name, Err: f.err})
			}
		case f.rev != nil:
			r.last[f.name] = yielded{id: f.rev.ID}
			yield(Update{Source: f.name, Revision: f.rev})
		}
		if first == nil {
			first = f.err
		}
	}
	return first
}

// Look implements Watcher. A clone that turns out damaged is made anew once.
func (r *Repository) Look(ctx context.Context, name string) (*Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.sources, func(s v1alpha1.Source) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("cannot look at source %s: it is none of this repository", name)
	}
	one := slices.Clone(r.sources[i : i+1])
	last := r.last[name]
	delete(r.last, name) // it is read also where it has not moved
	defer func() { r.last[name] = last }()
	found := r.inTurn(ctx, one)[0]
	if found.err != nil && r.damaged.Load() {
		found = r.newest(ctx, one)[0]
	}
	return found.rev, found.err
}

// outcome is what a look came to for one source; neither: it has not moved.
type outcome struct {
	name string
	rev  *Revision
	err  error
}

// newest reads the newest revision of each source that has moved. Where they cannot be had together,
// each is looked at by itself, so that one of them stops none of the others; what is too much then is a revision that is
// refused, so that its commit is told, and nothing tries it again until it is another one.
func (r *Repository) newest(ctx context.Context, sources []v1alpha1.Source) []outcome {
	if r.worker == nil {
		r.worker = clone.NewWorker(clone.Place{
			Dir: r.dir, URL: r.url, Credentials: r.sources[0].Spec.Credentials, Silence: r.timeout(),
			Limits: r.opts.Limits,
		}, r.opts.Crew)
	}
	anew := r.damaged.Swap(false)
	if anew {
		clear(r.last) // everything is yielded again
		r.renewed.Store(time.Now().Unix())
	}
	ask := clone.Look{Anew: anew}
	for _, s := range sources {
		ask.Sources = append(ask.Sources, clone.Wanted{
			Name: s.Name, Branch: s.Spec.Branch, Tag: s.Spec.Tag, Path: s.Spec.Path, Have: r.last[s.Name].id,
		})
	}
	answer, err := r.worker.Look(ctx, ask)
	r.tell(answer)
	if err == nil {
		out := make([]outcome, len(sources))
		for i, f := range answer.Found {
			out[i] = r.outcome(f, anew)
		}
		return out
	}
	failure, _ := errors.AsType[*clone.Failure](err)
	tooMuch := failure != nil && failure.Limit
	if failure != nil && !failure.Remote && len(answer.Commits) > 0 && len(sources) > 1 {
		var out []outcome
		for i := range sources {
			out = append(out, r.newest(ctx, sources[i:i+1])...)
		}
		return out
	}
	out := make([]outcome, len(sources))
	for i, s := range sources {
		out[i] = outcome{name: s.Name, err: wrap(err)}
		if commit := answer.Commits[s.Name]; tooMuch && commit != "" {
			out[i] = refused(s.Name, commit, failure)
		}
	}
	return out
}

// inTurn is newest, or what is told while the repository has used more than its part.
func (r *Repository) inTurn(ctx context.Context, sources []v1alpha1.Source) []outcome {
	used, now := time.Duration(0), time.Now()
	if r.worker != nil {
		used = r.worker.Used()
	}
	wait := r.part.wait(used, now)
	if wait <= 0 {
		return r.newest(ctx, sources)
	}
	err := fmt.Errorf("cannot look at %s yet: reading it has used %s of a processor and more than a fourth of it since; "+
		"the next look is at %s",
		giturl.Redact(r.url), r.part.most, now.Add(wait).UTC().Format(time.RFC3339))
	out := make([]outcome, len(sources))
	for i, s := range sources {
		out[i] = outcome{name: s.Name, err: err}
	}
	return out
}

// refused is a revision of which nothing is known but that it is too much.
func refused(name, commit string, f *clone.Failure) outcome {
	return outcome{name: name, rev: &Revision{ID: commit, Problems: []Problem{{Message: f.Text}}}}
}

// outcome of a source. What cannot be read from a clone that is new is not the clone's fault.
func (r *Repository) outcome(f clone.Found, anew bool) outcome {
	switch {
	case f.Err != nil && (f.Err.Limit || f.Err.Damaged && anew) && f.Commit != "":
		return refused(f.Name, f.Commit, f.Err)
	case f.Err != nil:
		if f.Err.Damaged {
			r.markDamaged()
		}
		return outcome{name: f.Name, err: wrap(f.Err)}
	case f.Revision == nil:
		return outcome{name: f.Name}
	}
	rev := &Revision{ID: f.Revision.ID, Author: f.Revision.Author, Message: f.Revision.Message, Time: f.Revision.Time,
		Problems: f.Revision.Files.Problems, Ignored: f.Revision.Files.Ignored, Files: make([]File, len(f.Revision.Files.Files))}
	rev.Passed = func(from string, most int) []string {
		return r.worker.Passed(context.Background(), clone.Passed{From: from, To: rev.ID, Most: most})
	}
	for i, m := range f.Revision.Files.Files {
		rev.Files[i] = File{Path: m.Path, Hash: m.ID, Read: func() ([]byte, error) {
			data, err := r.worker.Read(context.Background(), m.ID)
			if f, ok := errors.AsType[*clone.Failure](err); ok && f.Damaged {
				r.markDamaged()
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read %s: %w", m.Path, err)
			}
			return data, nil
		}}
	}
	return outcome{name: f.Name, rev: rev}
}

// markDamaged asks for the clone to be made anew at the next look, which is soon unless the clone is new.
func (r *Repository) markDamaged() {
	r.damaged.Store(true)
	if time.Since(time.Unix(r.renewed.Load(), 0)) > backoffMax {
		r.Poke()
	}
}

// tell counts and logs what a look did.
func (r *Repository) tell(a clone.Answer) {
	for _, s := range a.Steps {
		r.metrics.seconds.WithLabelValues(s.Name).Observe(s.Took.Seconds())
		if s.Way != "" {
			how := "ok"
			if s.Failed {
				how = "error"
			}
			r.metrics.fetches.WithLabelValues(s.Way, how).Inc()
		}
	}
	for _, note := range a.Notes {
		r.opts.Log.Warn("what became of the clone", "url", giturl.Redact(r.url), "note", plain.Text(giturl.Text(note)))
	}
}

// wrap makes a failure that came from another process one that errors.Is knows.
func wrap(err error) error {
	if f, ok := errors.AsType[*clone.Failure](err); ok && f.NotFound {
		return &readError{f.Text, ErrNotFound}
	}
	return err
}

// readError shows the text and keeps the cause for errors.Is.
type readError struct {
	text  string
	cause error
}

func (e *readError) Error() string { return e.text }
func (e *readError) Unwrap() error { return e.cause }
