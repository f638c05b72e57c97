// Package forge posts verdicts as commit statuses.
package forge

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"lockstep/kinds/v1alpha1"
	"lockstep/sync/verdict"
)

// Forge is one repository on a forge. A Forge may be used by several goroutines. All methods end when ctx does.
type Forge interface {
	// Post adds a status to a commit. Posting the same again adds a second one. An error that is not a *Refusal leaves
	// it open whether the status was added.
	Post(ctx context.Context, commit string, s verdict.Status) error
	// Last returns the newest status of a commit in a context; false where there is none.
	Last(ctx context.Context, commit, name string) (verdict.Status, bool, error)
}

// Refusal is an answer of the forge by which the status was certainly not added.
type Refusal struct {
	Code int // HTTP
	// After is how long the forge asks to be left alone; zero: it does not say.
	After time.Duration
	Text  string
}

func (r *Refusal) Error() string { return fmt.Sprintf("the forge answered %d: %s", r.Code, r.Text) }

// Unknowable says that the forge does not know the commit or repository, or does not take such a status: trying the
// same again may help, but nobody need wait for it.
func (r *Refusal) Unknowable() bool { return r.Code == 404 || r.Code == 422 || r.Code == 400 }

// ErrUnsupported: the forge's type is not known.
var ErrUnsupported = errors.New("the forge's type is not supported; supported is gitea (also Forgejo)")

// New returns the forge of a source; nil where it names none.
func New(s v1alpha1.Source) (Forge, error) {
	f := s.Spec.Forge
	if f == nil {
		return nil, nil
	}
	if f.Type != "gitea" && f.Type != "forgejo" {
		return nil, fmt.Errorf("cannot use forge %q of source %s: %w", f.Type, s.Name, ErrUnsupported)
	}
	base, repository := f.URL, f.Repository
	if base == "" || repository == "" {
		u, path := guess(s.Spec.URL)
		if base == "" {
			base = u
		}
		if repository == "" {
			repository = path
		}
	}
	owner, name, ok := strings.Cut(repository, "/")
	if base == "" || !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("cannot use the forge of source %s: its url and its repository (owner/name) are not set and do not "+
			"follow from the source's url", s.Name)
	}
	return &gitea{url: base, owner: owner, name: name, tokenFile: f.TokenFile, caFile: f.CAFile}, nil
}

// guess takes a forge's URL and repository from a source's: https://host/owner/name.git, ssh://git@host/owner/name,
// git@host:owner/name.
func guess(raw string) (base, repository string) {
	if u, err := url.Parse(raw); err == nil && u.Host != "" {
		switch u.Scheme {
		case "http", "https":
			return u.Scheme + "://" + u.Host, trim(u.Path)
		case "ssh":
			return "https://" + u.Hostname(), trim(u.Path)
		}
		return "", ""
	}
	if before, path, ok := strings.Cut(raw, ":"); ok && !strings.HasPrefix(raw, "/") && !strings.Contains(raw, "://") {
		_, host, found := strings.Cut(before, "@")
		if !found {
			host = before
		}
		return "https://" + host, trim(path)
	}
	return "", ""
}

func trim(path string) string { return strings.TrimSuffix(strings.Trim(path, "/"), ".git") }
