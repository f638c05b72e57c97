// Package etcd starts the embedded etcd, or connects to an external one, and keeps it in good order.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"lockstep/internal/sleep"
)

// Options of an etcd. With Endpoints it is external, else embedded.
type Options struct {
	// Endpoints of an external etcd, as https://host:port. Empty: etcd is embedded, and DataDir and SocketDir are required.
	Endpoints []string
	// TLS files for external endpoints; all empty for plain http, CAFile empty for the system's authorities.
	TLS TLS

	// DataDir of the embedded etcd, made with mode 0700.
	DataDir string
	// SocketDir holds its unix sockets, made with mode 0700. Their paths must stay under the kernel's 107 bytes.
	SocketDir string
	// Name of the embedded member. Empty: "lockstep".
	Name string
	// Peer lets the embedded etcd become a member of several. Until it is one it listens on unix sockets only. Nil: it never does.
	Peer *Peer
	// QuotaBytes bounds the embedded database. Zero: etcd's default of 2 GiB.
	QuotaBytes int64

	// Restart replaces this process by a new one of the same arguments, and returns only an error. It is called when the
	// embedded etcd could not write its disk, and the disk has room again. Nil: Run ends with an error then.
	Restart func() error

	// CompactEvery is how often history older than that is dropped. Zero: 5 minutes, as Kubernetes does.
	CompactEvery time.Duration
	// CheckEvery is how often alarms and sizes are looked at. Zero: 10 s.
	CheckEvery time.Duration
	// Prefix of Lockstep's keys. Empty: /lockstep/.
	Prefix string
	// Log. Nil: slog.Default().
	Log *slog.Logger
	// Registerer takes the metrics. Nil: they are not registered.
	Registerer prometheus.Registerer
}

// TLS names PEM files. CertFile and KeyFile are set together or not at all.
type TLS struct{ CAFile, CertFile, KeyFile string }

// Etcd is a client, with the server behind it where that is embedded.
type Etcd struct {
	// Client is closed by Close.
	Client *clientv3.Client

	opts    Options
	dialled *clientv3.Client // Client itself, but for an embedded etcd that is alone
	server  *embed.Etcd      // nil for an external etcd
	disk    *disk            // nil for an external etcd
	lock    *os.File
	metrics *metrics
	peers   peers
	closing atomic.Bool // the server is being stopped
}

const (
	// startTimeout bounds opening the data and electing: reading 2 GiB from a slow disk, with room.
	startTimeout = 2 * time.Minute
	// tellEvery is how often the log says that etcd is waited for.
	tellEvery = time.Minute
	// dialKeepAlive and its timeout find a dead connection that nothing closes.
	dialKeepAlive        = 10 * time.Second
	dialKeepAliveTimeout = 5 * time.Second
	// dialFirst doubles up to dialLast between attempts to connect: etcd is in use soon after it is back, however long it was
	// away. The library's own bound is two minutes.
	dialFirst, dialLast = 100 * time.Millisecond, time.Second
	// dialTimeout bounds an attempt: SYNs are sent at once, after 1 s, and then at intervals that double.
	dialTimeout = 3 * time.Second
)

