// Package stats measures a node's use of resources in the shape of the kubelet's summary.
package stats

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"lockstep/nodeagent/beneath"
)

const (
	// sampleEvery is how often CPU time is read while Run runs, so that there is a rate when somebody asks.
	sampleEvery = 15 * time.Second
	// minRate is the shortest time over which a rate means something; one over less than goodRate is made longer by the
	// next reading, so that somebody who asks just after a sample changes little.
	minRate, goodRate = time.Second, 10 * time.Second
	// usageEvery is how old the size of directories and snapshots may be: walking them is work for the disk.
	usageEvery = time.Minute
	// usageTimeout bounds one walk: a pod's millions of files keep nobody else from being measured.
	usageTimeout = 10 * time.Second
)

// Pod is what is to be measured of a pod.
type Pod struct {
	Namespace, Name string
	UID             types.UID
	StartTime       time.Time
	// Cgroup is the pod's path under the cgroup mounts.
	Cgroup string
	// NetNS is the path of its network namespace; empty for one on the host's network.
	NetNS      string
	Containers []Container
	// Volumes are directories on the node's disk by their volume's name.
	Volumes map[string]string
	// Outside are its other volumes that are measured, by their names in it.
	Outside map[string]Volume
}

// Container is what is to be measured of a running container.
type Container struct {
	Name      string
	ID        string
	Image     string
	StartTime time.Time
	Cgroup    string
	// LogDir is the directory of its log files.
	LogDir string
}

// Options are what a Collector needs.
type Options struct {
	NodeName string
	// Machine is told with the metrics of the machine; zero leaves its labels empty.
	Machine corev1.NodeSystemInfo
	// Pods returns the pods to measure; the result is not changed. Required.
	Pods func() []Pod
	// Dir is on the node's file system; empty means `/`. ImageDir is on that of images; empty means Dir.
	Dir, ImageDir string
	// RootFS measures a container's own writes in bytes and inodes; nil leaves them out.
	RootFS func(ctx context.Context, containerID string) (bytes, inodes uint64, err error)
	// Volume is what a volume outside was measured to have last; nil: nothing is known. A nil function leaves them out.
	Volume func(key string) *statsapi.FsStats
}

// Collector measures, at most every sampleEvery however many ask. It is safe for concurrent use.
type Collector struct {
	options   Options
	tree      tree
	now       func() time.Time
	measuring chan struct{} // has room for who measures

	mu     sync.Mutex
	last   *moment          // nil before, and long after, somebody asks
	cpu    map[string]rate  // by cgroup; the node's by ""
	usages map[string]usage // by directory, or container id
}

// rate is two readings of a counter of CPU time.
type rate struct{ before, last reading }

type reading struct {
	at    time.Time
	nanos uint64
}

type usage struct {
	at            time.Time
	bytes, inodes uint64
	failed        bool // it could not be measured then
}

// New returns a collector.
func New(options Options) *Collector {
	if options.Dir == "" {
		options.Dir = "/"
	}
	if options.ImageDir == "" {
		options.ImageDir = options.Dir
	}
	return &Collector{
		options: options, tree: machineTree(), now: time.Now, measuring: make(chan struct{}, 1),
		cpu: map[string]rate{}, usages: map[string]usage{},
	}
}

// Run reads CPU times now and then, until ctx ends. Without it the first summary has no CPU rates.
func (c *Collector) Run(ctx context.Context) error {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		c.sample()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *Collector) sample() {
	defer c.forget()
	c.mu.Lock()
	measured := c.last != nil && c.now().Sub(c.last.at) < sampleEvery
	c.mu.Unlock()
	if measured {
		return // that was a reading
	}
	if node, err := readNode(); err == nil {
		c.note("", node.cpu)
	}
	for _, pod := range c.options.Pods() {
		for _, path := range cgroupsOf(&pod) {
			if nanos, err := c.tree.cpuTime(path); err == nil {
				c.note(path, nanos)
			}
		}
	}
}

func cgroupsOf(pod *Pod) []string {
	paths := []string{pod.Cgroup}
	for i := range pod.Containers {
		paths = append(paths, pod.Containers[i].Cgroup)
	}
	return paths
}

// note takes a reading and returns the rate there is then.
func (c *Collector) note(key string, nanos uint64) rate {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := reading{c.now(), nanos}
	r := c.cpu[key]
	since := now.at.Sub(r.last.at)
	if since < minRate {
		return r
	}
	if since >= goodRate || r.before.at.IsZero() || r.anew() {
		r.before = r.last
	}
	r.last = now
	c.cpu[key] = r
	return r
}

// anew says that the counter has begun anew.
func (r rate) anew() bool { return r.last.nanos < r.before.nanos }

func (r rate) window() time.Duration { return r.last.at.Sub(r.before.at) }

// perSecond is the rate between the two readings; nil before the second, and after a counter that began anew.
func (r rate) perSecond() *uint64 {
	if r.before.at.IsZero() || r.anew() || r.window() <= 0 {
		return nil
	}
	per := uint64(float64(r.last.nanos-r.before.nanos) / r.window().Seconds())
	return &per
}

// forget drops what has not been measured for a while.
func (c *Collector) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, r := range c.cpu {
		if c.now().Sub(r.last.at) > 10*sampleEvery {
			delete(c.cpu, key)
		}
	}
	for key, u := range c.usages {
		if c.now().Sub(u.at) > 10*usageEvery {
			delete(c.usages, key)
		}
	}
	if c.last != nil && c.now().Sub(c.last.at) > 10*sampleEvery {
		c.last = nil
	}
}

// directory measures a directory on the node's file system.
func (c *Collector) directory(ctx context.Context, dir string) *statsapi.FsStats {
	return c.onFS(ctx, dir, dir, func() (uint64, uint64, error) {
		ctx, cancel := context.WithTimeout(ctx, usageTimeout)
		defer cancel()
		size, err := beneath.Usage(ctx, dir)
		return size.Bytes, size.Inodes, err
	})
}

// onFS is the state of a file system with the use of something on it, measured once in a while.
func (c *Collector) onFS(ctx context.Context, path, key string, measure func() (bytes, inodes uint64, err error)) *statsapi.FsStats {
	fs, err := readFS(path, c.now())
	if err != nil {
		return nil
	}
	c.mu.Lock()
	u, known := c.usages[key]
	c.mu.Unlock()
	if !known || c.now().Sub(u.at) >= usageEvery {
		bytes, inodes, err := measure()
		if ctx.Err() != nil {
			return nil
		}
		u = usage{at: c.now(), bytes: bytes, inodes: inodes, failed: err != nil}
		c.mu.Lock()
		c.usages[key] = u
		c.mu.Unlock()
	}
	if u.failed {
		return nil
	}
	fs.Time = metav1.NewTime(u.at)
	fs.UsedBytes, fs.InodesUsed = &u.bytes, &u.inodes
	return fs
}
