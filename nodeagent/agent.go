package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	"lockstep/internal/sleep"
	"lockstep/internal/whole"
	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/cluster"
	"lockstep/nodeagent/content"
	"lockstep/nodeagent/csi"
	"lockstep/nodeagent/devices"
	"lockstep/nodeagent/images"
	"lockstep/nodeagent/ingress"
	"lockstep/nodeagent/localpath"
	"lockstep/nodeagent/logs"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/network"
	"lockstep/nodeagent/pod"
	"lockstep/nodeagent/probes"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/sealing"
	"lockstep/nodeagent/servers"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/stats"
	"lockstep/nodeagent/tokens"
	"lockstep/nodeagent/userns"
	"lockstep/nodeagent/volumes"
)

// containerdRetry is the pause between attempts to reach containerd.
const containerdRetry = 250 * time.Millisecond

// Agent is one node. New makes it, Run runs it once.
type Agent struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	held    *os.File // locks the agent's directory
	records pod.Records
	host    *pod.Node // made when the machine is open

	rt        *runtime.Runtime
	net       *network.Network
	logs      *logs.Client
	volumes   *volumes.Manager
	csi       *csi.Manager
	images    *images.Manager
	probes    *probes.Manager
	devices   *devices.Set
	content   *content.Store
	tokens    *tokens.Store
	cluster   *cluster.Cluster
	localPath *localpath.Keeper
	meter     *stats.Meter
	statuses  *statuses
	findings  findings
	lookEvery time.Duration        // lookPeriod but in tests
	events    record.EventRecorder // while it runs
	group     *errgroup.Group      // of everything that runs
	ctx       context.Context      // of everything that runs
	changed   chan struct{}        // wakes the node's report
	imported  chan struct{}        // closed when ImagesDir has been imported
	connected chan struct{}        // closed when there is a client, over link
	link      *register.Link
	servers   *servers.Servers
	lostWake  chan struct{} // wakes endLost
	offerWake chan struct{} // wakes offer

	authorityWake chan struct{} // wakes renewCertificate

	contentWake chan struct{} // wakes refresh
	resizeWake  chan struct{} // wakes resizePods
	tiersWake   chan struct{} // wakes keepTiers
	growWake    chan struct{} // wakes growClaims
	imagesWake  chan struct{} // wakes listImages
	imageDir    string        // containerd's, on the file system of images and layers
	summary     *stats.Collector

	storageEvery time.Duration // storagePeriod but in tests

	mu            sync.Mutex
	deviceChanges int // that pods were told of
	pods          map[types.UID]*pod.Pod
	claims        map[string]*pod.Pod // by containerd ID
	client        client.Interface    // nil while not connected
	// history names what the API's revisions are of; empty until it is known.
	history string
	// authority is the one that servers named last; empty: none did.
	authority string
	// certified is the one that the node's certificate is of, as far as the report of the node says; empty: it is not known.
	certified string
	// lost are the pods of an earlier history that the API does not know, and until when each of them waits.
	lost map[types.UID]time.Time
	// holds says that nothing is taken from the API until it is known there what runs here.
	holds     bool
	ips       []netip.Addr
	node      spec.Node
	users     *userns.Ranges
	facts     register.Facts
	noNetwork string
	routes    network.Routes // to other nodes' pods, as they were set last
	down      string         // why containerd does not answer; empty if it does
	shutting  bool           // the machine shuts down

	rules, names *vital // nil until services are known

	ingress    *ingress.Server // nil: it serves none
	tlsSecrets *content.Store  // those of Ingresses; nil: it serves none

	contents   map[types.UID]bool         // pods whose volumes are to be looked at
	conditions []corev1.NodeConditionType // what the node is short of
	nodeImages []corev1.ContainerImage

	stated atomic.Pointer[corev1.ResourceList] // what the node's manifest gives it; nil until that has been read
}

