package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"lockstep/daemon/etcd"
	"lockstep/daemon/members"
	"lockstep/daemon/pki"
	"lockstep/internal/settings"
	"lockstep/internal/sleep"
	"lockstep/store"
)

const (
	// standEvery is how often a server without a vote looks whether it has one.
	standEvery = 200 * time.Millisecond
	// quorumEvery is how often it is looked whether a majority is there.
	quorumEvery = 2 * time.Second
	// peerEvery is how often it is looked whether the certificate for other servers is to be renewed; it has a month left then.
	peerEvery = time.Hour
	// hallTimeout bounds a request to a server that is not ready.
	hallTimeout = 10 * time.Second
	// standTell is how often it says so.
	standTell = time.Minute
)

func etcdDir(o Options) string { return filepath.Join(o.DataDir, "etcd") }

func vaultOf(o Options) pki.Dir { return pki.Dir(filepath.Join(o.DataDir, "pki")) }

func openAuthority(o Options) (*pki.Authority, error) {
	return pki.Open(vaultOf(o), pki.Options{Cluster: o.Cluster})
}

// enter opens etcd, as one server of a cluster or as a cluster of its own. It returns when requests are taken: a server that joins has
// its vote then. The authority is nil where etcd is external and has not been joined.
func enter(ctx context.Context, o Options, registry prometheus.Registerer) (*etcd.Etcd, *pki.Authority, error) {
	external := len(o.Etcd.Endpoints) > 0
	hall := &hall{at: o.Listen}
	defer hall.close()
	var others map[string]string
	if joining, err := toJoin(o); err != nil {
		return nil, nil, err
	} else if joining {
		o.Log.Info("this server joins a cluster", "cluster", o.Join.Server, "server", o.Name)
		if others, err = members.Ask(ctx, o.Join, vaultOf(o), joinRequest(o, external), o.Log); err != nil {
			return nil, nil, err
		}
	}
	if external {
		database, err := etcd.Start(ctx, etcdOptions(o, registry, nil))
		return database, nil, err
	}
	authority, err := openAuthority(o)
	if err != nil {
		return nil, nil, err
	}
	peer, err := peerOf(o, authority, others)
	if err != nil {
		return nil, nil, err
	}
	if others != nil || etcd.Several(etcdDir(o)) {
		if err := hall.open(authority, pki.ServerHosts(settings.Default(), o.Advertise.Addr().String(), o.Name)); err != nil {
			return nil, nil, err
		}
	}
	hall.say("etcd waits for a majority of the cluster's servers; if these are lost for good, see lockstep server reset-quorum")
	database, err := etcd.Start(ctx, etcdOptions(o, registry, peer))
	if errors.Is(err, etcd.ErrStopped) {
		err = removedError(o, err)
	}
	if err == nil {
		err = standBy(ctx, o, database, hall)
		if err != nil {
			err = errors.Join(err, database.Close())
		}
	}
	return database, authority, err
}

// toJoin says whether this server has to ask to be one of a cluster first.
func toJoin(o Options) (bool, error) {
	if o.Join.Server == "" {
		return false, nil
	}
	if len(o.Etcd.Endpoints) == 0 {
		return !etcd.Begun(etcdDir(o)), nil
	}
	_, err := vaultOf(o).Read("ca.key")
	return err != nil, nil
}

func joinRequest(o Options, external bool) members.JoinRequest {
	r := members.JoinRequest{Name: o.Name, Cluster: o.Cluster, Settings: o.Settings}
	if !external {
		r.Peer = "https://" + o.Peer.String()
	}
	return r
}

// peerOf is how this server's etcd meets others.
func peerOf(o Options, authority *pki.Authority, others map[string]string) (*etcd.Peer, error) {
	ca, pair, err := authority.KeepPeer(vaultOf(o), o.Peer.Addr().String())
	if err != nil {
		return nil, err
	}
	return &etcd.Peer{
		Listen: netip.AddrPortFrom(o.Listen.Addr(), o.Peer.Port()).String(), URL: "https://" + o.Peer.String(),
		TLS: etcd.TLS{CAFile: ca, CertFile: pair, KeyFile: pair}, Name: pki.PeerName, Members: others,
	}, nil
}

