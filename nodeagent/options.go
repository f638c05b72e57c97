// Package nodeagent runs one node: it makes what the cluster binds to this machine true.
package nodeagent

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/settings"
	"lockstep/nodeagent/access"
	"lockstep/nodeagent/csi"
	"lockstep/nodeagent/devices"
	"lockstep/nodeagent/eviction"
	"lockstep/nodeagent/localpath"
	"lockstep/nodeagent/logind"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/projects"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/shutdown"
	"lockstep/nodeagent/spec"
)

// Ingress says how a node serves Ingresses.
type Ingress struct {
	// HTTP and HTTPS are the ports, 80 and 443 if zero.
	HTTP, HTTPS uint16
	// Trusted are proxies in front whose X-Forwarded headers are believed, Proxied those that speak the PROXY protocol.
	Trusted, Proxied []netip.Prefix
	// AccessLog is a file that gets a line of JSON for each request; empty: none does.
	AccessLog string
}

// Default directories and addresses.
const (
	DefaultDataDir    = "/var/lib/lockstep"
	DefaultRunDir     = "/run/lockstep"
	DefaultContainerd = "/run/containerd/containerd.sock"
	// Managed asks for a containerd of the agent's own, which outlives it.
	Managed = "managed"
	// DefaultPodPids leaves room for programs of thousands of threads, and
	// none for a fork bomb; OpenShift's figure.
	DefaultPodPids = 4096
)

// Options say how a node runs. The zero value of a field means what its
// comment says.
type Options struct {
	// Server is the URL of an API server, https://host:port; required but for Reset.
	Server string
	// MoreServers are others of the same cluster, for where the first is away before the node has learnt which there are.
	MoreServers []string
	// OwnServer says that Server runs on this machine: the node uses it for as long as it serves.
	OwnServer bool
	// Token joins the cluster; TokenFile holds it instead. Either is needed
	// once, until the node has its certificate.
	Token, TokenFile string
	// NodeName is the machine's host name if empty.
	NodeName string
	// NodeIPs are the node's addresses, the primary one first; empty means the
	// one from which the server is reached.
	NodeIPs []netip.Addr
	// DataDir is /var/lib/lockstep if empty, RunDir /run/lockstep.
	DataDir, RunDir string
	// Containerd is its socket's path, /run/containerd/containerd.sock if
	// empty, or "managed".
	Containerd string
	// Runc is the program with which containerd runs containers; the runc that it finds if empty.
	Runc string
	// Snapshotter is overlayfs if empty.
	Snapshotter string
	// ImagesDir has image archives that are imported at start; empty means none.
	ImagesDir string
	// CertsDir has containerd's registry configuration; /etc/containerd/certs.d if empty.
	CertsDir string
	// Credentials is a file as docker's config.json with what every pod may pull with; if empty, config.json in DataDir, else
	// .docker/config.json in the home folder or at the root, as with the kubelet.
	Credentials string
	// ImagePulls bounds the pulls that go on together, as the kubelet's maxParallelImagePulls; if zero, images.Options says.
	ImagePulls int
	// VerifyImages says which pods may use an image that is on the node already; the kubelet's default if zero.
	VerifyImages access.Verification
	// CNIBinDirs are /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni if empty.
	CNIBinDirs []string
	// CNIConfDir has the user's own network configuration; empty means our default network.
	CNIConfDir string
	// LogDir is /var/log/pods if empty, or below DataDir where that is not the default.
	LogDir string
	// KubeletDir is where drivers of CSI find what they know as the kubelet's directory; /var/lib/kubelet if empty, or below DataDir
	// where that is not the default.
	KubeletDir string
	// Labels and Taints are the node's own, beside Kubernetes' well-known labels.
	Labels map[string]string
	Taints []corev1.Taint
	// PodPidsLimit bounds each pod's processes and threads, as the kubelet's
	// podPidsLimit; DefaultPodPids if zero, no bound if negative.
	PodPidsLimit int64
	// Memory is what the node does for memory, the kubelet's default if zero.
	Memory spec.MemoryPolicy
	// Resources are the extended ones that the node declares.
	Resources []devices.Resource
	// Sysctls are those that pods may set beside the safe ones, as the kubelet's allowedUnsafeSysctls.
	Sysctls []string
	// Eviction says when pods end because the node runs short; the default policy if nil.
	Eviction *eviction.Policy
	// Shutdown says how pods end before the machine shuts down; where it is empty a shutdown does not wait for them.
	Shutdown shutdown.Policy
	// Ingress says how the node serves Ingresses; nil: it does not.
	Ingress *Ingress
	// Version is reported in the node's status; "v0.0.0" if empty.
	Version string
	// Log is discarded if nil.
	Log *slog.Logger
	// Metrics takes the agent's metrics, which /metrics of its tunnel shows; a registry of the agent's own if nil.
	Metrics *prometheus.Registry

	cluster settings.Settings // as the node was told last; the API tells them

	systemBus, logindConf string // where logind is; empty means as logind has it

	trackEvery, askEvery time.Duration // of tags; zero means trackLook and trackPeriod, which are long in tests

	answerEvery time.Duration // of a managed containerd; zero means 10 s, which is long in tests
}

