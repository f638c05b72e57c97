package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"lockstep/daemon/api"
	"lockstep/daemon/api/peers"
	"lockstep/daemon/api/tunnel"
	"lockstep/daemon/backup"
	"lockstep/daemon/control"
	"lockstep/daemon/encryption"
	"lockstep/daemon/etcd"
	"lockstep/daemon/heap"
	"lockstep/daemon/pki"
	"lockstep/daemon/rebuild"
	"lockstep/daemon/usage"
	"lockstep/daemon/version"
	"lockstep/daemon/web"
	"lockstep/internal/giturl"
	"lockstep/internal/settings"
	"lockstep/internal/shrink"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers"
	"lockstep/reconcilers/apiservers"
	"lockstep/reconcilers/drivers"
	"lockstep/reconcilers/engine"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/scheduler"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync"
	"lockstep/sync/apply"
	"lockstep/sync/found"
	"lockstep/sync/plan"
)

// Run runs the control plane until ctx ends, then returns nil once everything it started has ended. Pods are not
// affected by its end.
func Run(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	database, authority, err := enter(ctx, o, registry)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("cannot run the daemon: %w", err)
	}
	p, err := assemble(ctx, o, registry, database, authority)
	if err == nil {
		err = p.run(ctx)
		p.tunnels.Close()
		p.peers.Close()
	}
	if ctx.Err() != nil {
		err = nil
	}
	if closed := database.Close(); closed != nil {
		o.Log.Warn("cannot close etcd in good order", "error", closed)
	}
	return err
}

func etcdOptions(o Options, registry prometheus.Registerer, peer *etcd.Peer) etcd.Options {
	return etcd.Options{
		Endpoints: o.Etcd.Endpoints,
		TLS:       etcd.TLS{CAFile: o.Etcd.CAFile, CertFile: o.Etcd.CertFile, KeyFile: o.Etcd.KeyFile},
		DataDir:   etcdDir(o), Peer: peer, SocketDir: filepath.Join(o.RunDir, "etcd"),
		Name: o.Name, Log: o.Log, Registerer: registry, Restart: o.Restart,
	}
}

// task is one thing the process does until its context ends. Its Run returns nil then, after everything it started.
type task struct {
	name string
	run  func(ctx context.Context) error
}