// standBy returns when this server has its vote.
func standBy(ctx context.Context, o Options, database *etcd.Etcd, hall *hall) error {
	var told time.Time
	for database.Self().Learner {
		text := fmt.Sprintf("this server stands by and has no vote yet: it gets it when it has caught up, and the number of servers is "+
			"odd by it; there are %d", len(database.Members()))
		hall.say(text)
		if time.Since(told) > standTell {
			told = time.Now()
			o.Log.Warn("this server stands by", "why", text)
		}
		select {
		case <-database.Stopped():
			return removedError(o, etcd.ErrStopped)
		default:
		}
		if !sleep.For(ctx, standEvery) {
			return ctx.Err()
		}
	}
	return nil
}

// removedError says what follows from etcd's having stopped by itself.
func removedError(o Options, err error) error {
	return fmt.Errorf("%w: this server was removed from its cluster; to have it join anew, remove %s and start it with --join", err,
		etcdDir(o))
}

// keepServers is the leader's work on the members.
func (p *plane) keepServers(c store.Committer) func(context.Context) error {
	return (&members.Keeper{Etcd: p.etcd, Store: p.store, Commit: c, Silent: p.silent, Log: p.opts.Log}).Run
}

// runEtcd looks after etcd, and after the majority of its members.
func (p *plane) runEtcd(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := p.etcd.Run(ctx)
		if errors.Is(err, etcd.ErrStopped) {
			err = removedError(p.opts, err)
		}
		return err
	})
	g.Go(func() error { return p.watchQuorum(ctx) })
	return g.Wait()
}

// watchQuorum tells when the majority of the servers goes and comes, and has this server go on alone where that is asked for
// meanwhile. It keeps the certificate by which servers know each other, too.
func (p *plane) watchQuorum(ctx context.Context) error {
	lost := false
	for kept := time.Now(); sleep.For(ctx, quorumEvery); {
		if p.etcd.Embedded() && time.Since(kept) > peerEvery {
			kept = time.Now()
			if _, _, err := p.authority.KeepPeer(p.vault, p.opts.Peer.Addr().String()); err != nil {
				p.opts.Log.Error("cannot renew the certificate for other servers", "error", err)
			}
		}
		err := p.quorum()
		switch {
		case err != nil && !lost:
			p.opts.Log.Error("no majority of the servers is there", "error", err)
		case err == nil && lost:
			p.opts.Log.Info("a majority of the servers is there again")
		}
		if lost = err != nil; lost {
			if err := p.etcd.ResetIfAsked(); err != nil {
				return err
			}
		}
	}
	return nil
}

// serverDoor takes the requests of servers that join.
func (p *plane) serverDoor() *members.Door {
	return &members.Door{
		Etcd: p.etcd, Store: p.store, Tokens: pki.Tokens{Store: p.store, Commit: p.store}, Vault: p.vault, Cluster: p.opts.Cluster,
		Settings: p.settings,
	}
}

// hall answers in the place of the API while it cannot be served: that it is not ready, and why.
type hall struct {
	at netip.AddrPort

	mu      sync.Mutex
	why     string
	server  *http.Server
	serving sync.WaitGroup
}

func (h *hall) say(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = why
}

func (h *hall) open(authority *pki.Authority, hosts []string) error {
	config, err := authority.ServerConfig(hosts)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", h.at.String())
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	h.server = &http.Server{
		Handler: h, ReadTimeout: hallTimeout, WriteTimeout: hallTimeout, ErrorLog: log.New(io.Discard, "", 0), // any scanner makes them
	}
	h.serving.Go(func() { _ = h.server.Serve(tls.NewListener(listener, config)) }) // it ends with an error, always
	return nil
}

// ServeHTTP implements http.Handler.
func (h *hall) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.Header().Set("Retry-After", "1")
	http.Error(w, "[-]server failed: "+h.why, http.StatusServiceUnavailable)
}

func (h *hall) close() {
	if h.server == nil {
		return
	}
	_ = h.server.Close()
	h.serving.Wait()
}
