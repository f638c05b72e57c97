package stats

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// summary is the kubelet's.
func summary(node string, m *moment) *statsapi.Summary {
	at := metav1.NewTime(m.at)
	cpu, memory, swap := m.node.resources(at)
	s := &statsapi.Summary{
		Node: statsapi.NodeStats{
			NodeName: node, StartTime: metav1.NewTime(m.node.booted), CPU: cpu, Memory: memory, Swap: swap,
			Network: network(at, m.links), Fs: m.fs,
		},
		Pods: []statsapi.PodStats{},
	}
	if m.whole {
		s.Node.Runtime = &statsapi.RuntimeStats{ImageFs: m.images, ContainerFs: m.images}
	}
	for i := range m.pods {
		p := &m.pods[i]
		pod := statsapi.PodStats{
			PodRef:    statsapi.PodReference{Name: p.Name, Namespace: p.Namespace, UID: string(p.UID)},
			StartTime: metav1.NewTime(p.StartTime), Containers: []statsapi.ContainerStats{},
			Network: network(at, p.links), VolumeStats: p.volumes, EphemeralStorage: p.ephemeral,
		}
		pod.CPU, pod.Memory, pod.Swap = p.resources(at)
		if p.known {
			pod.ProcessStats = &statsapi.ProcessStats{ProcessCount: &p.processes}
		}
		for j := range p.containers {
			c := &p.containers[j]
			container := statsapi.ContainerStats{Name: c.Name, StartTime: metav1.NewTime(c.StartTime), Rootfs: c.rootfs, Logs: c.logs}
			container.CPU, container.Memory, container.Swap = c.resources(at)
			pod.Containers = append(pod.Containers, container)
		}
		s.Pods = append(s.Pods, pod)
	}
	return s
}

func (u *use) resources(at metav1.Time) (*statsapi.CPUStats, *statsapi.MemoryStats, *statsapi.SwapStats) {
	if !u.known {
		return nil, nil, nil
	}
	cpu := &statsapi.CPUStats{Time: at, UsageCoreNanoSeconds: &u.cpu, UsageNanoCores: u.perSecond()}
	memory := &statsapi.MemoryStats{
		Time: at, UsageBytes: &u.memory, WorkingSetBytes: &u.workingSet, RSSBytes: &u.rss,
		PageFaults: &u.faults, MajorPageFaults: &u.majorFaults,
	}
	if u.limits.memory > u.workingSet {
		available := u.limits.memory - u.workingSet
		memory.AvailableBytes = &available
	}
	return cpu, memory, &statsapi.SwapStats{Time: at, SwapUsageBytes: &u.swap}
}

func network(at metav1.Time, links []link) *statsapi.NetworkStats {
	if links == nil {
		return nil
	}
	s := &statsapi.NetworkStats{Time: at}
	for i := range links {
		l := &links[i]
		one := statsapi.InterfaceStats{
			Name: l.name, RxBytes: &l.RxBytes, RxErrors: &l.RxErrors, TxBytes: &l.TxBytes, TxErrors: &l.TxErrors,
		}
		s.Interfaces = append(s.Interfaces, one)
		if l.main {
			s.InterfaceStats = one
		}
	}
	return s
}

// measureTimeout bounds an answer: each directory's walk is bounded too, and is not made again for a while.
const measureTimeout = 60 * time.Second

// answer measures and lets write write it.
func (c *Collector) answer(w http.ResponseWriter, r *http.Request, whole bool, write func(*moment)) {
	ctx, cancel := context.WithTimeout(r.Context(), measureTimeout)
	defer cancel()
	m, err := c.measure(ctx, whole)
	if err != nil {
		if r.Context().Err() == nil { // who went away sees nothing
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	write(m)
}

// Summary measures everything now.
func (c *Collector) Summary(ctx context.Context) (*statsapi.Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	c.mu.Lock()
	c.last = nil
	c.mu.Unlock()
	m, err := c.measure(ctx, true)
	if err != nil {
		return nil, err
	}
	return summary(c.options.NodeName, m), nil
}

// ServeHTTP answers GET /stats/summary; with only_cpu_and_memory, which the kubelet has too, without the rest.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory"))
	c.answer(w, r, !part, func(m *moment) {
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", " ")
		_ = encoder.Encode(summary(c.options.NodeName, m))
	})
}
