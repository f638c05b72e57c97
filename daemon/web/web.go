// Package web is the status page: what the sources say, what runs, and which line of which file each container is from.
package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lockstep/daemon/provenance"
	"lockstep/internal/plain"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/sync/apply"
	"lockstep/sync/report"
)

//go:embed page.html style.css refresh.js
var files embed.FS

var templates = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"short": v1alpha1.ShortRevision, "person": person, "assets": assets,
	"split": func(path string) []string { return strings.Split(path, "/") },
}).ParseFS(files, "page.html"))

const (
	readTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
	idleTimeout  = 2 * time.Minute
	drainTimeout = time.Second // a page takes milliseconds
)

// assets tells this release's files from those that a browser has kept of another.
var assets = sync.OnceValue(func() string {
	sum := fnv.New64a()
	for _, name := range []string{"style.css", "refresh.js"} {
		data, err := files.ReadFile(name)
		if err != nil {
			panic("web: a file that is part of the program is not there: " + err.Error())
		}
		_, _ = sum.Write(data)
	}
	return strconv.FormatUint(sum.Sum64(), 36)
})

// policy: nothing but the page's own files, no frames, no forms. Everything shown is text that a template escaped.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Options of the status page. Store is required.
type Options struct {
	Store store.Reader
	// Inventories may be those that others read, too. Nil: the page's own.
	Inventories *apply.Inventories
	// Cluster is shown as the title. Empty: "lockstep".
	Cluster string
	// Version of Lockstep, shown at the foot.
	Version string
	// Health says why the store does not work now. Nil: that is not shown.
	Health func() error
	// Warning says what will keep it from working. Nil, or an empty text: that is not shown.
	Warning func() string
	// Notice says what is to be done although it works. Nil, or an empty text: that is not shown.
	Notice func() string
	// Hosts are the names under which the page may be asked for, beside addresses and localhost: a page of somebody
	// else's whose name leads here must not read it through a visitor's browser. "*" means any.
	Hosts []string
	// Log. Nil: slog.Default().
	Log *slog.Logger
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
}

// Server is the status page.
type Server struct {
	opts    Options
	origins *provenance.Finder
}

// New returns the page; it starts nothing.
func New(opts Options) *Server {
	if opts.Cluster == "" {
		opts.Cluster = "lockstep"
	}
	if opts.Inventories == nil {
		opts.Inventories = &apply.Inventories{}
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Server{opts: opts, origins: provenance.New()}
}

// RevisionPath is the page about one revision of a source: the target of its commit statuses.
func RevisionPath(source, revision string) string {
	return "/sources/" + url.PathEscape(source) + "/" + url.PathEscape(revision)
}

// Handler answers GET for /, /sources/<name> and /sources/<name>/<revision>.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.cluster)
	mux.HandleFunc("GET /sources/{source}", s.source)
	mux.HandleFunc("GET /sources/{source}/{revision}", s.source)
	for name, kind := range map[string]string{"style.css": "text/css; charset=utf-8", "refresh.js": "text/javascript; charset=utf-8"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			data, err := files.ReadFile(name)
			if err != nil {
				http.Error(w, "not found", http.StatusNotFound)
				return
			}
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "max-age=86400")
			_, _ = w.Write(data)
		})
	}
	return s.guarded(mux)
}

// guarded sets the headers of every answer and refuses names that are not ours.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !s.ours(r.Host) {
			http.Error(w, "this status page is not served under that name; see --status-url", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) ours(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	name = strings.Trim(name, "[]")
	return net.ParseIP(name) != nil || strings.EqualFold(name, "localhost") ||
		slices.Contains(s.opts.Hosts, "*") || slices.ContainsFunc(s.opts.Hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

// Serve answers on the listener until ctx ends; then it returns nil.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.Handler(), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot serve the status page on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			_ = server.Close()
		}
		return nil
	})
	return g.Wait()
}

func (s *Server) cluster(w http.ResponseWriter, _ *http.Request) {
	v, now := s.opts.Store.View(), s.opts.Now()
	p := s.page(now)
	p.Sources = sources(v, now, "")
	p.Objects = s.objects(v, now, "", "")
	p.Nodes = s.nodes(v, now)
	p.Left = left(report.LeftOver(v, apply.Stated))
	p.Drift = drifts(v, now, "", "")
	p.Events = events(v, now)
	p.Facts = facts(p)
	s.render(w, http.StatusOK, p)
}

func (s *Server) source(w http.ResponseWriter, r *http.Request) {
	name, revision := r.PathValue("source"), r.PathValue("revision")
	v, now := s.opts.Store.View(), s.opts.Now()
	p := s.page(now)
	p.Sources = sources(v, now, name)
	if len(p.Sources) == 0 {
		p.Problem = "There is no source " + name + "."
		s.render(w, http.StatusNotFound, p)
		return
	}
	p.Title = name
	if revision == "" {
		p.Objects, p.Drift = s.objects(v, now, name, ""), drifts(v, now, name, "")
		s.render(w, http.StatusOK, p)
		return
	}
	p.Title = name + " " + v1alpha1.ShortRevision(revision)
	p.Revision = revisionOf(v, p.Sources[0], revision)
	only := revision
	if p.Revision.Accepted {
		only = "" // all objects are those of this revision
	}
	p.Objects, p.Drift = s.objects(v, now, name, only), drifts(v, now, name, only)
	s.render(w, http.StatusOK, p)
}

func (s *Server) page(now time.Time) *page {
	p := &page{Cluster: s.opts.Cluster, Version: s.opts.Version, At: now.UTC().Format(time.DateTime) + " UTC"}
	if s.opts.Health != nil {
		if err := s.opts.Health(); err != nil {
			p.Problem = "The store does not work now: " + err.Error()
		}
	}
	if s.opts.Warning != nil && p.Problem == "" {
		if text := s.opts.Warning(); text != "" {
			p.Problem = "Soon the store will not work: " + text
		}
	}
	if s.opts.Notice != nil && p.Problem == "" {
		p.Problem = s.opts.Notice()
	}
	return p
}

func (s *Server) render(w http.ResponseWriter, status int, p *page) {
	var out bytes.Buffer
	if err := templates.Execute(&out, p); err != nil {
		s.opts.Log.Error("the status page cannot be rendered", "error", err)
		http.Error(w, "the page cannot be rendered", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, plain.Page(out.String())) // templates leave what changes the order of characters
}
