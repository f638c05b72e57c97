// Package stats measures a node's use of resources in the shape of the kubelet's summary.
package stats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"lockstep/nodeagent/beneath"
)

const (
	// sampleEvery is how often CPU time is read while Run runs, so that there is a rate when somebody asks.
	sampleEvery = 15 * time.Second
	// minRate is the shortest time over which a rate means something.
	minRate = time.Second
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
}

// Container is what is to be measured of a running container.
type Container struct {
	Name      string
	ID        string
	StartTime time.Time
	Cgroup    string
	// LogDir is the directory of its log files.
	LogDir string
}

// Options are what a Collector needs.
type Options struct {
	NodeName string
	// Pods returns the pods to measure; the result is not changed. Required.
	Pods func() []Pod
	// Dir is on the node's file system; empty means `/`. ImageDir is on that of images; empty means Dir.
	Dir, ImageDir string
	// RootFS measures a container's own writes in bytes and inodes; nil leaves them out.
	RootFS func(ctx context.Context, containerID string) (bytes, inodes uint64, err error)
}

// Collector measures. It is safe for concurrent use.
type Collector struct {
	options Options
	now     func() time.Time

	mu     sync.Mutex
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
	return &Collector{options: options, now: time.Now, cpu: map[string]rate{}, usages: map[string]usage{}}
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
	if node, err := readNode(); err == nil {
		c.note("", node.cpu)
	}
	for _, pod := range c.options.Pods() {
		for _, path := range cgroupsOf(&pod) {
			if u, err := readCgroup(path); err == nil {
				c.note(path, u.cpu)
			}
		}
	}
	c.forget()
}

func cgroupsOf(pod *Pod) []string {
	paths := []string{pod.Cgroup}
	for i := range pod.Containers {
		paths = append(paths, pod.Containers[i].Cgroup)
	}
	return paths
}

// note takes a reading and returns the rate in nanocores, nil when there is none yet.
func (c *Collector) note(key string, nanos uint64) *uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := reading{c.now(), nanos}
	r := c.cpu[key]
	if now.at.Sub(r.last.at) >= minRate {
		r.before, r.last = r.last, now
		c.cpu[key] = r
	}
	return r.perSecond()
}

// perSecond is the rate between the two readings; nil before the second, and after a counter that began anew.
func (r rate) perSecond() *uint64 {
	if r.before.at.IsZero() || r.last.nanos < r.before.nanos || !r.last.at.After(r.before.at) {
		return nil
	}
	per := uint64(float64(r.last.nanos-r.before.nanos) / r.last.at.Sub(r.before.at).Seconds())
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
}

// Summary measures everything. What cannot be measured, because it is gone or the kernel does not count it, is left
// out; the error is ctx's, or about the node itself.
func (c *Collector) Summary(ctx context.Context) (*statsapi.Summary, error) {
	node, err := c.node()
	if err != nil {
		return nil, fmt.Errorf("cannot measure the node: %w", err)
	}
	summary := &statsapi.Summary{Node: *node, Pods: []statsapi.PodStats{}}
	for _, pod := range c.options.Pods() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		summary.Pods = append(summary.Pods, c.pod(ctx, &pod))
	}
	sort.Slice(summary.Pods, func(i, j int) bool {
		a, b := summary.Pods[i].PodRef, summary.Pods[j].PodRef
		return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
	})
	return summary, nil
}

func (c *Collector) node() (*statsapi.NodeStats, error) {
	u, err := readNode()
	if err != nil {
		return nil, err
	}
	fs, err := readFS(c.options.Dir, c.now())
	if err != nil {
		return nil, err
	}
	images, err := readFS(c.options.ImageDir, c.now())
	if err != nil {
		images = nil
	}
	network, err := readNetwork("", c.now())
	if err != nil {
		network = nil
	}
	cpu, memory := c.resources("", u)
	return &statsapi.NodeStats{
		NodeName: c.options.NodeName, StartTime: metav1.NewTime(u.booted),
		CPU: cpu, Memory: memory, Network: network, Fs: fs,
		Runtime: &statsapi.RuntimeStats{ImageFs: images, ContainerFs: images},
	}, nil
}

func (c *Collector) pod(ctx context.Context, pod *Pod) statsapi.PodStats {
	s := statsapi.PodStats{
		PodRef:     statsapi.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)},
		StartTime:  metav1.NewTime(pod.StartTime),
		Containers: []statsapi.ContainerStats{},
	}
	if u, err := readCgroup(pod.Cgroup); err == nil {
		s.CPU, s.Memory = c.resources(pod.Cgroup, u)
	}
	if pod.NetNS != "" {
		if network, err := readNetwork(pod.NetNS, c.now()); err == nil {
			s.Network = network
		}
	}
	var ephemeral usage
	for i := range pod.Containers {
		container := c.container(ctx, &pod.Containers[i])
		for _, fs := range []*statsapi.FsStats{container.Rootfs, container.Logs} {
			ephemeral.add(fs)
		}
		s.Containers = append(s.Containers, container)
	}
	for name, dir := range pod.Volumes {
		if fs := c.directory(ctx, dir); fs != nil {
			s.VolumeStats = append(s.VolumeStats, statsapi.VolumeStats{FsStats: *fs, Name: name})
			ephemeral.add(fs)
		}
	}
	sort.Slice(s.VolumeStats, func(i, j int) bool { return s.VolumeStats[i].Name < s.VolumeStats[j].Name })
	if fs, err := readFS(c.options.Dir, c.now()); err == nil {
		fs.UsedBytes, fs.InodesUsed = &ephemeral.bytes, &ephemeral.inodes
		s.EphemeralStorage = fs
	}
	return s
}

func (u *usage) add(fs *statsapi.FsStats) {
	if fs != nil && fs.UsedBytes != nil && fs.InodesUsed != nil {
		u.bytes += *fs.UsedBytes
		u.inodes += *fs.InodesUsed
	}
}

func (c *Collector) container(ctx context.Context, container *Container) statsapi.ContainerStats {
	s := statsapi.ContainerStats{Name: container.Name, StartTime: metav1.NewTime(container.StartTime)}
	if u, err := readCgroup(container.Cgroup); err == nil {
		s.CPU, s.Memory = c.resources(container.Cgroup, u)
	}
	if container.LogDir != "" {
		s.Logs = c.directory(ctx, container.LogDir)
	}
	if c.options.RootFS != nil {
		s.Rootfs = c.onFS(ctx, c.options.ImageDir, container.ID, func() (uint64, uint64, error) {
			return c.options.RootFS(ctx, container.ID)
		})
	}
	return s
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

func (c *Collector) resources(key string, u used) (*statsapi.CPUStats, *statsapi.MemoryStats) {
	now := metav1.NewTime(c.now())
	cpu := &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &u.cpu, UsageNanoCores: c.note(key, u.cpu)}
	memory := &statsapi.MemoryStats{
		Time: now, UsageBytes: &u.memory, WorkingSetBytes: &u.workingSet, RSSBytes: &u.rss,
		PageFaults: &u.faults, MajorPageFaults: &u.majorFaults,
	}
	if u.limit > u.workingSet {
		available := u.limit - u.workingSet
		memory.AvailableBytes = &available
	}
	return cpu, memory
}

// ServeHTTP answers GET /stats/summary.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	summary, err := c.Summary(r.Context())
	if err != nil {
		code := http.StatusInternalServerError
		if errors.Is(err, context.Canceled) {
			code = 499 // the client went away, and sees nothing
		}
		http.Error(w, err.Error(), code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", " ")
	_ = encoder.Encode(summary)
}
