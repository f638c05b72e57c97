// Package api is the read-only Kubernetes API of the cluster, with the few writes that nodes and programs may make.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"lockstep/daemon/api/accounts"
	"lockstep/daemon/api/watch"
	"lockstep/daemon/pki"
	"lockstep/internal/recall"
	"lockstep/internal/settings"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/found"
)

// Tunnels reach agents over the connections that they opened.
type Tunnels interface {
	// Transport sends requests to the agent of a node, or returns nil where the node has no connection open here, nor can have one to
	// another server. The requests' host is the node's name; their scheme is of no matter.
	Transport(node string) http.RoundTripper
	// Accept answers GET /lockstep/v1/tunnel of a node whose certificate was verified, and takes the connection over. It
	// returns when the tunnel has ended, at the latest soon after the request's context.
	Accept(w http.ResponseWriter, r *http.Request, node string)
}

// Rebuild brings back into the store what nodes run.
type Rebuild interface {
	// Answer tells a node how far that is.
	Answer(node string) recall.Answer
	// Offer takes in a part of what a node runs. An error is the store's, or says that it is too early: it is to be sent again.
	Offer(ctx context.Context, node string, o recall.Offer) (recall.Answer, error)
}

// Options of an API server. Store and Authority are required.
type Options struct {
	Store     store.Backend
	Authority *pki.Authority
	// Nodes gives names to nodes' keys; Run runs it. Nil: one that keeps no ledger.
	Nodes *pki.Registrar
	// Hosts are the names and addresses that the server's certificate is for; see pki.ServerHosts.
	Hosts []string
	// Tunnels reach the agents. Nil: logs and statistics of pods cannot be read.
	Tunnels Tunnels
	// Peers answers other servers, below rights.PeersPath. Nil: 404.
	Peers http.Handler
	// Hooks answers POST /hooks/git, which is not authenticated: it checks its own signatures. Nil: 404.
	Hooks http.Handler
	// Servers answers POST /lockstep/v1/servers/join, which checks its own tokens. Nil: 404.
	Servers http.Handler
	// Rebuild brings back what nodes run, where the store is new to them. Nil: 404, and they go on with what the store has.
	Rebuild Rebuild
	// Settings of the cluster, which GET /lockstep/v1/settings tells. The zero value: settings.Default().
	Settings settings.Settings
	// History names the store's data: another name means that revisions of before say nothing of it. Every answer bears it as
	// HistoryHeader. Empty: none does.
	History string
	// Quorum says for /readyz that there is no majority of the servers, and Silent which of them are not heard of; empty: all are. Nil:
	// there is one server.
	Quorum func() error
	Silent func() string
	// Disk says for /readyz what is wrong with the disk of the cluster's data, or will be: a warning, or an error while no
	// changes are taken. Nil: nothing is.
	Disk func() (warning string, err error)
	// Drift counts what nodes tell of it. Nil: nothing is counted.
	Drift *found.Counts
	// Gatherer is what /metrics shows. Nil: prometheus.DefaultGatherer.
	Gatherer prometheus.Gatherer
	// Registerer takes the server's own metrics. Nil: they are not registered.
	Registerer prometheus.Registerer
	// Log. Nil: slog.Default().
	Log *slog.Logger
	// Version of Lockstep, shown in /version after Kubernetes' own. Empty: "dev".
	Version string
	// MaxReads and MaxWrites bound the requests under way, watches and followed logs apart. Zero: 400 and 200, as in
	// Kubernetes.
	MaxReads, MaxWrites int
	// RequestTimeout ends requests other than watches, followed logs and tunnels. Zero: a minute.
	RequestTimeout time.Duration
	// Silence of a client after which it is asked whether it is there; without an answer for as long again its connection ends,
	// and its watches with it. Zero: 15 s.
	Silence time.Duration
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
}

// Server is one API server.
type Server struct {
	*server
	handler http.Handler
}

// server is what the handlers share.
type server struct {
	opts   Options
	store  store.Backend
	hub    *watch.Hub
	log    *slog.Logger
	now    func() time.Time
	tokens pki.Tokens
	joins  *pki.Registrar
	// accounts has the tokens of service accounts.
	accounts *accounts.Authority
	infos    request.RequestInfoFactory
	metrics  *metrics
	reads    chan struct{}
	writes   chan struct{}
	making   chan struct{} // has a place for one; see turn
	budgets  budgets
	stays    *stays
	conns    *conns
	policies policies
	drift    found.Keeper
}

