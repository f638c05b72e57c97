package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// pluginTimeout bounds one CNI call: plugins take milliseconds, a wedged one
// must not hold a pod forever.
const pluginTimeout = time.Minute

// ErrNotReady says that the node has no pod network yet.
var ErrNotReady = errors.New("the node has no pod addresses yet")

// Options configures the pod network of one node.
type Options struct {
	// Node names the network, so that several nodes fit on one machine.
	Node string
	// StateDir holds everything that plugins remember; it may vanish with a reboot.
	StateDir string
	// BinDirs are searched for plugins in this order.
	BinDirs []string
	// ConfDir, when not empty, has the user's own CNI configuration; the first
	// by name of its .conflist, .conf and .json files replaces our default.
	ConfDir string
	// MTU of the pods' links; 0 leaves it to the plugin.
	MTU int
}

// name is the default network's.
func (o Options) name() string { return "lockstep-" + o.Node }

// Network calls the CNI plugins for pods. It uses libcni without go-cni
// around it, since the latter keeps its results in /var/lib/cni, wherever the
// node's own directories are.
type Network struct {
	opts Options
	cni  *libcni.CNIConfig

	mu   sync.RWMutex
	list *libcni.NetworkConfigList
}

// Open prepares the network; it is not ready before Configure.
func Open(opts Options) *Network {
	return &Network{opts: opts, cni: libcni.NewCNIConfigWithCacheDir(opts.BinDirs, filepath.Join(opts.StateDir, "cache"), &plugins{})}
}

// Configure makes the network ready for pods with addresses of podCIDRs.
// Calling it again with other ranges concerns later pods only. With no range
// and no configuration of the user it returns ErrNotReady.
func (n *Network) Configure(podCIDRs []string) error {
	data, err := n.userConfig()
	if err != nil {
		return err
	}
	if data == nil {
		if len(podCIDRs) == 0 {
			return ErrNotReady
		}
		if data, err = defaultConfig(n.opts, podCIDRs); err != nil {
			return err
		}
	}
	list, err := libcni.ConfListFromBytes(data)
	if err != nil {
		return fmt.Errorf("cannot read network configuration: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.list != nil && bytes.Equal(n.list.Bytes, list.Bytes) {
		return nil
	}
	if err := os.MkdirAll(n.opts.StateDir, 0o700); err != nil {
		return fmt.Errorf("cannot write network configuration: %w", err)
	}
	if err := os.WriteFile(n.confFile(), data, 0o600); err != nil {
		return fmt.Errorf("cannot write network configuration: %w", err)
	}
	n.list = list
	return nil
}

func (n *Network) confFile() string { return filepath.Join(n.opts.StateDir, "lockstep.conflist") }

// userConfig returns the user's configuration as a list, nil if there is none.
func (n *Network) userConfig() ([]byte, error) {
	if n.opts.ConfDir == "" {
		return nil, nil
	}
	files, err := libcni.ConfFiles(n.opts.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("cannot read network configurations in %s: %w", n.opts.ConfDir, err)
	}
	if len(files) == 0 {
		return nil, nil
	}
	slices.Sort(files)
	if strings.HasSuffix(files[0], ".conflist") {
		return os.ReadFile(files[0])
	}
	list, err := listOfOne(files[0])
	if err != nil {
		return nil, fmt.Errorf("cannot read network configuration %s: %w", files[0], err)
	}
	return list, nil
}

// listOfOne reads a file with the configuration of one plugin as the list that has only that plugin.
func listOfOne(file string) ([]byte, error) {
	plugin, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var head struct {
		Name       string `json:"name"`
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(plugin, &head); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"name": head.Name, "cniVersion": head.CNIVersion, "plugins": []json.RawMessage{plugin}})
}

// defaultConfig is a point-to-point link for each pod with an address of the
// node's ranges. Masquerade, host ports and hairpin are the proxy's.
func defaultConfig(o Options, podCIDRs []string) ([]byte, error) {
	type kv = map[string]any
	var ranges [][]kv
	var routes []kv
	for _, c := range podCIDRs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return nil, fmt.Errorf("cannot read pod range: %w", err)
		}
		ranges = append(ranges, []kv{{"subnet": p.String()}})
		dst := "0.0.0.0/0"
		if p.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, kv{"dst": dst})
	}
	ptp := kv{
		"type": "ptp", "ipMasq": false,
		"ipam": kv{"type": "host-local", "dataDir": filepath.Join(o.StateDir, "addresses"), "ranges": ranges, "routes": routes},
	}
	if o.MTU > 0 {
		ptp["mtu"] = o.MTU
	}
	return json.Marshal(kv{"cniVersion": "1.0.0", "name": o.name(), "plugins": []kv{ptp}})
}