// New checks the options; it starts nothing.
func New(opts Options) (*Agent, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		opts: opts, log: opts.Log.With("node", opts.NodeName), metrics: newMetrics(opts.Metrics),
		records: pod.Records{Dir: filepath.Join(opts.agentDir(), "pods")},
		changed: make(chan struct{}, 1), contentWake: make(chan struct{}, 1),
		resizeWake: make(chan struct{}, 1), tiersWake: make(chan struct{}, 1),
		growWake: make(chan struct{}, 1), imagesWake: make(chan struct{}, 1),
		connected: make(chan struct{}), imported: make(chan struct{}), lostWake: make(chan struct{}, 1),
		offerWake: make(chan struct{}, 1), authorityWake: make(chan struct{}, 1), findings: findings{wake: make(chan struct{}, 1)},
		pods: map[types.UID]*pod.Pod{}, contents: map[types.UID]bool{}, claims: map[string]*pod.Pod{},
		ips: opts.NodeIPs, noNetwork: network.ErrNotReady.Error(),
	}
	sealer := sealing.New(a.identity().Key)
	a.content = content.New(content.Options{
		Dir: filepath.Join(opts.agentDir(), "objects"), API: a.api, Log: a.log, Changed: a.contentChanged, Sealer: sealer,
		Holds: a.hasLost,
	})
	a.tokens = tokens.New(tokens.Options{Dir: filepath.Join(opts.agentDir(), "tokens"), API: a.api, Sealer: sealer})
	a.cluster = cluster.New(cluster.Options{
		Node: opts.NodeName, File: filepath.Join(opts.agentDir(), "cluster"), Pods: bound{a}, Kept: a.metrics.kept,
		Ingress: opts.Ingress != nil, Log: a.log,
	})
	a.localPath = localpath.New(localpath.Options{
		Directories: opts.directories(), Events: func() record.EventRecorder { return a.events }, Log: a.log,
		Mounted: func(path string) (bool, error) { return a.volumes.Mounted(path) },
		Resized: func(path string) error { return a.volumes.Resized(path) },
	})
	a.servers = a.newServers()
	a.statuses, a.storageEvery, a.lookEvery = newStatuses(a), storagePeriod, lookPeriod
	if opts.Ingress != nil {
		a.ingress = a.newIngress()
	}
	a.net = network.Open(network.Options{
		Node:     opts.NodeName,
		StateDir: filepath.Join(opts.RunDir, "cni"),
		BinDirs:  opts.CNIBinDirs,
		ConfDir:  opts.CNIConfDir,
	})
	return a, nil
}

// Run runs the node until ctx ends and leaves its containers running. It
// returns an error only for what will not mend by itself: a refused token, or
// directories that cannot be written.
func (a *Agent) Run(ctx context.Context) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	a.group, a.ctx = errgroup.WithContext(running)
	broadcast := record.NewBroadcaster()
	a.events = broadcast.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: a.opts.NodeName})
	broadcast.StartRecordingToSink(&lateSink{ctx: running, connected: a.connected, api: a.api,
		answered: func() <-chan struct{} { return a.link.Answered() }, log: a.log})
	err := a.open(a.ctx)
	if err == nil {
		err = a.restore(a.ctx)
	}
	if err == nil {
		for _, p := range a.allPods() {
			a.runPod(p)
		}
		a.begin(a.tasks())
		err = a.group.Wait()
	}
	broadcast.Shutdown()
	if a.rt != nil {
		err = errors.Join(err, a.rt.Close())
	}
	a.endUnjoined(ctx)
	if a.held != nil {
		err = errors.Join(err, a.held.Close())
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// endUnjoined ends what was started for a node that never joined: there are no
// pods for which it would have to go on, and nobody who would end it later.
func (a *Agent) endUnjoined(ctx context.Context) {
	if a.held == nil || len(a.allPods()) > 0 { // what runs may be another agent's, or is of use
		return
	}
	if _, err := a.identity().Certificate(); !errors.Is(err, os.ErrNotExist) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cgroup.EndTimeout+managedStop)
	defer cancel()
	err := stopCompanions(ctx, a.opts)
	if a.opts.Containerd == Managed {
		err = errors.Join(err, stopContainerd(ctx, a.opts))
	}
	if err != nil {
		a.log.Warn("cannot end what was started for a node that has not joined", "error", err)
	}
}