// withDefaults fills in what is not stated and refuses what cannot be.
func (o Options) withDefaults() (Options, error) {
	if o.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("cannot find the node's name: %w", err)
		}
		o.NodeName = strings.ToLower(name)
	}
	if o.DataDir == "" {
		o.DataDir = DefaultDataDir
	}
	if o.RunDir == "" {
		o.RunDir = DefaultRunDir
	}
	if o.KubeletDir == "" {
		o.KubeletDir = csi.Kubelet
		if o.DataDir != DefaultDataDir {
			o.KubeletDir = filepath.Join(o.DataDir, "kubelet")
		}
	}
	for _, dir := range []*string{&o.DataDir, &o.RunDir, &o.KubeletDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return o, fmt.Errorf("cannot use directory %s: %w", *dir, err)
		}
		*dir = abs
	}
	if o.LogDir == "" {
		o.LogDir = "/var/log/pods"
		if o.DataDir != DefaultDataDir {
			o.LogDir = filepath.Join(o.DataDir, "pods-logs")
		}
	}
	if o.Containerd == "" {
		o.Containerd = DefaultContainerd
	}
	if o.CertsDir == "" {
		o.CertsDir = "/etc/containerd/certs.d"
	}
	if len(o.CNIBinDirs) == 0 {
		o.CNIBinDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
	}
	kept, _, err := o.keptSettings()
	if err != nil {
		return o, err
	}
	o.cluster = kept
	if o.PodPidsLimit == 0 {
		o.PodPidsLimit = DefaultPodPids
	}
	if o.Eviction == nil {
		p, err := eviction.Parse(eviction.Default())
		if err != nil {
			return o, err
		}
		o.Eviction = &p
	}
	o.trackEvery, o.askEvery = cmp.Or(o.trackEvery, trackLook), cmp.Or(o.askEvery, trackPeriod)
	o.systemBus, o.logindConf = cmp.Or(o.systemBus, logind.DefaultBus), cmp.Or(o.logindConf, logind.DefaultConfDir)
	if o.Version == "" {
		o.Version = "v0.0.0"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	return o, nil
}

func (o Options) validate() error {
	for _, server := range append([]string{o.Server}, o.MoreServers...) {
		if !strings.HasPrefix(server, "https://") {
			return errors.New("cannot run the agent: the server is not an https URL")
		}
	}
	if o.Token != "" {
		if err := register.CheckToken(o.Token); err != nil {
			return fmt.Errorf("cannot run the agent: %w", err)
		}
	}
	return nil
}

// CheckSysctls says why pods cannot be allowed the sysctls of a name, which may end in a star for all that begin so.
func CheckSysctls(pattern string) error { return spec.CheckSysctls(pattern) }

// credentials are the files of which the first that is there has the node's.
func (o Options) credentials() []string {
	if o.Credentials != "" {
		return []string{o.Credentials}
	}
	files := []string{filepath.Join(o.DataDir, "config.json")}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".docker", "config.json"))
	}
	return append(files, "/.docker/config.json")
}

// agentDir is where the agent keeps what must outlive a reboot.
func (o Options) agentDir() string { return filepath.Join(o.DataDir, "agent") }

func (o Options) volumesDir() string { return filepath.Join(o.DataDir, "volumes") }

// localPathDir has the persistent volumes that are directories of this node.
func (o Options) localPathDir() string { return filepath.Join(o.DataDir, "local-path") }

func (o Options) directories() localpath.Directories {
	return localpath.Directories{Dir: o.localPathDir(), Node: o.NodeName, Records: filepath.Join(o.agentDir(), "local-path"),
		Quotas: projects.Kernel{}}
}

// managedDir has the data of a containerd of our own.
func (o Options) managedDir() string { return filepath.Join(o.DataDir, "containerd") }

func (o Options) containerdSocket() string {
	if o.Containerd == Managed {
		return filepath.Join(o.RunDir, "containerd", "containerd.sock")
	}
	return o.Containerd
}

func (o Options) remains() machine.Remains {
	return machine.Remains{Node: o.NodeName, Socket: o.containerdSocket(), Managed: o.Containerd == Managed}
}