// Ready returns ErrNotReady until Configure has succeeded.
func (n *Network) Ready() error {
	if n.current() == nil {
		return ErrNotReady
	}
	return nil
}

func (n *Network) current() *libcni.NetworkConfigList {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.list
}

// Pod names a pod for plugins.
type Pod struct {
	UID, Namespace, Name string
	// Address is what it had before, if anything; it gets it again where that
	// is free and the network is our own.
	Address string
}

func runtimeConf(p Pod, netns string) *libcni.RuntimeConf {
	conf := &libcni.RuntimeConf{
		ContainerID: p.UID, NetNS: netns, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.Namespace}, {"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.UID}, {"K8S_POD_UID", p.UID}},
	}
	if p.Address != "" {
		conf.Args = append(conf.Args, [2]string{"IP", p.Address}) // host-local's argument
	}
	return conf
}

// Add joins the pod's network namespace to the network and returns its
// addresses. After an error nothing of the pod is left in the network.
func (n *Network) Add(ctx context.Context, p Pod, netns string) ([]string, error) {
	list := n.current()
	if list == nil {
		return nil, ErrNotReady
	}
	if p.Address != "" {
		if list.Name == n.opts.name() {
			if ips, err := n.add(ctx, list, p, netns); err == nil || ctx.Err() != nil {
				return ips, err
			}
		}
		p.Address = "" // it is taken, or of another range
	}
	return n.add(ctx, list, p, netns)
}

func (n *Network) add(ctx context.Context, list *libcni.NetworkConfigList, p Pod, netns string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	res, err := n.cni.AddNetworkList(ctx, list, runtimeConf(p, netns))
	if err != nil {
		// The caller's context may have ended; what was half made must go all the same.
		clean, stop := context.WithTimeout(context.WithoutCancel(ctx), pluginTimeout)
		defer stop()
		return nil, errors.Join(fmt.Errorf("cannot add pod %s/%s to the network: %w", p.Namespace, p.Name, err), n.Remove(clean, p, netns))
	}
	result, err := types100.NewResultFromResult(res)
	if err != nil {
		return nil, fmt.Errorf("cannot read addresses of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	var ips []string
	for _, ip := range result.IPs {
		ips = append(ips, ip.Address.IP.String())
	}
	return ips, nil
}

// Remove takes the pod out of the network; an absent pod is no error. netns
// may be empty when the namespace is gone.
func (n *Network) Remove(ctx context.Context, p Pod, netns string) error {
	list := n.current()
	if list == nil {
		// A pod of an earlier run can only have been added with its configuration.
		data, err := os.ReadFile(n.confFile())
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			list, err = libcni.ConfListFromBytes(data)
		}
		if err != nil {
			return fmt.Errorf("cannot remove pod %s/%s from the network: %w", p.Namespace, p.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	if netns != "" && !pinned(netns) {
		netns = ""
	}
	if err := n.cni.DelNetworkList(ctx, list, runtimeConf(p, netns)); err != nil {
		return fmt.Errorf("cannot remove pod %s/%s from the network: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// Sweep frees the addresses of pods that keep does not know: an agent that
// was killed between two steps left them.
func (n *Network) Sweep(ctx context.Context, keep func(uid string) bool) error {
	files, err := filepath.Glob(filepath.Join(n.opts.StateDir, "addresses", "*", "*"))
	if err != nil {
		return err
	}
	var errs []error
	seen := map[string]bool{}
	for _, f := range files {
		base := filepath.Base(f)
		if _, err := netip.ParseAddr(strings.ReplaceAll(base, "_", ":")); err != nil {
			continue // lock and last_reserved_ip
		}
		data, err := os.ReadFile(f)
		if err != nil {
			continue // freed meanwhile
		}
		uid := strings.TrimSpace(strings.SplitN(string(data), "\n", 2)[0])
		if keep(uid) || seen[uid] {
			continue
		}
		seen[uid] = true
		errs = append(errs, n.Remove(ctx, Pod{UID: uid}, ""))
	}
	return errors.Join(errs...)
}
