package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
)

const (
	// memberTimeout bounds one change of the members: a write that a majority has on its disk.
	memberTimeout = 10 * time.Second
	// peerTimeout bounds a question to another member: a network that takes longer is no place for one.
	peerTimeout = time.Second
	// peerReadTimeout is etcd's own for requests of peers: a snapshot is one.
	peerReadTimeout = 5 * time.Minute
	// appliedPath tells other members how far this one is.
	appliedPath = "/lockstep/applied"
	// caughtUp is how many entries a learner may be behind and still count as caught up: what is written meanwhile.
	caughtUp = 500
	// dataDir and walDir are etcd's folders below ours; resetFile asks for a cluster of this member alone at the next start.
	dataDir, walDir = "member-data", "member/wal"
	resetFile       = "reset-quorum"
	// severalFile says that there have been other members.
	severalFile = "several"
)

// Peer is how the embedded etcd reaches other servers' and is reached by them, by TLS with client certificates.
type Peer struct {
	// Listen is the address, host:port, that is opened once there are other members.
	Listen string
	// URL is what others dial: https://host:port.
	URL string
	// TLS files, all required; they are read for each connection, but the authority's.
	TLS TLS
	// Name is the common name of members' certificates, which nobody else's has; empty: any of the authority's.
	Name string
	// Members are the peer URLs, by name, of the cluster that this member was added to, itself among them. They are of no
	// matter once there are data. Nil: it makes a cluster of its own.
	Members map[string]string
	// Client is a URL, https://host:port, at which clients are served that show a certificate. Empty: there is none.
	Client string
}

func (p *Peer) tls() transport.TLSInfo {
	info := transport.TLSInfo{
		TrustedCAFile: p.TLS.CAFile, CertFile: p.TLS.CertFile, KeyFile: p.TLS.KeyFile, ClientCertAuth: true,
	}
	if p.Name != "" {
		info.AllowedCNs = []string{p.Name}
	}
	return info
}

// Begun says that a data directory has a member's data.
func Begun(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, dataDir, walDir))
	return err == nil
}

// Several says that the member of a data directory has had others beside it.
func Several(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, severalFile))
	return err == nil
}

// Elected returns a channel that is closed when the members have another leader; for an external etcd it never is.
func (e *Etcd) Elected() <-chan struct{} {
	if e.server == nil {
		return nil
	}
	return e.server.Server.LeaderChangedNotify()
}

// Stopped is closed when the embedded etcd has stopped by itself: its member was removed. For an external one it never is.
func (e *Etcd) Stopped() <-chan struct{} {
	if e.server == nil {
		return nil
	}
	return e.server.Server.StopNotify()
}

// Member is one server of an embedded cluster.
type Member struct {
	ID uint64
	// Name is empty until it has started.
	Name string
	// PeerURL is empty for a member that is alone.
	PeerURL string
	// Learner has no vote.
	Learner bool
	// Self is the one in this process.
	Self bool
}

// Members are those that this process knows of, by id; none for an external etcd. It does not ask anybody.
func (e *Etcd) Members() []Member {
	if e.server == nil {
		return nil
	}
	var out []Member
	self := e.server.Server.MemberID()
	for _, m := range e.server.Server.Cluster().Members() {
		member := Member{ID: uint64(m.ID), Name: m.Name, Learner: m.IsLearner, Self: m.ID == self}
		if url := strings.Join(m.PeerURLs, ","); url != nobody {
			member.PeerURL = url
		}
		out = append(out, member)
	}
	return out
}

// Self is this process's member; the zero value for an external etcd.
func (e *Etcd) Self() Member {
	for _, m := range e.Members() {
		if m.Self {
			return m
		}
	}
	return Member{}
}

// Alone says that nobody else can write to this etcd while this process lives: it is embedded and has no other member.
func (e *Etcd) Alone() bool { return len(e.Members()) == 1 }

// Led says that the embedded etcd knows a leader: a majority of its members is there. It is true for an external one.
func (e *Etcd) Led() bool { return e.server == nil || e.server.Server.Leader() != 0 }

// Leader says whether the member of this id leads the members.
func (e *Etcd) Leader(id uint64) bool {
	return e.server != nil && uint64(e.server.Server.Leader()) == id
}

