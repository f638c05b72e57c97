package stats

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	// volumeEvery is how often a volume is measured: the kubelet's figure.
	volumeEvery = time.Minute
	// volumeLook is how often it is looked at which volumes there are.
	volumeLook = 5 * time.Second
	// volumeTimeout bounds one measure: the kubelet's for a call of a driver.
	volumeTimeout = 2 * time.Minute
	// volumesAtOnce bounds the measures that go on by one driver: it has work for pods that start, too.
	volumesAtOnce = 4
)

// ErrUnmeasured says that a volume is of a kind that cannot be measured.
var ErrUnmeasured = errors.New("it cannot be measured")

// Volume is one that pods mount, and that outlives them or is not on the node's disk.
type Volume struct {
	// Key tells it from all others; it is the same for all pods that mount it.
	Key string
	// Claim is what pods have it by; nil where a pod states it itself.
	Claim *statsapi.PVCReference
	// By is who is asked, of whose volumes a few are measured at a time: one who hangs keeps no other one's waiting.
	By string
	// Measure measures it, and ends with ctx. It is nil where somebody else does that.
	Measure func(ctx context.Context) (*statsapi.FsStats, error)
}

// Meter measures volumes, each at most once a minute however many ask and mount it.
type Meter struct {
	volumes     func() []Volume
	log         *slog.Logger
	every, look time.Duration // volumeEvery and volumeLook but in tests
	ended       chan struct{}

	mu    sync.Mutex
	known map[string]*measured // by key
}

// measured is what is known of a volume.
type measured struct {
	claim *statsapi.PVCReference
	by    string
	began time.Time // of the last measure
	going bool
	stats *statsapi.FsStats // never changed; nil: none, or the last measure failed
	told  bool              // that it failed
}

// NewMeter returns a meter of the volumes that pods mount whenever it asks. Of those with one key the first counts.
func NewMeter(volumes func() []Volume, log *slog.Logger) *Meter {
	return &Meter{volumes: volumes, log: log, every: volumeEvery, look: volumeLook, ended: make(chan struct{}, 1),
		known: map[string]*measured{}}
}

// Run measures until ctx ends.
func (m *Meter) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	t := time.NewTicker(m.look)
	defer t.Stop()
	for {
		for _, v := range m.begin(m.volumes(), time.Now()) {
			running.Go(func() { m.measure(ctx, v) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-m.ended:
		}
	}
}

// begin notes that the volumes are measured whose turn it is, and forgets those that nobody mounts any more.
func (m *Meter) begin(volumes []Volume, now time.Time) []Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	there := map[string]bool{}
	for _, v := range volumes {
		there[v.Key] = true
		if m.known[v.Key] == nil {
			m.known[v.Key] = &measured{claim: v.Claim, by: v.By}
		}
	}
	for key, k := range m.known {
		if !there[key] && !k.going {
			delete(m.known, key)
		}
	}
	turn := due(volumes, m.known, now, m.every)
	for _, v := range turn {
		k := m.known[v.Key]
		k.began, k.going = now, true
	}
	return turn
}

// due are the volumes whose turn it is, those first that have waited longest.
func due(volumes []Volume, known map[string]*measured, now time.Time, every time.Duration) []Volume {
	going := map[string]int{}
	for _, k := range known {
		if k.going {
			going[k.by]++
		}
	}
	waiting := slices.SortedStableFunc(slices.Values(volumes), func(a, b Volume) int {
		return cmp.Or(known[a.Key].began.Compare(known[b.Key].began), cmp.Compare(a.Key, b.Key))
	})
	var out []Volume
	for _, v := range slices.CompactFunc(waiting, func(a, b Volume) bool { return a.Key == b.Key }) {
		k := known[v.Key]
		if k.going || now.Sub(k.began) < every || going[k.by] >= volumesAtOnce {
			continue
		}
		going[k.by]++
		out = append(out, v)
	}
	return out
}

func (m *Meter) measure(ctx context.Context, v Volume) {
	bounded, cancel := context.WithTimeout(ctx, volumeTimeout)
	defer cancel()
	stats, err := v.Measure(bounded)
	m.mu.Lock()
	k := m.known[v.Key]
	k.going, k.stats = false, stats
	tell := err != nil && !k.told && !errors.Is(err, ErrUnmeasured) && ctx.Err() == nil
	k.told = err != nil && (k.told || tell)
	m.mu.Unlock()
	if tell {
		m.log.Warn("cannot measure volume", "volume", v.Key, "error", err)
	}
	select {
	case m.ended <- struct{}{}:
	default: // a wake-up is pending
	}
}

// Of is what a volume was measured to have last; nil: nothing is known. It is not changed.
func (m *Meter) Of(key string) *statsapi.FsStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.known[key]; k != nil {
		return k.stats
	}
	return nil
}

// Claims are the claims that were measured, each with the name of its volume.
func (m *Meter) Claims() []statsapi.VolumeStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []statsapi.VolumeStats
	for key, k := range m.known {
		if k.stats != nil && k.claim != nil {
			out = append(out, statsapi.VolumeStats{Name: key, PVCRef: k.claim, FsStats: *k.stats})
		}
	}
	return out
}

// ClaimMetrics has the kubelet's metrics of claims, by what it is told of them.
type ClaimMetrics []func() []statsapi.VolumeStats

// claimMetrics are the kubelet's, in its words (https://kubernetes.io/docs/reference/instrumentation/metrics).
var claimMetrics = []struct {
	desc  *prometheus.Desc
	value func(*statsapi.FsStats) *uint64
}{
	{ofClaim("capacity_bytes", "Capacity in bytes of the volume"), func(s *statsapi.FsStats) *uint64 { return s.CapacityBytes }},
	{ofClaim("available_bytes", "Number of available bytes in the volume"),
		func(s *statsapi.FsStats) *uint64 { return s.AvailableBytes }},
	{ofClaim("used_bytes", "Number of used bytes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.UsedBytes }},
	{ofClaim("inodes", "Maximum number of inodes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.Inodes }},
	{ofClaim("inodes_free", "Number of free inodes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.InodesFree }},
	{ofClaim("inodes_used", "Number of used inodes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.InodesUsed }},
}

func ofClaim(name, help string) *prometheus.Desc {
	return described("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"})
}

// Describe implements prometheus.Collector.
func (c ClaimMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, m := range claimMetrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector. Of each claim the first that is told counts.
func (c ClaimMetrics) Collect(out chan<- prometheus.Metric) {
	told := map[statsapi.PVCReference]bool{}
	for _, claims := range c {
		for _, one := range claims() {
			if one.PVCRef == nil || told[*one.PVCRef] {
				continue
			}
			told[*one.PVCRef] = true
			for _, m := range claimMetrics {
				if v := m.value(&one.FsStats); v != nil {
					out <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, float64(*v), one.PVCRef.Namespace, one.PVCRef.Name)
				}
			}
		}
	}
}
