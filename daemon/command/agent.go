package command

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"lockstep/daemon/version"
	"lockstep/internal/shrink"
	"lockstep/nodeagent"
	"lockstep/nodeagent/devices"
	"lockstep/nodeagent/eviction"
	"lockstep/nodeagent/shutdown"
)

// agentFlags are the flags of the node agent; up has them too.
type agentFlags struct {
	nodeName, nodeIP, containerd, runc, snapshotter, images, registries, cniConf, kubelet string
	labels, taints, sysctls, resources                                                    []string
	podPids                                                                               int64
	pulls                                                                                 pullFlags
	memory                                                                                memoryFlags
	eviction                                                                              eviction.Texts
	shutdown                                                                              shutdown.Texts
	ingress                                                                               ingressFlags
}

func (f *agentFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.nodeName, "node-name", "", "`NAME` of the node (default: the machine's)")
	flags.StringVar(&f.nodeIP, "node-ip", "", "`ADDRESS` of the node (default: the machine's first)")
	flags.StringVar(&f.containerd, "containerd", "",
		"`SOCKET` of containerd, or managed: one of the agent's own, which outlives it (default: as it was last run, "+
			"else the system's where it answers, else managed)")
	flags.StringVar(&f.runc, "runc", "",
		"`PROGRAM` with which containerd runs containers, a path (default: the runc that containerd finds)")
	flags.StringVar(&f.snapshotter, "snapshotter", "", "`NAME` of containerd's snapshotter (default: overlayfs)")
	flags.StringVar(&f.images, "images", "", "`FOLDER` of image archives to import at start")
	flags.StringVar(&f.registries, "registry-config", "",
		"`FOLDER` with containerd's registry configuration (default: /etc/containerd/certs.d)")
	flags.StringVar(&f.kubelet, "kubelet-dir", "",
		"`FOLDER` that CSI drivers see as /var/lib/kubelet (default: that one, or below another --data-dir)")
	f.pulls.add(flags)
	flags.StringVar(&f.cniConf, "cni-conf", "", "`FOLDER` with a CNI configuration to use instead of the pod network of Lockstep's own")
	flags.Int64Var(&f.podPids, "pod-pids-limit", nodeagent.DefaultPodPids, "most processes and threads of a pod, `N`; -1 for no limit")
	f.memory.add(flags)
	flags.StringArrayVar(&f.resources, "resource", nil,
		"`NAME=COUNT` of an extended resource of the node, or NAME=DEVICE,DEVICE… by the devices' names as CDI has them "+
			"(example.com/gpu=0); may be given several times")
	flags.StringSliceVar(&f.sysctls, "allowed-unsafe-sysctls", nil,
		"`NAMES` of sysctls that pods may set beside the safe ones; a * at the end stands for any")
	standard := eviction.Default()
	flags.StringVar(&f.eviction.Hard, "eviction-hard", standard.Hard,
		"`THRESHOLDS` of what must be left on the node, or pods end at once; those that are not stated do not hold")
	flags.StringVar(&f.eviction.Soft, "eviction-soft", "", "`THRESHOLDS` below which pods end after a while, as memory.available<300Mi")
	flags.StringVar(&f.eviction.SoftGrace, "eviction-soft-grace-period", "", "`TIMES` after which, as memory.available=1m30s")
	flags.StringVar(&f.eviction.MinimumReclaim, "eviction-minimum-reclaim", "",
		"`AMOUNTS` that there must be more than the thresholds before no more pods end, as nodefs.available=1Gi")
	flags.DurationVar(&f.eviction.MaxPodGrace, "eviction-max-pod-grace-period", 0,
		"most `TIME` that pods get which end for a soft threshold")
	flags.DurationVar(&f.eviction.Hold, "eviction-pressure-transition-period", standard.Hold,
		"`TIME` for which the node says that it is short after it was last so")
	flags.DurationVar(&f.shutdown.Period, "shutdown-grace-period", 0,
		"`TIME` for which a shutdown of the machine, where it has systemd, waits until pods have ended; 0 for not at all")
	flags.DurationVar(&f.shutdown.CriticalPods, "shutdown-grace-period-critical-pods", 0, "`TIME` of it for critical pods, which end last")
	flags.StringVar(&f.shutdown.ByPriority, "shutdown-grace-period-by-pod-priority", "",
		"`SHARES` of it by priority instead, as 100000=10s,0=60s")
	f.ingress.add(flags)
	flags.StringArrayVar(&f.labels, "label", nil, "`KEY=VALUE` label of the node; may be given several times")
	flags.StringArrayVar(&f.taints, "taint", nil, "`KEY=VALUE:EFFECT` taint of the node; may be given several times")
}

