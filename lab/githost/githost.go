// Package githost serves bare Git repositories over smart HTTP and SSH, by the git on this machine.
package githost

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Options of a Server. The zero value asks for no credentials over HTTP and lets nobody in over SSH.
type Options struct {
	// User and Password are HTTP basic credentials. Both empty: none are asked for.
	User, Password string
	// Token is taken as the password of any user and as a bearer token, beside User and Password. Empty: none.
	Token string
	// Requests bounds the git processes at a time. Zero: 16.
	Requests int
	// Timeout bounds one git process. Zero: 10 minutes, a first clone of a large repository over a slow link.
	Timeout time.Duration
}

// Server serves every repository below a folder.
type Server struct {
	root  string
	opts  Options
	slots chan struct{}

	mu       sync.Mutex
	requests map[string]int
}

// New returns a server of the repositories below root, which must exist. It starts nothing.
func New(root string, opts Options) *Server {
	if opts.Requests == 0 {
		opts.Requests = 16
	}
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Minute
	}
	return &Server{root: root, opts: opts, slots: make(chan struct{}, opts.Requests), requests: map[string]int{}}
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)

// Create makes a bare repository with the default branch main and returns its folder. One that is there stays as it is.
func (s *Server) Create(ctx context.Context, name string) (string, error) {
	if !nameForm.MatchString(name) {
		return "", fmt.Errorf("cannot create repository %q: a name has letters, digits and ._-/", name)
	}
	dir := s.Dir(name)
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		return dir, nil
	}
	if out, err := git(ctx, "init", "--quiet", "--bare", "--initial-branch=main", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot create repository %s: %w: %s", name, err, out)
	}
	return dir, nil
}

// Dir is where a repository lies, whether it exists or not.
func (s *Server) Dir(name string) string {
	return filepath.Join(s.root, filepath.FromSlash(strings.TrimSuffix(name, ".git"))+".git")
}

// Requests counts the packs of a repository that were asked for: "list" for references over HTTP, "fetch", "push".
func (s *Server) Requests(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[what]
}

func (s *Server) count(what string) {
	s.mu.Lock()
	s.requests[what]++
	s.mu.Unlock()
}

// find returns the folder of the repository that a client names.
func (s *Server) find(name string) (string, error) {
	name = strings.TrimSuffix(strings.Trim(name, "/"), ".git")
	if !nameForm.MatchString(name) {
		return "", fmt.Errorf("cannot serve repository %q: %w", name, fs.ErrNotExist)
	}
	dir := s.Dir(name)
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return "", fmt.Errorf("cannot serve repository %q: %w", name, fs.ErrNotExist)
	}
	return dir, nil
}

// acquire waits for a free slot; release it.
func (s *Server) acquire(ctx context.Context) (release func(), err error) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// git is a git command that reads nobody's configuration and trusts the repositories it is given.
func git(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*", "-c", "uploadpack.allowFilter=true"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
