package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/memory"
	"golang.org/x/time/rate"

	"lockstep/kinds/v1alpha1"
)

const (
	defaultGitInterval = 15 * time.Second
	defaultTimeout     = time.Minute
	// pokeEvery and pokeBurst bound the looks that are asked for: a few pushes one after the other are followed at once, a
	// storm of webhooks costs a forge one listing a second.
	pokeEvery, pokeBurst = time.Second, 10
	// maxPacks is how many packs (one a fetch) a clone may gather before the next fetch makes it anew: a lookup tries
	// every pack.
	maxPacks = 100
)

// Repository is the shared place of all sources of one Git repository: they are listed and fetched together.
type Repository struct {
	url     string
	clone   *clone
	sources []v1alpha1.Source
	opts    Options
	metrics *metrics
	poke    chan struct{}
	asked   *rate.Limiter
	backoff *backoff

	mu   sync.Mutex // one look at a time
	last map[string]yielded
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

func newRepository(id string, s v1alpha1.Source, opts Options, m *metrics) *Repository {
	poke := make(chan struct{}, 1)
	r := &Repository{
		url:     normalURL(s.Spec.URL),
		opts:    opts,
		metrics: m,
		poke:    poke,
		asked:   rate.NewLimiter(rate.Every(pokeEvery), pokeBurst),
		backoff: newBackoff(opts.Seed),
		last:    map[string]yielded{},
	}
	r.clone = &clone{dir: filepath.Join(opts.DataDir, "git", id), url: r.url, metrics: m, log: opts.Log, damaged: r.Poke}
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
		r.metrics.looks.WithLabelValues(Redact(r.url), result(err)).Inc()
		wait := r.backoff.jitter(r.interval())
		if err != nil {
			wait = r.backoff.next()
			level := slog.LevelWarn
			if err = r.explain(err); err.Error() == told {
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
	r.clone.close()
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

// look lists the references once, fetches once if any source's has moved, and yields what is new. The error is the
// first of any source.
func (r *Repository) look(ctx context.Context, yield func(Update)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repair()
	commits, errs := r.newest(ctx)
	if ctx.Err() != nil {
		return nil
	}
	var first error
	for _, s := range r.sources {
		err := errs[s.Name]
		var rev *Revision
		if err == nil && r.last[s.Name] == (yielded{id: commits[s.Name].String()}) {
			continue
		}
		if err == nil {
			rev, err = r.clone.revision(commits[s.Name], s)
			if err != nil {
				r.clone.markDamaged()
			}
		}
		r.report(s.Name, rev, err, yield)
		if first == nil {
			first = err
		}
	}
	return first
}

// repair throws away a clone that was found damaged, so that the next fetch makes it anew and everything is yielded again.
func (r *Repository) repair() {
	if r.clone.takeDamage() {
		r.clone.discard()
		clear(r.last)
	}
}

func (r *Repository) report(name string, rev *Revision, err error, yield func(Update)) {
	if err != nil {
		err = r.explain(err)
		if r.last[name].err != err.Error() {
			r.last[name] = yielded{err: err.Error()}
			yield(Update{Source: name, Err: err})
		}
		return
	}
	r.last[name] = yielded{id: rev.ID}
	yield(Update{Source: name, Revision: rev})
}

// Look implements Watcher. A clone that turns out damaged is made anew once.
func (r *Repository) Look(ctx context.Context, name string) (*Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.sources, func(s v1alpha1.Source) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("cannot look at source %s: it is none of this repository", name)
	}
	rev, err := r.one(ctx, r.sources[i])
	if err != nil && r.clone.isDamaged() {
		r.repair()
		rev, err = r.one(ctx, r.sources[i])
	}
	if err != nil {
		return nil, r.explain(err)
	}
	return rev, nil
}

func (r *Repository) one(ctx context.Context, s v1alpha1.Source) (*Revision, error) {
	commits, errs := r.newest(ctx)
	if err := errs[s.Name]; err != nil {
		return nil, err
	}
	rev, err := r.clone.revision(commits[s.Name], s)
	if err != nil {
		r.clone.markDamaged()
	}
	return rev, err
}

// newest returns each source's commit, after fetching those that are not there; or why it has none.
func (r *Repository) newest(ctx context.Context) (map[string]plumbing.Hash, map[string]error) {
	errs := map[string]error{}
	fail := func(err error) (map[string]plumbing.Hash, map[string]error) {
		for _, s := range r.sources {
			if errs[s.Name] == nil {
				errs[s.Name] = err
			}
		}
		return nil, errs
	}
	timeout := r.timeout()
	a, err := open(r.url, r.sources[0].Spec.Credentials, timeout)
	if err != nil {
		return fail(err)
	}
	listed, err := r.list(ctx, a, timeout)
	if err != nil {
		return fail(err)
	}
	refs := map[string]reference{}
	var wanted []reference
	for _, s := range r.sources {
		ref, err := resolve(listed, s)
		if err != nil {
			errs[s.Name] = err
			continue
		}
		refs[s.Name] = ref
		wanted = append(wanted, ref)
	}
	if err := r.clone.have(ctx, wanted, a, timeout); err != nil {
		return fail(err)
	}
	commits := map[string]plumbing.Hash{}
	for name, ref := range refs {
		if commits[name], err = r.clone.commit(ref); err != nil {
			errs[name] = err
		}
	}
	return commits, errs
}

func (r *Repository) list(ctx context.Context, a access, timeout time.Duration) (map[string]plumbing.Hash, error) {
	defer r.metrics.took("list", time.Now())
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{r.url}})
	refs, err := remote.ListContext(ctx, &git.ListOptions{Auth: a.auth, CABundle: a.caBundle, PeelingOption: git.AppendPeeled})
	if err != nil {
		return nil, err
	}
	listed := map[string]plumbing.Hash{}
	var head plumbing.ReferenceName
	for _, ref := range refs {
		if ref.Type() == plumbing.SymbolicReference {
			head = ref.Target()
			continue
		}
		listed[ref.Name().String()] = ref.Hash()
	}
	if hash, ok := listed[head.String()]; ok && head != "" {
		listed["HEAD"] = hash
	}
	return listed, nil
}

// reference is a remote reference and the object it is at: for an annotated tag, the tag object.
type reference struct {
	name string
	hash plumbing.Hash
}

func resolve(listed map[string]plumbing.Hash, s v1alpha1.Source) (reference, error) {
	name, what := "HEAD", "the default branch"
	switch {
	case s.Spec.Branch != "":
		name, what = "refs/heads/"+s.Spec.Branch, "branch "+s.Spec.Branch
	case s.Spec.Tag != "":
		name, what = "refs/tags/"+s.Spec.Tag, "tag "+s.Spec.Tag
	}
	hash, ok := listed[name]
	if !ok {
		return reference{}, fmt.Errorf("%s %w", what, ErrNotFound)
	}
	return reference{name, hash}, nil
}

// explain names the repository and puts go-git's errors in words of ours, without credentials.
func (r *Repository) explain(err error) error {
	cause := err.Error()
	var request *url.Error
	switch {
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		cause = "the repository has no commits"
	case errors.Is(err, transport.ErrAuthenticationRequired):
		cause = "it wants credentials that it was not given or does not take (a Source names them in spec.credentials)"
	case errors.Is(err, transport.ErrAuthorizationFailed):
		cause = "the credentials do not allow reading it"
	case errors.Is(err, transport.ErrRepositoryNotFound):
		cause = "there is no such repository, or the credentials do not show it"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		cause = fmt.Sprintf("no answer within %s", r.timeout())
	case errors.As(err, &request):
		cause = request.Err.Error() // the URL is told already
	}
	cause = strings.ReplaceAll(cause, r.url, Redact(r.url))
	return &readError{text: fmt.Sprintf("cannot read %s: %s", Redact(r.url), cause), cause: err}
}

// readError shows the text and keeps the cause for errors.Is.
type readError struct {
	text  string
	cause error
}

func (e *readError) Error() string { return e.text }
func (e *readError) Unwrap() error { return e.cause }