func (f *agentFlags) options(dirs dirFlags, address netip.Addr) (nodeagent.Options, error) {
	o := nodeagent.Options{
		DataDir: dirs.data, RunDir: dirs.run, NodeIPs: []netip.Addr{address}, Containerd: f.containerd, Snapshotter: f.snapshotter,
		Runc: f.runc, ImagesDir: f.images, CertsDir: f.registries, CNIConfDir: f.cniConf, KubeletDir: f.kubelet, Version: version.Version,
		Labels: map[string]string{}, Metrics: processRegistry(), PodPidsLimit: f.podPids, Sysctls: f.sysctls,
	}
	if f.podPids == 0 || f.podPids < -1 {
		return o, fmt.Errorf("cannot use --pod-pids-limit %d: want a number above 0, or -1 for no limit", f.podPids)
	}
	var err error
	if o.Memory, err = f.memory.policy(); err != nil {
		return o, err
	}
	for _, text := range f.resources {
		r, err := devices.Parse(text)
		if err != nil {
			return o, fmt.Errorf("cannot use --resource %q: %w", text, err)
		}
		o.Resources = append(o.Resources, r)
	}
	if err := devices.Check(o.Resources); err != nil {
		return o, fmt.Errorf("cannot use --resource: %w", err)
	}
	for _, pattern := range f.sysctls {
		if err := nodeagent.CheckSysctls(pattern); err != nil {
			return o, fmt.Errorf("cannot use --allowed-unsafe-sysctls %s: %w", pattern, err)
		}
	}
	if err := f.pulls.apply(&o); err != nil {
		return o, err
	}
	if o.Ingress, err = f.ingress.options(); err != nil {
		return o, err
	}
	policy, err := eviction.Parse(f.eviction)
	if err != nil {
		return o, fmt.Errorf("cannot use the flags of eviction: %w", err)
	}
	o.Eviction = &policy
	if o.Shutdown, err = shutdown.Parse(f.shutdown); err != nil {
		return o, fmt.Errorf("cannot use the flags of shutdown: %w", err)
	}
	for _, folder := range []struct{ flag, path string }{{"images", f.images}, {"registry-config", f.registries}, {"cni-conf", f.cniConf}} {
		if err := readable(folder.flag, folder.path, true); err != nil {
			return o, err
		}
	}
	if err := makeable("kubelet-dir", f.kubelet); err != nil {
		return o, err
	}
	if o.NodeName, err = nodeName(f.nodeName); err != nil {
		return o, err
	}
	if o.Containerd == "" {
		if o.Containerd, err = nodeagent.LastContainerd(dirs.data); err != nil {
			return o, err
		}
	}
	if o.Containerd == "" {
		o.Containerd = findContainerd()
	}
	for _, text := range f.labels {
		key, value, ok := strings.Cut(text, "=")
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if !ok {
			problems = append(problems, "it has no =")
		}
		if len(problems) > 0 {
			return o, fmt.Errorf("cannot use --label %q: want KEY=VALUE: %s", text, strings.Join(problems, "; "))
		}
		o.Labels[key] = value
	}
	for _, text := range f.taints {
		taint, err := parseTaint(text)
		if err != nil {
			return o, err
		}
		o.Taints = append(o.Taints, taint)
	}
	return o, nil
}

func parseTaint(text string) (corev1.Taint, error) {
	pair, effect, ok := strings.Cut(text, ":")
	key, value, _ := strings.Cut(pair, "=")
	problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
	switch corev1.TaintEffect(effect) {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
	default:
		problems = append(problems, "the effect is not NoSchedule, PreferNoSchedule or NoExecute")
	}
	if !ok || len(problems) > 0 {
		return corev1.Taint{}, fmt.Errorf("cannot use --taint %q: want KEY=VALUE:EFFECT: %s", text, strings.Join(problems, "; "))
	}
	return corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}, nil
}

func newAgent() *cobra.Command {
	var flags agentFlags
	var dirs dirFlags
	var logs logFlags
	var servers []string
	var token, tokenFile string
	c := &cobra.Command{Use: "agent", Short: "Run this machine as a node of a cluster", Args: takes(0, 0),
		Long: `Run this machine as a node. The token is needed once, until the node has its certificate.
Stopping the agent leaves all pods running.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("run a node"); err != nil {
				return err
			}
			log, err := logs.logger(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if len(servers) == 0 || servers[0] == "" {
				return errors.New("cannot run the agent: --server is required, as https://ADDRESS:6443")
			}
			for _, server := range servers {
				if server == "" {
					return errors.New("cannot use --server: one of several is empty")
				}
				if err := wantURL("server", server, "https://ADDRESS:6443", "https"); err != nil {
					return err
				}
			}
			if err := dirs.usable(); err != nil {
				return err
			}
			if token != "" && tokenFile != "" {
				return errors.New("cannot run the agent: --token and --token-file exclude each other")
			}
			address, err := nodeAddress(flags.nodeIP)
			if err != nil {
				return err
			}
			o, err := flags.options(dirs, address)
			if err != nil {
				return err
			}
			o.Server, o.MoreServers, o.Token, o.TokenFile, o.Log = servers[0], servers[1:], token, tokenFile, log
			if !nodeagent.Joined(o) { // the token is not needed afterwards, and may be gone
				if err := readable("token-file", tokenFile, false); err != nil {
					return err
				}
			}
			agent, err := nodeagent.New(o)
			if err != nil {
				return err
			}
			if err := nodeagent.Preflight(cmd.Context(), o); err != nil {
				return err
			}
			g, ctx := errgroup.WithContext(cmd.Context())
			g.Go(func() error { return agent.Run(ctx) })
			g.Go(func() error { shrink.Once(ctx); return nil })
			return g.Wait()
		}}
	flags.add(c)
	dirs.add(c)
	logs.add(c, "info")
	c.Flags().StringSliceVar(&servers, "server", nil,
		"`URL` of the API, https://ADDRESS:6443; may be given several times, or with commas, and the node learns the others by itself")
	c.Flags().StringVar(&token, "token", "", "join `TOKEN`, from lockstep token create")
	c.Flags().StringVar(&tokenFile, "token-file", "", "`FILE` with the join token")
	return c
}

// processRegistry is a registry that has the metrics of Go and of the process already.
func processRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// findContainerd returns the system's containerd where it answers, else the agent's own.
func findContainerd() string {
	conn, err := net.DialTimeout("unix", nodeagent.DefaultContainerd, time.Second)
	if err != nil {
		return nodeagent.Managed
	}
	_ = conn.Close()
	return nodeagent.DefaultContainerd
}
