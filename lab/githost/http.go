package githost

import (
	"compress/gzip"
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Handler serves smart HTTP (gitprotocol-http(5)): GET …/info/refs, POST …/git-upload-pack and …/git-receive-pack.
// Pushing is allowed to whoever may fetch.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.opts.Timeout)
	defer cancel()
	release, err := s.acquire(ctx)
	if err != nil {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	defer release()
	r = r.WithContext(ctx)
	w.Header().Set("Cache-Control", "no-cache")
	switch {
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/info/refs"):
		s.advertise(w, r)
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-upload-pack"):
		s.count("fetch")
		s.rpc(w, r, "upload-pack")
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack"):
		s.count("push")
		s.rpc(w, r, "receive-pack")
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) authorized(r *http.Request) bool {
	if s.opts.User == "" && s.opts.Password == "" && s.opts.Token == "" {
		return true
	}
	equal := func(a, b string) bool { return b != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return equal(token, s.opts.Token)
	}
	user, password, ok := r.BasicAuth()
	return ok && (equal(password, s.opts.Token) || equal(password, s.opts.Password) && user == s.opts.User)
}

func (s *Server) advertise(w http.ResponseWriter, r *http.Request) {
	service := r.URL.Query().Get("service")
	command, ok := strings.CutPrefix(service, "git-")
	if !ok || command != "upload-pack" && command != "receive-pack" {
		http.Error(w, "only smart HTTP is served", http.StatusForbidden)
		return
	}
	dir, err := s.find(strings.TrimSuffix(r.URL.Path, "/info/refs"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	s.count("list")
	w.Header().Set("Content-Type", "application/x-"+service+"-advertisement")
	line := "# service=" + service + "\n"
	fmt.Fprintf(w, "%04x%s0000", len(line)+4, line)
	cmd := git(r.Context(), command, "--stateless-rpc", "--advertise-refs", dir)
	cmd.Env = append(cmd.Env, protocol(r))
	cmd.Stdout = w
	if err := cmd.Run(); err != nil {
		panic(http.ErrAbortHandler) // the answer has begun: the client must see that it is cut
	}
}

func (s *Server) rpc(w http.ResponseWriter, r *http.Request, command string) {
	dir, err := s.find(strings.TrimSuffix(r.URL.Path, "/git-"+command))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			http.Error(w, "bad gzip", http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-git-"+command+"-result")
	cmd := git(r.Context(), command, "--stateless-rpc", dir)
	cmd.Env = append(cmd.Env, protocol(r))
	cmd.Stdin, cmd.Stdout = body, flusher{w}
	if err := cmd.Run(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// protocol passes on the protocol version that the client asks for, if it is one.
func protocol(r *http.Request) string {
	value := r.Header.Get("Git-Protocol")
	if len(value) > 64 || strings.ContainsAny(value, "\x00\n") {
		value = ""
	}
	return "GIT_PROTOCOL=" + value
}

// flusher sends progress as it comes.
type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if fl, ok := f.w.(http.Flusher); ok {
		fl.Flush()
	}
	return n, err
}
