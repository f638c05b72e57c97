package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// maxSocketPath is what sockaddr_un holds, without its NUL (unix(7)).
const maxSocketPath = 107

// nobody is the address that a member without peers, and every member for clients, advertises, since etcd insists on one. Nothing
// listens there and nobody dials it.
const nobody = "http://127.0.0.1:2380"

const (
	// walEntries is how many of raft's entries since its last snapshot are read at a start, into memory. Ours are
	// transactions of up to a mebibyte, some 80 KiB each in a revision of thousands of objects; etcd's own 10,000 are for
	// single keys. A snapshot is one sync of a small file and one commit, at most every few seconds at full speed.
	walEntries = 1000
	// aloneEntries and followerEntries of raft are kept in memory for a member that lags. Alone nobody does, and etcd's own
	// 5,000 held 170 MB after three changes of 20,000 ConfigMaps; a follower that lags by more gets all anew.
	aloneEntries    = 100
	followerEntries = 1000
	// maxLearners may be two: from one server to three both others catch up before the first of them gets its vote, so that
	// there are two voters, of which each can stop the cluster, for a moment only.
	maxLearners = 2
	// resetEvery is how often a member that waits for a majority looks whether it is to go on alone.
	resetEvery = time.Second
)

// ErrStopped says that the embedded etcd has ended by itself: its member was removed, or its data are not to be used.
var ErrStopped = errors.New("etcd has stopped by itself")

// Socket is the path of the embedded etcd's unix socket.
func (e *Etcd) Socket() string { return filepath.Join(e.opts.SocketDir, "etcd.sock") }

func (e *Etcd) socketURL() string { return "unix://" + e.Socket() }

func (e *Etcd) startEmbedded(ctx context.Context) error {
	if e.opts.DataDir == "" || e.opts.SocketDir == "" {
		return errors.New("an embedded etcd needs a data directory and a socket directory")
	}
	var err error
	if e.opts.SocketDir, err = filepath.Abs(e.opts.SocketDir); err != nil {
		return err
	}
	if path := e.Socket(); len(path) > maxSocketPath {
		return fmt.Errorf("the socket's path %s has %d bytes, %d is the most: choose a shorter run directory", path,
			len(path), maxSocketPath)
	}
	for _, dir := range []string{e.opts.SocketDir, e.opts.DataDir} {
		if err := private(dir); err != nil {
			return err
		}
	}
	e.disk = newDisk(e.opts.DataDir, e.opts.Log)
	if err := e.disk.awaitRoom(ctx); err != nil {
		return err
	}
	if e.lock, err = lockDir(e.opts.DataDir); err != nil {
		return err
	}
	if e.opts.Peer != nil {
		if err := e.peers.prepare(e.opts.Peer); err != nil {
			return err
		}
	}
	config, err := e.config()
	if err != nil {
		return err
	}
	if err := sound(e.opts.DataDir); err != nil {
		return err
	}
	e.disk.look()
	starting.Add(1)
	defer starting.Add(-1)
	started := make(chan error, 1)
	var server *embed.Etcd
	go func() { // it stands still where the disk fails it
		started <- recovered(func() (err error) {
			if server, err = embed.StartEtcd(config); err != nil {
				err = unsound(e.opts.DataDir, err)
			}
			return err
		})
	}()
	select {
	case err := <-started:
		if err != nil {
			return err
		}
	case <-e.disk.broke:
		return e.comeUpAgain(ctx)
	}
	e.server = server
	if e.Self().PeerURL != "" && e.opts.Peer != nil {
		if err := e.listenPeers(); err != nil {
			return err
		}
	}
	if err := e.awaitReady(ctx); err != nil || !config.ForceNewCluster {
		return err
	}
	return e.resetDone()
}