// New makes a server; it starts nothing.
func New(opts Options) *Server {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	opts.Settings = opts.Settings.Or(settings.Default())
	if opts.Gatherer == nil {
		opts.Gatherer = prometheus.DefaultGatherer
	}
	if opts.Version == "" {
		opts.Version = "dev"
	}
	if opts.RequestTimeout == 0 {
		opts.RequestTimeout = requestTimeout
	}
	if opts.Silence == 0 {
		opts.Silence = clientSilence
	}
	if opts.MaxReads == 0 {
		opts.MaxReads = 400
	}
	if opts.MaxWrites == 0 {
		opts.MaxWrites = 200
	}
	tokens := pki.Tokens{Store: opts.Store, Commit: opts.Store, Now: opts.Now}
	if opts.Nodes == nil {
		opts.Nodes = pki.NewRegistrar(opts.Authority, tokens, pki.RegistrarOptions{Log: opts.Log})
	}
	s := &server{
		opts: opts, store: opts.Store, log: opts.Log, now: opts.Now,
		tokens: tokens, joins: opts.Nodes, budgets: newBudgets(opts.MaxReads, opts.MaxWrites), conns: newConns(),
		infos:   request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
		metrics: newMetrics(opts.Registerer),
		reads:   make(chan struct{}, opts.MaxReads),
		writes:  make(chan struct{}, opts.MaxWrites),
		making:  make(chan struct{}, 1),
		drift:   found.Keeper{Store: opts.Store, Commit: opts.Store, Counts: opts.Drift, Now: opts.Now},
	}
	s.stays = newStays(s.decide)
	var err error
	if s.accounts, err = accounts.New(opts.Authority.AccountKey(), Issuer(opts.Settings), opts.Store.View); err != nil {
		panic("api: the key is of the right kind and the domain was checked: " + err.Error())
	}
	s.hub = watch.New(watch.Options{Store: opts.Store, Judge: s.judge, Registerer: opts.Registerer, Log: opts.Log,
		Now: opts.Now})
	return &Server{server: s, handler: s.historic(s.chain())}
}

// Issuer is who signs tokens of service accounts: the API's URL within a cluster.
func Issuer(s settings.Settings) string { return "https://kubernetes.default.svc." + s.Domain }

// judge ends what changes have taken the right from.
func (s *server) judge(v *view.View, changes []view.Change, all bool) {
	credentials, grants, losers := bearing(changes)
	s.stays.judge(v, all || credentials || grants, losers)
	if all || credentials {
		s.conns.judge(v)
	}
}

// HistoryHeader of an answer names the history that its revisions are of. It is another one once the store has been lost, so
// that a client that goes on from a revision learns that the number has another meaning now.
const HistoryHeader = "Lockstep-History"

// AuthorityHeader of an answer names the authority that signs certificates, and those that are trusted: where it is another one than a
// node got its certificate from, the node asks for a new one.
const AuthorityHeader = "Lockstep-Authority"

func (s *server) historic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.opts.History != "" {
			w.Header().Set(HistoryHeader, s.opts.History)
		}
		w.Header().Set(AuthorityHeader, s.opts.Authority.Mark())
		next.ServeHTTP(w, r)
	})
}

// Handler answers every request of the API. It needs Run for its view of the cluster.
func (s *Server) Handler() http.Handler { return s.handler }

// Run keeps the server's view of the store, and the names of nodes, until ctx ends; then it returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.joins.Run(ctx, s.store.Ready()) })
	g.Go(func() error {
		s.hub.Run(ctx)
		return nil
	})
	return g.Wait()
}

const (
	// headerTimeout: a client that is slower to say what it wants holds a connection for nothing.
	headerTimeout = 10 * time.Second
	// idleTimeout is longer than the period of every client's keep-alive requests.
	idleTimeout = 3 * time.Minute
	// clientSilence bounds how long what a vanished client held stays: TCP alone gives up after a quarter of an hour.
	clientSilence = 15 * time.Second
	// drainTimeout is how long requests may go on once the server stops; watches are told to end at once.
	drainTimeout = 3 * time.Second
)

// Serve answers on the listener over TLS, and runs, until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	config, err := s.opts.Authority.ServerConfig(s.opts.Hosts)
	if err != nil {
		return fmt.Errorf("cannot serve the API: %w", err)
	}
	// Requests end with the server, not with ctx, so that those that are short may be answered.
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler:           s.handler,
		TLSConfig:         config,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		ConnContext:       s.conns.context,
		ConnState:         s.conns.state,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          stdlog.New(quiet{s.log}, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1000, // an informer is a stream; Kubernetes allows 100 a client
			SendPingTimeout:      s.opts.Silence,
			PingTimeout:          s.opts.Silence,
		},
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	g.Go(func() error {
		if err := server.Serve(tls.NewListener(listener, config)); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot serve the API on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		s.hub.Close()
		grace, cancel := context.WithTimeout(base, drainTimeout)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			cut()
			_ = server.Close()
		}
		return nil
	})
	return g.Wait()
}

// quiet writes net/http's complaints about clients as debug lines: any scanner makes them.
type quiet struct{ log *slog.Logger }

func (q quiet) Write(line []byte) (int, error) {
	q.log.Debug("a connection to the API failed", "error", string(line))
	return len(line), nil
}