// runTasks runs all tasks until ctx ends or one fails; then the others end too.
func runTasks(ctx context.Context, tasks []task) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		g.Go(func() error {
			err := t.run(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("it ended by itself")
			}
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("cannot keep %s running: %w", t.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// deadPatience is how long the tasks may take to end once etcd stands still: those that asked it something never do.
const deadPatience = 5 * time.Second

// run runs all tasks until ctx ends or one fails.
func (p *plane) run(ctx context.Context) error {
	done := make(chan error, 1)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go func() { done <- runTasks(running, p.tasks()) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	if !p.etcd.Dead() {
		p.announcer.withdraw(running)
	}
	stop()
	for t := time.After(deadPatience); ; {
		select {
		case err := <-done:
			return err
		case <-t:
			if p.etcd.Dead() {
				return nil // the process ends, and what stands still with it
			}
		}
	}
}

// plane is the control plane's parts, none of them started but etcd.
type plane struct {
	opts      Options
	settings  settings.Settings
	registry  *prometheus.Registry
	etcd      *etcd.Etcd
	store     *store.Store
	keyring   *encryption.Keyring
	authority *pki.Authority
	nodes     *pki.Registrar
	sync      *sync.Sync
	rebuild   *rebuild.Keeper
	vault     pki.Dir
	backups   *backup.Scheduler
	// inventories are read by who leads, by the control socket and by the page.
	inventories *apply.Inventories
	tunnels     *tunnel.Pool
	peers       *peers.Peers
	announcer   *announcer
	api         *api.Server
	web         *web.Server
}

func assemble(ctx context.Context, o Options, registry *prometheus.Registry, database *etcd.Etcd,
	authority *pki.Authority) (*plane, error) {
	p := &plane{
		opts: o, registry: registry, etcd: database, authority: authority, tunnels: &tunnel.Pool{}, inventories: &apply.Inventories{},
		vault: vaultOf(o),
	}
	ledger, err := pki.OpenLedger(p.vault)
	if err != nil {
		return nil, fmt.Errorf("cannot run the daemon: %w", err)
	}
	restored := ""
	if database.Embedded() {
		if restored, err = etcd.Restored(etcdDir(o)); err != nil {
			return nil, fmt.Errorf("cannot run the daemon: %w", err)
		}
	}
	keys, err := pki.OpenSealingKeys(p.vault, time.Now(), func() error { return encryption.Unsealed(ctx, database.Client) })
	if err != nil {
		return nil, fmt.Errorf("cannot run the daemon: %w", err)
	}
	p.keyring = encryption.NewKeyring(o.Encryption, keys)
	p.store, err = store.Open(ctx, database.Client, store.Options{
		Transformer: p.keyring, Records: []view.Record{*p.keyring.First().Record()},
		Default: strategy.Default, Log: o.Log, Registerer: registry, Server: o.Name, Version: version.Version,
		Alone:    database.Alone,
		Elected:  database.Elected,
		Settings: o.Settings.Or(settings.Default()).Encode(), Rebuild: ledger.Knows(), Restored: restored,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot run the daemon: %w", err)
	}
	if restored != "" {
		if err := etcd.Used(etcdDir(o)); err != nil {
			return nil, fmt.Errorf("cannot run the daemon: %w", err)
		}
	}
	if p.settings, err = settled(o.Settings, p.store.Cluster()); err != nil {
		return nil, fmt.Errorf("cannot run the daemon: %w", err)
	}
	if p.authority == nil {
		if p.authority, err = openAuthority(o); err != nil {
			return nil, fmt.Errorf("cannot run the daemon: %w", err)
		}
	}
	p.nodes = pki.NewRegistrar(p.authority, pki.Tokens{Store: p.store, Commit: p.store}, pki.RegistrarOptions{
		Ledger: ledger, StoreMade: p.store.Cluster().Created, Log: o.Log,
	})
	counts := found.NewCounts(registry)
	p.sync, err = sync.New(sync.Options{
		Drift:   counts,
		Sources: o.Sources, Store: p.store, Wake: p.store, Shared: p.several, Events: p.store, Inventories: p.inventories,
		DataDir: o.DataDir, Cluster: o.Cluster,
		StatusURL: func(source, revision string) string { return o.StatusURL + web.RevisionPath(source, revision) },
		Services: plan.Networks{
			CIDRs: p.settings.ServiceCIDRs, NodePorts: p.settings.NodePorts, Reserved: p.settings.Reserved(),
			Pods: p.settings.PodCIDRs, API: []netip.Addr{o.Advertise.Addr()}, Ports: o.ports(),
		},
		Seed:       uint64(time.Now().UnixNano()),
		Log:        o.Log,
		Registerer: termRegistry(registry),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot run the daemon: %w", err)
	}
	p.announcer = &announcer{
		store: p.store, name: o.Name, at: o.Advertise, serving: p.store.ServingSince, now: time.Now, log: o.Log, told: p.told,
	}
	p.peers = peers.New(peers.Options{
		Own: p.tunnels, Others: p.others, Authority: p.authority.Incoming, TLS: p.authority.PeerConfig(o.Name), Log: o.Log,
	})
	own := slices.Collect(maps.Values(p.settings.Reserved()))
	p.rebuild = rebuild.New(rebuild.Options{
		Store: p.store, Cluster: p.store.Cluster(), Nodes: pki.Registered, Unsettled: p.sync.Unsettled, Stated: apply.Stated,
		Sized:  apply.Sized,
		Own:    func(k kinds.Key) bool { return slices.Contains(own, k.Namespace+"/"+k.Name) },
		Valid:  func(o kinds.Object) error { return strategy.PrepareCreate(o).ToAggregate() },
		Delete: func(o kinds.Object, now time.Time) (kinds.Object, bool) { return strategy.Delete(o, now, nil) },
		Now:    time.Now, Log: o.Log,
	})
	p.backups = backup.NewScheduler(o.Backups, o.Cluster, func(ctx context.Context, to io.Writer) error {
		return p.backUp(ctx, o.Backups.Recipients, to)
	}, registry, o.Log)
	p.api = api.New(api.Options{
		Store: p.store, Authority: p.authority, Nodes: p.nodes, Hosts: p.hosts(), Tunnels: p.peers, Peers: p.peers.Door(),
		Hooks:    p.sync.Hooks(),
		Servers:  p.serverDoor().Handler(o.Log),
		Gatherer: withEtcd(registry), Registerer: registry, Log: o.Log, Version: version.Version, History: p.store.Cluster().ID,
		Settings: p.settings, Disk: database.Disk, Quorum: p.quorum, Silent: p.silent, Drift: counts, Rebuild: p.rebuild,
	})
	p.web = web.New(web.Options{
		Store: p.store, Inventories: p.inventories, Cluster: o.Cluster, Version: version.Version, Health: p.health,
		Warning: p.warning, Notice: p.silent, Hosts: pageHosts(o.StatusURL), Log: o.Log,
	})
	return p, nil
}

// settled are the settings that the cluster was made with, which those that are given must not contradict.
func settled(given settings.Settings, cluster store.Cluster) (settings.Settings, error) {
	made, err := settings.Decode(cluster.Settings)
	if err == nil {
		if err = settings.Differ("as it was given", given.Or(made), "in this cluster, which was made with it", made); err != nil {
			err = fmt.Errorf("%w, and it stays so for the cluster's life", err)
		}
	}
	return made, err
}

// health says why changes are not taken; the disk of etcd is named before what follows from it.
func (p *plane) health() error {
	if _, err := p.etcd.Disk(); err != nil {
		return err
	}
	if err := p.quorum(); err != nil {
		return err
	}
	return p.store.Health()
}

// warning says what will become a problem; empty: nothing is known.
func (p *plane) warning() string {
	if text, _ := p.etcd.Disk(); text != "" {
		return text
	}
	return p.rebuild.Says(p.store.View())
}

// pageHosts is the name under which people reach the status page.
func pageHosts(statusURL string) []string {
	u, err := url.Parse(statusURL)
	if err != nil || u.Hostname() == "" {
		return nil
	}
	return []string{u.Hostname()}
}

// hosts are the names and addresses that the API's certificate is for.
func (p *plane) hosts() []string {
	return pki.ServerHosts(p.settings, p.opts.Advertise.Addr().String(), p.opts.Name)
}

// others are the servers that run besides this one.
func (p *plane) others() []peers.Server {
	var out []peers.Server
	for _, s := range apiservers.Servers(p.store.View(), time.Now()) {
		if s.Runs && s.Name != p.opts.Name {
			out = append(out, peers.Server{Name: s.Name, Address: s.At.String()})
		}
	}
	return out
}

// tasks are everything that runs, whether this process leads or not.
func (p *plane) tasks() []task {
	return []task{
		{"etcd", p.runEtcd},
		{"store", p.store.Run},
		{"heap", heap.Pace},
		{"memory", func(ctx context.Context) error {
			shrink.Once(ctx)
			<-ctx.Done()
			return nil
		}},
		{"api", func(ctx context.Context) error {
			return listen(ctx, p.opts.Listen, p.api.Serve)
		}},
		{"announcement", p.announcer.run},
		{"keys", func(ctx context.Context) error { return encryption.Follow(ctx, p.encryption()) }},
		{"authority", p.keepAuthority},
		{"status page", func(ctx context.Context) error {
			return listen(ctx, p.opts.StatusListen, p.web.Serve)
		}},
		{"control", func(ctx context.Context) error { return control.Serve(ctx, p.opts.RunDir, &door{plane: p}) }},
		{"leader", func(ctx context.Context) error {
			return p.store.Lead(ctx, p.opts.Name, func(ctx context.Context, c store.Committer) error {
				select {
				case <-p.nodes.Restored(): // else nobody would be waited for in a rebuild
				case <-ctx.Done():
					return nil
				}
				if err := p.rebuild.Collect(ctx, c); err != nil {
					return err
				}
				return runTasks(ctx, p.leaderTasks(c))
			})
		}},
	}
}

// told is what this server tells of itself.
func (p *plane) told() apiservers.Told {
	keys, writes := p.keyring.Kept()
	return apiservers.Told{Version: version.Version, Format: store.Format, Keys: keys, Writes: writes}
}

func (p *plane) encryption() encryption.Options {
	return encryption.Options{Store: p.store, Keyring: p.keyring, Log: p.opts.Log, Now: time.Now}
}

// leaderTasks are what only the leader does, writing through its committer.
func (p *plane) leaderTasks(c store.Committer) []task {
	gauge := usage.NewGauge(usage.Agents{Transport: p.peers.Transport, Log: p.opts.Log}, p.store.View, time.Now)
	loops := func() []loop.Reconciler {
		return reconcilers.All(reconcilers.Options{
			Settings: p.settings,
			CA:       string(p.authority.PEM()),
			Noted:    apply.Noted,
			Stated:   apply.Stated,
			Gauge:    gauge.Read,
		})
	}
	sources, acts := p.rebuild.Committer(c, rebuild.Sources), p.rebuild.Committer(c, rebuild.Loops)
	return []task{
		{"encryption", func(ctx context.Context) error { return encryption.Lead(ctx, p.encryption(), c) }},
		{"rebuild", func(ctx context.Context) error { return p.rebuild.Run(ctx, c) }},
		{"backups", p.backups.Run},
		{"sync", func(ctx context.Context) error { return p.sync.Lead(ctx, sources) }},
		{"reconcilers", p.reconcile(loops, engine.Options{
			Store: p.store, Commit: acts, Events: p.store, Log: p.opts.Log, Registerer: termRegistry(p.registry),
		})},
		{"rotation", func(ctx context.Context) error { return p.advanceRotation(ctx, c) }},
		{"gauge", gauge.Run},
		{"drivers", drivers.New(drivers.Options{
			Store: p.store, Commit: acts, Events: p.store, Log: p.opts.Log, Dial: p.peers.DialController, Stated: apply.Stated,
		}).Run},
		{"servers", p.keepServers(c)},
		{"scheduler", scheduler.New(scheduler.Options{
			Store: p.store, Commit: p.rebuild.Committer(c, rebuild.Places), Events: p.store, Log: p.opts.Log,
			Registerer: termRegistry(p.registry), Profiles: p.opts.Profiles,
		}).Run},
	}
}

func listen(ctx context.Context, at netip.AddrPort, serve func(context.Context, net.Listener) error) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w (--listen and --status-listen name other addresses)", err)
		}
		return fmt.Errorf("cannot listen: %w", err)
	}
	return serve(ctx, listener)
}

// where tells a source's place in a few words.
func where(url, folder, branch, tag, path string) string {
	text := giturl.Redact(url) + folder
	if ref := branch + tag; ref != "" {
		text += "#" + ref
	}
	if path != "" {
		text += ":" + strings.TrimPrefix(path, "/")
	}
	return text
}
