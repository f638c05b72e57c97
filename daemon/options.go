// Package daemon is the control plane process: what runs in it, and in which order.
package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"

	"lockstep/daemon/backup"
	"lockstep/daemon/config"
	"lockstep/daemon/encryption"
	"lockstep/daemon/members"
	"lockstep/internal/settings"
	"lockstep/kinds/v1alpha1"
	"lockstep/reconcilers/scheduler"
)

// Options say how the control plane runs.
type Options struct {
	// DataDir holds etcd's data, the cluster's CA and the clones; required.
	DataDir string
	// RunDir holds sockets; required.
	RunDir string
	// Name of this control plane among its peers, and etcd's member name. Empty: "server".
	Name string
	// Cluster is part of the contexts of commit statuses. Empty: "lockstep".
	Cluster string
	// Listen is where the API is served. Zero: 0.0.0.0:6443.
	Listen netip.AddrPort
	// Advertise is the address at which nodes and pods reach the API; required.
	Advertise netip.AddrPort
	// StatusListen is where the status page is served. Zero: 127.0.0.1:7070.
	StatusListen netip.AddrPort
	// StatusURL is where people reach the status page, the target of commit statuses. Empty: http://StatusListen.
	StatusURL string
	// Join names a server of a cluster that this one is to be one of, with a token. It is of no matter once there are data.
	// Zero: it makes a cluster of its own.
	Join members.Target
	// Peer is the address at which other servers reach this one's etcd. It is opened once there are others. Zero: Advertise's, port 2380.
	Peer netip.AddrPort
	// Etcd names an external cluster. Zero: etcd runs inside this process.
	Etcd External
	// Encryption is with which keys values are sealed in etcd. Zero: Secrets with the cluster's own.
	Encryption encryption.Config
	// Sources to follow; may be empty.
	Sources []v1alpha1.Source
	// Profiles are those of the scheduler that pods may name, validated; may be empty.
	Profiles []scheduler.Profile
	// Backups are made by who leads, as this says. The zero value: none are.
	Backups backup.Schedule
	// Settings are what the cluster is made with. One that is made already has its own, and what is given here must be the
	// same; what is not given is as there, or settings.Default's.
	Settings settings.Settings
	// Restart replaces this process by a new one of the same arguments, and returns only an error: it is how an embedded etcd
	// that its disk has failed comes up again. Nil: the daemon ends then.
	Restart func() error
	// Log receives the log; required.
	Log *slog.Logger
}

// peerPort is etcd's own for other members.
const peerPort = 2380

// External names an etcd cluster that runs elsewhere.
type External struct {
	Endpoints                 []string
	CAFile, CertFile, KeyFile string
}

func (o Options) withDefaults() (Options, error) {
	if o.DataDir == "" || o.RunDir == "" || o.Log == nil {
		return o, errors.New("cannot run the daemon: DataDir, RunDir and Log are required")
	}
	if !o.Advertise.IsValid() || o.Advertise.Addr().IsUnspecified() {
		return o, errors.New("cannot run the daemon: the address to advertise is required")
	}
	if o.Name == "" {
		o.Name = "server"
	}
	if o.Cluster == "" {
		o.Cluster = "lockstep"
	}
	if !o.Listen.IsValid() {
		o.Listen = netip.MustParseAddrPort("0.0.0.0:6443")
	}
	if !o.Peer.IsValid() {
		o.Peer = netip.AddrPortFrom(o.Advertise.Addr(), peerPort)
	}
	if !o.StatusListen.IsValid() {
		o.StatusListen = netip.MustParseAddrPort("127.0.0.1:7070")
	}
	if o.StatusURL == "" {
		o.StatusURL = "http://" + o.StatusListen.String()
	}
	o.StatusURL = strings.TrimRight(o.StatusURL, "/")
	if u, err := url.Parse(o.StatusURL); err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return o, fmt.Errorf("cannot run the daemon: the status page's URL is %q, want http://HOST or https://HOST", o.StatusURL)
	}
	if err := o.Settings.Or(settings.Default()).Validate(); err != nil {
		return o, fmt.Errorf("cannot run the daemon: %w", err)
	}
	for port, what := range o.ports() {
		if r := o.Settings.NodePorts; !r.None() && r.Refuses(port) == "" {
			return o, fmt.Errorf("cannot use node ports %v: %s is at port %d", r, what, port)
		}
	}
	if err := o.Backups.Validate(); err != nil {
		return o, err
	}
	for i := range o.Sources {
		if err := config.Validate(&o.Sources[i]); err != nil {
			return o, err
		}
	}
	if err := config.Unique(o.Sources); err != nil {
		return o, fmt.Errorf("cannot run the daemon: %w", err)
	}
	return o, nil
}

// ports are those that a node of the control plane listens on, with what for.
func (o Options) ports() map[int32]string {
	return map[int32]string{
		int32(o.StatusListen.Port()): "the status page",
		int32(o.Listen.Port()):       "the API",
		int32(o.Advertise.Port()):    "the API",
	}
}