// awaitReady returns when the member takes requests: a majority is there.
func (e *Etcd) awaitReady(ctx context.Context) error {
	server := e.server
	patience := time.NewTimer(startTimeout)
	defer patience.Stop()
	look := time.NewTicker(resetEvery)
	defer look.Stop()
	elect := time.NewTicker(electEvery)
	defer elect.Stop()
	for {
		select {
		case <-elect.C:
			e.electAlone(ctx)
		case <-server.Server.ReadyNotify():
			if err := begun(e.opts.DataDir); err != nil { // the next start tries again
				e.opts.Log.Warn("what is lost of etcd's files would be taken for what never was", "error", err)
			}
			return nil
		case <-e.disk.broke:
			return e.comeUpAgain(ctx)
		case err := <-server.Err():
			return err
		case <-server.Server.StopNotify():
			return ErrStopped
		case <-look.C:
			if err := e.ResetIfAsked(); err != nil {
				return err
			}
		case <-patience.C:
			if e.Alone() {
				return fmt.Errorf("it has no leader yet: %w", context.DeadlineExceeded)
			}
			e.opts.Log.Error("etcd waits for a majority of its members", "members", len(e.Members()))
			patience.Reset(startTimeout)
		case <-ctx.Done():
			return fmt.Errorf("it has no leader yet: %w", ctx.Err())
		}
	}
}

// ResetIfAsked starts the process again where a cluster of this member alone was asked for.
func (e *Etcd) ResetIfAsked() error {
	if !e.resetAsked() {
		return nil
	}
	if e.opts.Restart == nil {
		return errors.New("a reset of the quorum is asked for: start again")
	}
	e.opts.Log.Warn("a reset of the quorum is asked for: starting again")
	return fmt.Errorf("cannot start again: %w", e.opts.Restart())
}

// private makes a folder that its owner alone can enter, also where it is there with another mode.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// comeUpAgain waits until the disk that etcd could not write has room, and starts the process again: what etcd holds can be
// had from it no other way. It returns nil only when ctx has ended.
func (e *Etcd) comeUpAgain(ctx context.Context) error {
	if err := e.disk.awaitRoom(ctx); err != nil {
		return nil //nolint:nilerr // it was waited for as long as was asked
	}
	e.opts.Log.Warn("the disk has room: starting again", "dir", e.opts.DataDir)
	if e.opts.Restart == nil {
		return errors.New("etcd could not write its disk, which has room now")
	}
	return fmt.Errorf("cannot start again: %w", e.opts.Restart())
}

// config writes the options as etcd's own.
func (e *Etcd) config() (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name, c.Dir = e.opts.Name, filepath.Join(e.opts.DataDir, dataDir)
	c.QuotaBackendBytes = e.opts.QuotaBytes
	c.SnapshotCount, c.SnapshotCatchUpEntries = walEntries, followerEntries
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(e.opts.Log, &e.closing, e.disk))
	c.AuthToken = "" // no users: who opens the socket is root, who comes by TLS has a certificate
	// Compaction is ours: it follows what readers may still ask for.
	c.AutoCompactionRetention = "0"
	local, err := parseURLs(e.socketURL())
	if err != nil {
		return nil, err
	}
	// What etcd serves by plain HTTP has a socket of its own, so that gRPC is not behind a guess of the protocol.
	if c.ListenClientHttpUrls, err = parseURLs("unix://" + filepath.Join(e.opts.SocketDir, "http.sock")); err != nil {
		return nil, err
	}
	c.MaxLearners, c.ForceNewCluster = maxLearners, e.resetAsked() && Begun(e.opts.DataDir)
	nowhere, err := parseURLs(nobody)
	if err != nil {
		return nil, err
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = local, nowhere // whoever asks uses the server beside it
	c.ListenPeerUrls, c.AdvertisePeerUrls = nil, nowhere
	c.InitialCluster = c.Name + "=" + nobody
	p := e.opts.Peer
	if p == nil {
		alone(c)
		return c, nil
	}
	c.PeerTLSInfo = p.tls()
	if p.Client != "" {
		client, err := parseURLs(p.Client)
		if err != nil {
			return nil, err
		}
		c.ListenClientUrls, c.AdvertiseClientUrls = append(local, client...), client
		c.ClientTLSInfo = p.tls()
	}
	if len(p.Members) == 0 {
		if !Several(e.opts.DataDir) {
			alone(c)
		}
		return c, nil
	}
	if c.AdvertisePeerUrls, err = parseURLs(p.URL); err != nil {
		return nil, err
	}
	var members []string
	for name, peer := range p.Members {
		members = append(members, name+"="+peer)
	}
	slices.Sort(members)
	c.InitialCluster, c.ClusterState = strings.Join(members, ","), embed.ClusterStateFlagExisting
	return c, nil
}

func parseURLs(raw string) ([]url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("%q is not a URL", raw)
	}
	return []url.URL{*u}, nil
}