// Start starts the embedded etcd and waits until it serves, or connects to the external one and waits until it answers,
// for as long as ctx lasts. The maintenance is Run's. Close ends both.
func Start(ctx context.Context, opts Options) (*Etcd, error) {
	opts = opts.withDefaults()
	e := &Etcd{opts: opts, metrics: newMetrics(opts.Registerer)}
	if err := e.start(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = "lockstep"
	}
	if o.CompactEvery == 0 {
		o.CompactEvery = 5 * time.Minute
	}
	if o.CheckEvery == 0 {
		o.CheckEvery = 10 * time.Second
	}
	if o.Prefix == "" {
		o.Prefix = "/lockstep/"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

func (e *Etcd) start(ctx context.Context) error {
	if len(e.opts.Endpoints) > 0 {
		for _, endpoint := range e.opts.Endpoints {
			if strings.HasPrefix(endpoint, "http://") {
				e.opts.Log.Warn("etcd is spoken to without TLS: who listens reads everything but Secrets", "endpoint", endpoint)
			}
		}
		config, err := e.opts.TLS.config()
		if err != nil {
			return fmt.Errorf("cannot connect to etcd: %w", err)
		}
		if e.dialled, err = connect(e.opts.Endpoints, config); err != nil {
			return fmt.Errorf("cannot connect to etcd: %w", err)
		}
		e.Client = e.dialled
		return e.await(ctx)
	}
	if err := e.startEmbedded(ctx); err != nil {
		return fmt.Errorf("cannot start etcd in %s: %w", e.opts.DataDir, err)
	}
	var err error
	if e.dialled, err = connect([]string{e.socketURL()}, nil); err != nil {
		return fmt.Errorf("cannot connect to the embedded etcd: %w", err)
	}
	e.Client = e.dialled
	if e.Alone() {
		e.Client = direct(e.server.Server, e.dialled)
	}
	return nil
}

// direct returns a client that calls the server in this process without a socket, encoding or copies. Maintenance stays
// the dialled one's: a server that is rewriting its file tells its listeners so. Where a server has peers, only a
// listener ends the watches of a member that lost its leader.
func direct(server *etcdserver.EtcdServer, dialled *clientv3.Client) *clientv3.Client {
	c := v3client.New(server)
	c.Maintenance = dialled.Maintenance
	return c
}

func connect(endpoints []string, tlsConfig *tls.Config, more ...grpc.DialOption) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: tlsConfig,
		DialKeepAliveTime: dialKeepAlive, DialKeepAliveTimeout: dialKeepAliveTimeout,
		DialOptions: append([]grpc.DialOption{
			// One message over a unix socket is copied through grpc's windows; the default of 64 kB stalls loads.
			grpc.WithInitialWindowSize(4 << 20), grpc.WithInitialConnWindowSize(8 << 20),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout,
				Backoff: backoff.Config{BaseDelay: dialFirst, Multiplier: 2, Jitter: 0.2, MaxDelay: dialLast}}),
		}, more...),
		Logger: zap.NewNop(), // it logs every retry; the store's state tells what matters
	})
}

// config returns nil where no file is named.
func (t TLS) config() (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("a client certificate needs its key, and a key its certificate")
	}
	info := transport.TLSInfo{TrustedCAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile}
	return info.ClientConfig()
}

// await reads until etcd answers or ctx ends.
func (e *Etcd) await(ctx context.Context) error {
	var told time.Time
	for {
		err := e.ping(ctx)
		if err == nil && !told.IsZero() {
			e.opts.Log.Info("etcd answers")
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			e.opts.Log.Warn("etcd does not answer yet, waiting for it", "endpoints", e.opts.Endpoints, "error", err)
		}
		sleep.For(ctx, time.Second)
	}
}

func (e *Etcd) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // etcd's own bound of a request
	defer cancel()
	if _, err := e.Client.Get(ctx, e.opts.Prefix, clientv3.WithKeysOnly()); err != nil {
		return fmt.Errorf("cannot reach etcd at %v: %w", e.opts.Endpoints, err)
	}
	return nil
}

// Dialled is a client that reaches the server over its socket or network, as those of other processes do. Close closes
// it too.
func (e *Etcd) Dialled() *clientv3.Client { return e.dialled }

// Embedded says whether the server is in this process.
func (e *Etcd) Embedded() bool { return e.server != nil }

// Disk says what is wrong with the disk of an embedded etcd, or will be if it goes on filling: a warning, or an error while
// no changes are taken. It does not ask etcd.
func (e *Etcd) Disk() (warning string, err error) {
	if e.disk == nil {
		return "", nil
	}
	return e.disk.state()
}

// Dead says that the embedded etcd could not write its disk: it stands still for ever, and whoever asks it something may, too.
func (e *Etcd) Dead() bool { return e.disk != nil && e.disk.dead() }

// Close closes the client and stops the embedded server. Calling it again does nothing.
func (e *Etcd) Close() error {
	if _, broken := e.Disk(); e.Dead() {
		return broken // it stands still, and who asks it to stop with it
	}
	var err error
	shut := func(c *clientv3.Client) {
		if closeErr := c.Close(); closeErr != nil && !errors.Is(closeErr, context.Canceled) {
			err = errors.Join(err, fmt.Errorf("cannot close the etcd client: %w", closeErr))
		}
	}
	if e.Client != e.dialled {
		shut(e.Client)
	}
	if e.dialled != nil {
		shut(e.dialled)
	}
	e.Client, e.dialled = nil, nil
	if e.server != nil {
		e.closing.Store(true)
		e.server.Close()
		e.peers.close()
		e.server = nil
	}
	if e.lock != nil {
		err = errors.Join(err, e.lock.Close())
		e.lock = nil
	}
	return err
}

// lockDir makes a directory this process's: etcd itself would wait for another to end, for ever and silently.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(errors.New("another process uses it"), f.Close())
	}
	return f, nil
}