// open makes what the agent works with; it waits for containerd.
func (a *Agent) open(ctx context.Context) error {
	for _, dir := range []string{a.opts.agentDir(), a.opts.RunDir, filepath.Join(a.opts.RunDir, "pods"), a.opts.LogDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make directory: %w", err)
		}
	}
	if err := os.Chmod(a.opts.agentDir(), 0o711); err != nil {
		return fmt.Errorf("cannot make directory private: %w", err)
	}
	var err error
	if a.held, err = a.opts.hold(); err != nil {
		return err
	}
	if err := errors.Join(a.content.Seal(), a.tokens.Seal()); err != nil {
		return err
	}
	if err := network.EnsureIsolated(a.opts.NodeIPs); err != nil {
		return err
	}
	if a.opts.Containerd == Managed {
		if _, err := startContainerd(ctx, a.opts); err != nil {
			return err
		}
	}
	if a.rt, err = runtime.Open(runtime.Options{Address: a.opts.containerdSocket(), Node: a.opts.NodeName,
		Snapshotter: a.opts.Snapshotter, RunDir: a.opts.RunDir, State: a.opts.containerdState(), Runc: a.opts.Runc,
		Log: a.log}); err != nil {
		return err
	}
	if err := a.rt.ForgetCommands(); err != nil {
		return err
	}
	version, err := a.waitForContainerd(ctx)
	if err != nil {
		return err
	}
	if err := a.opts.keepWhereabouts(); err != nil {
		return err
	}
	layers := a.rt.Dir(ctx)
	if a.imageDir = layers; layers == "" {
		a.imageDir = a.opts.DataDir
	}
	if err := a.readMachine(ctx, version, layers); err != nil {
		return err
	}
	if a.opts.PodPidsLimit >= 0 {
		if err := machine.Bound(a.opts.NodeName); err != nil {
			a.log.Warn("cannot bound the processes of all pods together", "error", err)
		}
	}
	if a.images, err = images.New(ctx, images.Options{Client: a.rt.Client(), Namespace: runtime.Namespace, Snapshotter: a.rt.Snapshotter(),
		CertsDirs: []string{a.opts.CertsDir}, Credentials: a.opts.credentials(), Verify: a.opts.VerifyImages,
		RecordsDir: filepath.Join(a.opts.agentDir(), "images"), Parallel: a.opts.ImagePulls, DiskPath: a.imageDir, Pulled: a.metrics.pulled,
		Boot: a.facts.BootID, Interruption: a.rt.Interruption}); err != nil {
		return err
	}
	if a.csi, err = csi.New(a.csiOptions()); err != nil {
		return err
	}
	if a.volumes, err = volumes.New(volumes.Options{Dir: a.opts.volumesDir(), Own: a.opts.directories(), Drivers: a.csi,
		Kubelet: a.opts.KubeletDir}); err != nil {
		return err
	}
	a.meter = stats.NewMeter(a.toMeasure, a.log)
	a.summary = stats.New(stats.Options{
		Volume:   a.lastOf,
		NodeName: a.opts.NodeName, Pods: a.measured, Dir: a.opts.DataDir, ImageDir: a.imageDir, RootFS: a.rt.Usage,
		Machine: corev1.NodeSystemInfo{BootID: a.facts.BootID, MachineID: a.facts.MachineID, SystemUUID: a.facts.SystemUUID},
	})
	a.probes = probes.New(probes.Options{
		Exec: a.execProbe, Changed: a.probeChanged, Unhealthy: a.probeFailed, Warned: a.probeWarned,
		Probed: a.metrics.probed,
	})
	a.logs, err = logs.Ensure(ctx, logs.Options{RunDir: a.opts.RunDir, Cgroup: keeperCgroup(a.opts.NodeName), Build: a.opts.Version,
		Pods:  machine.Cgroup(a.opts.NodeName),
		Ended: func() { a.log.Warn("the log keeper has ended, starting it again") },
		Started: func() {
			a.log.Info("the log keeper was started again")
			a.drift("LogKeeperRestarted", "The log keeper ended and was started again")
		},
		Failed: func(err error, again time.Duration) {
			a.log.Warn("cannot run the log keeper", "error", err, "again", again)
		}})
	if err != nil {
		return err
	}
	if a.devices, err = devices.Open(a.opts.Resources, a.log); err != nil {
		return err
	}
	a.host = a.newHost()
	a.opts.Metrics.MustRegister(gauges{a}, stats.ClaimMetrics{a.localPath.Claims, a.meter.Claims})
	return a.enableForwarding()
}

func keeperCgroup(node string) string { return filepath.Join("/lockstep-keeper", node) }