// Open makes a member that is alone one that others can reach. Where it is that already nothing is done.
func (e *Etcd) Open(ctx context.Context) error {
	self := e.Self()
	if self.PeerURL != "" {
		return nil
	}
	if e.server == nil || e.opts.Peer == nil {
		return errors.New("cannot take another member: etcd is not one that can have peers")
	}
	if err := e.listenPeers(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	if _, err := e.dialled.MemberUpdate(ctx, self.ID, []string{e.opts.Peer.URL}); err != nil {
		return fmt.Errorf("cannot make this member's address known: %w", err)
	}
	e.opts.Log.Info("etcd can be reached by other servers", "url", e.opts.Peer.URL)
	return nil
}

// AddLearner adds a member without a vote that will be at that URL.
func (e *Etcd) AddLearner(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	if _, err := e.dialled.MemberAddAsLearner(ctx, []string{url}); err != nil {
		return fmt.Errorf("cannot add a member at %s: %w", url, err)
	}
	return nil
}

// Promote gives a learner its vote. One that has it already is no error.
func (e *Etcd) Promote(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	for _, m := range e.Members() {
		if m.ID == id && !m.Learner {
			return nil
		}
	}
	if _, err := e.dialled.MemberPromote(ctx, id); err != nil && !strings.Contains(err.Error(), "can only promote a learner member") {
		return fmt.Errorf("cannot promote member %x: %w", id, err)
	}
	return nil
}

// Remove takes a member out. One that is not there is no error.
func (e *Etcd) Remove(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	if _, err := e.dialled.MemberRemove(ctx, id); err != nil && !strings.Contains(err.Error(), "member not found") {
		return fmt.Errorf("cannot remove member %x: %w", id, err)
	}
	return nil
}

// Behind asks another member how far it is: nil says that it has caught up with this one.
func (e *Etcd) Behind(ctx context.Context, m Member) error {
	if m.Self {
		return nil
	}
	applied, err := e.ask(ctx, m.PeerURL)
	if err != nil {
		return err
	}
	if mine := e.server.Server.AppliedIndex(); applied+caughtUp < mine {
		return fmt.Errorf("it is %d changes behind", mine-applied)
	}
	return nil
}

func (e *Etcd) ask(ctx context.Context, url string) (applied uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+appliedPath, nil)
	if err != nil {
		return 0, err
	}
	response, err := e.peers.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 100))
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("it answers %s", response.Status)
	}
	return strconv.ParseUint(string(text), 10, 64)
}

// peers is what serves other members and asks them. The zero value does neither.
type peers struct {
	client *http.Client

	mu      sync.Mutex
	server  *http.Server
	serving sync.WaitGroup
}

func (p *peers) prepare(peer *Peer) error {
	info := peer.tls()
	config, err := info.ClientConfig()
	if err != nil {
		return fmt.Errorf("cannot use the certificate for other servers: %w", err)
	}
	p.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: config, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
	}}
	return nil
}

// listenPeers serves other members, unless that is done already.
func (e *Etcd) listenPeers() error {
	p := &e.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	info := e.opts.Peer.tls()
	listener, err := transport.NewListenerWithOpts(e.opts.Peer.Listen, "https", transport.WithTLSInfo(&info),
		transport.WithTimeout(rafthttp.ConnReadTimeout, rafthttp.ConnWriteTimeout))
	if err != nil {
		return fmt.Errorf("cannot listen for other servers: %w", err)
	}
	if err := os.WriteFile(filepath.Join(e.opts.DataDir, severalFile), nil, 0o600); err != nil {
		e.opts.Log.Warn("cannot note that there are other servers", "error", err) // the next start keeps less for those that lag
	}
	mux := http.NewServeMux()
	mux.Handle("/", etcdhttp.NewPeerHandler(e.server.GetLogger(), e.server.Server))
	mux.HandleFunc("GET "+appliedPath, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strconv.FormatUint(e.server.Server.AppliedIndex(), 10))
	})
	p.server = &http.Server{Handler: mux, ReadTimeout: peerReadTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	p.serving.Go(func() { _ = p.server.Serve(listener) }) // it ends with an error, always
	return nil
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	if p.server != nil {
		_ = p.server.Close()
		p.serving.Wait()
	}
}

// AskReset has the next start of the member in a data directory make it the only one of its cluster, with all data that it has.
// The others may never come back then. One that waits for a majority starts again by itself.
func AskReset(dir string) error {
	if !Begun(dir) {
		return fmt.Errorf("cannot reset the quorum: %s has no data of a server", dir)
	}
	if err := os.WriteFile(filepath.Join(dir, resetFile), nil, 0o600); err != nil {
		return fmt.Errorf("cannot reset the quorum: %w", err)
	}
	return nil
}

func (e *Etcd) resetAsked() bool {
	_, err := os.Stat(filepath.Join(e.opts.DataDir, resetFile))
	return err == nil
}

func (e *Etcd) resetDone() error {
	err := os.Remove(filepath.Join(e.opts.DataDir, resetFile))
	if err == nil {
		e.opts.Log.Warn("this server is the only one of its cluster now: the others must be emptied and join anew")
	}
	return err
}
