package pod

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds/drift"
	"lockstep/nodeagent/spec"
	"lockstep/nodeagent/turns"
	"lockstep/nodeagent/userns"
)

const (
	// parallelPrepares bounds snapshot and pipe work, parallelStarts what
	// executes shims and runc: more of the latter than cores only makes all of
	// them slower.
	parallelPrepares = 8
	// longestTurn is how long one of either holds up others: many times what it
	// takes. One that hangs, as on a dead file system, goes on beside them.
	longestTurn = 10 * time.Second
)

// parallelStarts is how many containers are created at a time.
func parallelStarts() int { return max(2, 2*goruntime.NumCPU()) }

// Content has ConfigMaps and Secrets; apierrors.IsNotFound says that there is none. What it returns is shared.
type Content interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Cluster is what pods ask of the cluster.
type Cluster interface {
	Content
	// Latest is the content as it was last heard of, without a question for each object.
	Latest() Content
	// Token is one of the pod's service account, as a projection asks for it.
	Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error)
	// RuntimeClass is one by its name; apierrors.IsNotFound says that there is none.
	RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error)
	// PersistentVolumeClaim and PersistentVolume are as ConfigMap.
	PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	// NodeLabels are the node's own, as the cluster has them; it waits a while for them to be known.
	NodeLabels(ctx context.Context) (map[string]string, error)
	// Services are those whose variables pods of a namespace see. It waits a while for them to be known.
	Services(ctx context.Context, namespace string) []*corev1.Service
	// Delete removes the pod's object, if it is still this pod; one that is gone is no error.
	Delete(ctx context.Context, pod *corev1.Pod) error
}

// Owner runs the loops of a node's pods.
type Owner interface {
	// Claim says that what happens to a container is the pod's matter, Unclaim that it is nobody's any more.
	Claim(id string, p *Pod)
	Unclaim(id string)
	// Report asks for the pod's Status to be written, at once if somebody waits for it. The pod's lock is held.
	Report(p *Pod, urgent bool)
	// Refresh asks for UpdateVolumes soon.
	Refresh(uid types.UID)
	// Forget says that nothing of the pod is left: its loop ends. The pod's lock is held.
	Forget(p *Pod)
	// Found takes in what differed of a pod though nobody asked for it; it does not block. The pod's lock may be held.
	Found(f drift.Finding)
	// Knows says whether there is such a pod, and nobody has forgotten it.
	Knows(uid types.UID) bool
}

// Options are what the pods of one node share; all of them are required.
type Options struct {
	Machine
	Cluster Cluster
	Owner   Owner
	Records Records
	// Users are the IDs of pods with user namespaces of their own.
	Users *userns.Ranges
	// RunDir has pipes and sandboxes, LogDir the logs, SeccompDir profiles of type Localhost.
	RunDir, LogDir, SeccompDir string
	// Cgroup is the parent of all pods' cgroups.
	Cgroup string
	// Names are where the cluster's names are asked for, and their domain.
	Names func() (servers []netip.Addr, domain string)
	// Facts are what specifications depend on of the machine, HostIPs its addresses, the primary one first.
	Facts   func() spec.Node
	HostIPs func() []string
	Metrics *Metrics
	Log     *slog.Logger
}

// Node is where pods run.
type Node struct {
	Options
	hookClient          *http.Client
	preparing, starting *turns.Turns
}

// NewNode returns a node without pods; it starts nothing.
func NewNode(o Options) *Node {
	return &Node{Options: o, hookClient: newHookClient(),
		preparing: turns.New(parallelPrepares, longestTurn), starting: turns.New(parallelStarts(), longestTurn)}
}

// cgroupOf is a pod's cgroup in a tier's.
func (n *Node) cgroupOf(tier string, uid types.UID) string {
	return filepath.Join(n.Cgroup, tier, "pod"+string(uid))
}

// SandboxDir holds a pod's namespaces until the pod or the boot ends.
func SandboxDir(runDir string, uid types.UID) string {
	return filepath.Join(runDir, "pods", string(uid))
}

// dropForgotten removes what was kept of a pod that was forgotten while it was being kept. It comes after the keeping, as
// the records of a forgotten pod go after the pod does: whichever is later finds what is left.
func (n *Node) dropForgotten(uid types.UID) error {
	if n.Owner.Knows(uid) {
		return nil
	}
	return n.Records.DropPod(uid)
}

// Metrics are those of pods' loops.
type Metrics struct {
	steps, stepErrors                   *prometheus.CounterVec
	stepSeconds                         *prometheus.HistogramVec
	refreshes, refreshErrors, evictions prometheus.Counter
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "lockstep_agent_" + name, Help: help}
	}
	m := &Metrics{
		steps:      prometheus.NewCounterVec(counter("steps_total", "Steps begun for pods."), []string{"step"}),
		stepErrors: prometheus.NewCounterVec(counter("step_errors_total", "Steps that failed."), []string{"step"}),
		stepSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstep_agent_step_seconds", Help: "How long steps took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)}, []string{"step"}),
		refreshes: prometheus.NewCounter(counter("volume_updates_total", "Volumes of running pods that were given newer contents.")),
		refreshErrors: prometheus.NewCounter(counter("volume_update_errors_total",
			"Volumes of running pods that could not be given newer contents.")),
		evictions: prometheus.NewCounter(counter("evictions_total", "Pods ended for what they took, or what the node lacked.")),
	}
	r.MustRegister(m.steps, m.stepErrors, m.stepSeconds, m.refreshes, m.refreshErrors, m.evictions)
	return m
}