func (a *Agent) waitForContainerd(ctx context.Context) (string, error) {
	told := false
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		version, err := a.rt.Version(try)
		cancel()
		if err == nil {
			return strings.TrimPrefix(strings.Fields(version + " ")[0], "v"), nil
		}
		if !told && ctx.Err() == nil {
			a.log.Warn("containerd does not answer", "address", a.opts.containerdSocket(), "error", err)
			told = true
		}
		if !sleep.For(ctx, containerdRetry) {
			return "", ctx.Err()
		}
	}
}

// readMachine learns what specifications and the node's status depend on; layers is where containerd has those of images.
func (a *Agent) readMachine(ctx context.Context, version, layers string) error {
	facts, err := register.ReadFacts(a.opts.DataDir)
	if err != nil {
		return err
	}
	facts.ContainerRuntime, _, _ = strings.Cut(version, "~")
	facts.KeptMemory, facts.KeptDisk = a.opts.Eviction.Kept(facts.Memory, facts.Disk)
	n, err := machine.Spec(a.opts.NodeName, facts,
		machine.Allowances{Pids: max(a.opts.PodPidsLimit, 0), Memory: a.opts.Memory, Sysctls: a.opts.Sysctls, Runc: a.opts.Runc,
			Layers: layers, RunDir: a.opts.RunDir}, a.log)
	if err != nil {
		return err
	}
	users, err := userns.Available(ctx)
	if err != nil && n.NoUserNamespaces == "" {
		n.NoUserNamespaces = err.Error()
	}
	if n.NoUserNamespaces != "" {
		a.log.Info("pods with hostUsers: false do not start here", "reason", n.NoUserNamespaces)
	}
	facts.RecursiveReadOnly, facts.UserNamespaces = n.RecursiveReadOnly, n.NoUserNamespaces == ""
	if len(a.ips) == 0 {
		if ip, err := register.OutboundIP(a.serverAddress()); err == nil {
			a.ips = []netip.Addr{ip}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.facts, a.node, a.users = facts, n, &userns.Ranges{Dir: a.records.Dir, Available: users}
	return nil
}

// forwardingFile keeps the earlier setting for Reset.
const forwardingFile = "ip_forward"

func (a *Agent) enableForwarding() error {
	old, err := network.EnableForwarding()
	if err != nil {
		return err
	}
	path := filepath.Join(a.opts.agentDir(), forwardingFile)
	if _, err := os.Stat(path); err == nil {
		return nil // an earlier run changed it
	}
	return whole.Write(path, []byte(old))
}

// restore takes up the pods of an earlier run: from their kept objects, their
// sandboxes and what containerd has.
func (a *Agent) restore(ctx context.Context) error {
	kept, err := a.records.LoadPods()
	if err != nil {
		a.log.Warn("cannot restore all pods", "error", err)
	}
	known := map[string]bool{}
	a.restoreNetwork()
	for _, o := range kept {
		known[string(o.UID)] = true
		a.pods[o.UID] = a.host.Restore(o)
	}
	if err := a.net.Sweep(ctx, func(uid string) bool { return known[uid] }); err != nil {
		a.log.Warn("cannot free addresses of vanished pods", "error", err)
	}
	if err := a.volumes.Sweep(ctx, func(uid types.UID) bool { return known[string(uid)] }); err != nil {
		a.log.Warn("cannot remove volumes of vanished pods", "error", err)
	}
	a.sweepForgotten(ctx)
	if err := a.relist(ctx); err != nil {
		a.log.Warn("cannot list containers", "error", err)
	}
	a.sweepLayers(ctx)
	return nil
}

func (a *Agent) runPod(p *pod.Pod) {
	a.group.Go(func() error {
		p.Run(a.ctx)
		return nil
	})
}

// api is the connection to the API; nil while there is none.
func (a *Agent) api() client.Interface {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.client
}

// directories are the persistent volumes that are directories of this node.
func (a *Agent) nodeFacts() spec.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.node
}

func (a *Agent) hostIPs() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, ip := range a.ips {
		out = append(out, ip.String())
	}
	return out
}

func (a *Agent) allPods() []*pod.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*pod.Pod, 0, len(a.pods))
	for _, p := range a.pods {
		out = append(out, p)
	}
	return out
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // a wake-up is pending
	}
}

// reportNode has the node's status written soon.
func (a *Agent) reportNode() { poke(a.changed) }
