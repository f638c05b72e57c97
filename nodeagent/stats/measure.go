package stats

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// moment is what a node and its pods have used at one time. It is not changed once others have it.
type moment struct {
	at   time.Time
	node use
	pods []podUse // by namespace, name and start; containers by name and start

	// whole says that the rest is there: what `kubectl top` has no need of.
	whole                   bool
	links                   []link
	fs, images              *statsapi.FsStats // nil where it cannot be measured
	device                  string            // that fs is on
	cpus, physical, sockets int
}

// use is what something uses: nothing where it is gone.
type use struct {
	used
	rate
	known bool
}

type podUse struct {
	Pod
	use
	containers []containerUse
	links      []link
	volumes    []statsapi.VolumeStats
	ephemeral  *statsapi.FsStats
}

type containerUse struct {
	Container
	use
	rootfs, logs *statsapi.FsStats
}

// measure is a moment of the last sampleEvery, measured now if there is none. What cannot be measured, because it is gone
// or the kernel does not count it, is left out; the error is ctx's, or about the node itself.
func (c *Collector) measure(ctx context.Context, whole bool) (*moment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case c.measuring <- struct{}{}:
		defer func() { <-c.measuring }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	m := c.last
	c.mu.Unlock()
	if m == nil || c.now().Sub(m.at) >= sampleEvery {
		var err error
		if m, err = c.cgroups(ctx); err != nil {
			return nil, err
		}
	}
	if whole && !m.whole {
		var err error
		if m, err = c.rest(ctx, m); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	c.last = m
	c.mu.Unlock()
	return m, nil
}

// cgroups measures CPU and memory.
func (c *Collector) cgroups(ctx context.Context) (*moment, error) {
	node, err := readNode()
	if err != nil {
		return nil, fmt.Errorf("cannot measure the node: %w", err)
	}
	m := &moment{at: c.now(), node: use{node, c.note("", node.cpu), true}}
	for _, pod := range c.options.Pods() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p := podUse{Pod: pod, use: c.use(pod.Cgroup)}
		for _, container := range pod.Containers {
			p.containers = append(p.containers, containerUse{Container: container, use: c.use(container.Cgroup)})
			p.processes += p.containers[len(p.containers)-1].processes // a pod's own cgroup has none
		}
		slices.SortFunc(p.containers, func(a, b containerUse) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), a.StartTime.Compare(b.StartTime))
		})
		m.pods = append(m.pods, p)
	}
	slices.SortFunc(m.pods, func(a, b podUse) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), a.StartTime.Compare(b.StartTime))
	})
	return m, nil
}

// newest are the pods but those that another of the same name has come after.
func (m *moment) newest() []*podUse {
	var out []*podUse
	for i := range m.pods {
		p := &m.pods[i]
		if n := len(out) - 1; n >= 0 && out[n].Namespace == p.Namespace && out[n].Name == p.Name {
			out[n] = p
			continue
		}
		out = append(out, p)
	}
	return out
}

// newest are the containers but those that another of the same name has come after.
func (p *podUse) newest() []*containerUse {
	var out []*containerUse
	for i := range p.containers {
		c := &p.containers[i]
		if n := len(out) - 1; n >= 0 && out[n].Name == c.Name {
			out[n] = c
			continue
		}
		out = append(out, c)
	}
	return out
}

func (c *Collector) use(path string) use {
	u, err := c.tree.read(path)
	if err != nil {
		return use{}
	}
	for i := range u.disks {
		u.disks[i].device = deviceName(u.disks[i].device)
	}
	return use{u, c.note(path, u.cpu), true}
}

// rest measures networks and file systems besides.
func (c *Collector) rest(ctx context.Context, part *moment) (*moment, error) {
	m := *part
	m.whole = true
	var err error
	if m.fs, err = readFS(c.options.Dir, c.now()); err != nil {
		return nil, fmt.Errorf("cannot measure the node: %w", err)
	}
	m.images, _ = readFS(c.options.ImageDir, c.now())
	m.links, _ = readNetwork("")
	m.device = deviceOf(c.options.Dir)
	m.cpus, m.physical, m.sockets = cores("/sys/devices/system/cpu")
	m.pods = slices.Clone(part.pods)
	for i := range m.pods {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.restOf(ctx, &m.pods[i])
	}
	return &m, nil
}

func (c *Collector) restOf(ctx context.Context, pod *podUse) {
	if pod.NetNS != "" {
		pod.links, _ = readNetwork(pod.NetNS)
	}
	var ephemeral usage
	pod.containers = slices.Clone(pod.containers)
	for i := range pod.containers {
		container := &pod.containers[i]
		if container.LogDir != "" {
			container.logs = c.directory(ctx, container.LogDir)
		}
		if c.options.RootFS != nil {
			container.rootfs = c.onFS(ctx, c.options.ImageDir, container.ID, func() (uint64, uint64, error) {
				return c.options.RootFS(ctx, container.ID)
			})
		}
		ephemeral.add(container.rootfs)
		ephemeral.add(container.logs)
	}
	for name, dir := range pod.Volumes {
		if fs := c.directory(ctx, dir); fs != nil {
			pod.volumes = append(pod.volumes, statsapi.VolumeStats{FsStats: *fs, Name: name})
			ephemeral.add(fs)
		}
	}
	for name, v := range pod.Outside {
		if c.options.Volume == nil {
			break
		}
		if fs := c.options.Volume(v.Key); fs != nil {
			pod.volumes = append(pod.volumes, statsapi.VolumeStats{FsStats: *fs, Name: name, PVCRef: v.Claim})
		}
	}
	slices.SortFunc(pod.volumes, func(a, b statsapi.VolumeStats) int { return cmp.Compare(a.Name, b.Name) })
	if fs, err := readFS(c.options.Dir, c.now()); err == nil {
		fs.UsedBytes, fs.InodesUsed = &ephemeral.bytes, &ephemeral.inodes
		pod.ephemeral = fs
	}
}

func (u *usage) add(fs *statsapi.FsStats) {
	if fs != nil && fs.UsedBytes != nil && fs.InodesUsed != nil {
		u.bytes += *fs.UsedBytes
		u.inodes += *fs.InodesUsed
	}
}
