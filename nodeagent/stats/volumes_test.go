package stats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"lockstep/internal/eventually"
)

// TestDue: each is measured once in a while, those first that have waited longest, few of one driver at a time, and each once however
// many pods mount it.
func TestDue(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	known := map[string]*measured{
		"new": {by: "a"}, "late": {by: "a", began: now.Add(-3 * time.Minute)}, "just": {by: "a", began: now.Add(-59 * time.Second)},
		"turn": {by: "a", began: now.Add(-time.Minute)}, "hangs": {by: "b", began: now.Add(-time.Hour), going: true},
		"beside": {by: "b", began: now.Add(-time.Hour)},
	}
	var volumes []Volume
	for _, key := range []string{"turn", "just", "late", "new", "hangs", "beside", "new", "turn"} {
		volumes = append(volumes, Volume{Key: key, By: known[key].by})
	}
	keys := func(volumes []Volume) (out []string) {
		for _, v := range volumes {
			out = append(out, v.Key)
		}
		return out
	}
	if got, want := keys(due(volumes, known, now, time.Minute)), []string{"new", "beside", "late", "turn"}; !slices.Equal(got, want) {
		t.Errorf("due are %v, want %v", got, want)
	}
	known, volumes = map[string]*measured{}, nil
	for _, by := range []string{"a", "b"} {
		for i := range volumesAtOnce + 2 {
			v := Volume{Key: fmt.Sprint(by, i), By: by}
			volumes = append(volumes, v)
			known[v.Key] = &measured{by: by, going: by == "b" && i < 3}
		}
	}
	if got, want := keys(due(volumes, known, now, time.Minute)), []string{"a0", "a1", "a2", "a3", "b3"}; !slices.Equal(got, want) {
		t.Errorf("of many %v, want %v", got, want)
	}
}

// TestMeter: a driver that hangs keeps no other one's volumes waiting, and the meter ends; what fails is told once, what cannot be
// measured never; what nobody mounts any more is forgotten.
func TestMeter(t *testing.T) {
	var mu sync.Mutex
	asked, there := map[string]int{}, map[string]bool{"well": true, "hangs": true, "fails": true, "none": true}
	capacity := uint64(7)
	measure := func(key string) func(context.Context) (*statsapi.FsStats, error) {
		return func(ctx context.Context) (*statsapi.FsStats, error) {
			mu.Lock()
			asked[key]++
			mu.Unlock()
			switch key {
			case "hangs":
				<-ctx.Done()
				return nil, ctx.Err()
			case "fails":
				return nil, errors.New("it is broken")
			case "none":
				return nil, ErrUnmeasured
			}
			return &statsapi.FsStats{CapacityBytes: &capacity}, nil
		}
	}
	var log bytes.Buffer
	m := NewMeter(func() (out []Volume) {
		mu.Lock()
		defer mu.Unlock()
		for key := range there {
			v := Volume{Key: key, By: key, Claim: &statsapi.PVCReference{Namespace: "shop", Name: key}, Measure: measure(key)}
			out = append(out, v, v)
		}
		return out
	}, slog.New(slog.NewTextHandler(&log, nil)))
	m.every, m.look = 50*time.Millisecond, 10*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		_ = m.Run(ctx)
	}()
	times := func(key string) int {
		mu.Lock()
		defer mu.Unlock()
		return asked[key]
	}
	eventually.True(t, time.Minute, "all but one are measured again", func() bool {
		return times("well") > 2 && times("fails") > 2 && times("none") > 2 && times("hangs") == 1
	})
	if most := int(time.Since(began)/m.every) + 1; times("well") > most {
		t.Errorf("measured %d times, want %d at most", times("well"), most)
	}
	if got := m.Of("well"); got == nil || *got.CapacityBytes != 7 || m.Of("fails") != nil || m.Of("hangs") != nil || m.Of("other") != nil {
		t.Errorf("known: %v", got)
	}
	if got := m.Claims(); len(got) != 1 || got[0].PVCRef.Name != "well" {
		t.Errorf("claims: %+v", got)
	}
	mu.Lock()
	delete(there, "well")
	mu.Unlock()
	eventually.True(t, time.Minute, "it is forgotten", func() bool { return m.Of("well") == nil })
	cancel()
	<-ended
	if text := log.String(); strings.Count(text, "cannot measure volume") != 1 || !strings.Contains(text, "it is broken") {
		t.Errorf("logged:\n%s", text)
	}
}

// TestClaimMetrics: of a claim that two tell of the first counts; what is not known is left out.
func TestClaimMetrics(t *testing.T) {
	of := func(name string, used uint64) statsapi.VolumeStats {
		return statsapi.VolumeStats{PVCRef: &statsapi.PVCReference{Namespace: "shop", Name: name},
			FsStats: statsapi.FsStats{UsedBytes: &used}}
	}
	c := ClaimMetrics{
		func() []statsapi.VolumeStats { return []statsapi.VolumeStats{of("data", 1), {Name: "inline"}} },
		func() []statsapi.VolumeStats { return []statsapi.VolumeStats{of("data", 2), of("more", 3)} },
	}
	want := `# HELP kubelet_volume_stats_used_bytes Number of used bytes in the volume
# TYPE kubelet_volume_stats_used_bytes gauge
kubelet_volume_stats_used_bytes{namespace="shop",persistentvolumeclaim="data"} 1
kubelet_volume_stats_used_bytes{namespace="shop",persistentvolumeclaim="more"} 3
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// TestVolumesOutside: they are in a pod's summary by their claims, and not in what it takes of the node's disk.
func TestVolumesOutside(t *testing.T) {
	used := uint64(1 << 40)
	claim := &statsapi.PVCReference{Namespace: "shop", Name: "data"}
	pod := Pod{Namespace: "shop", Name: "web", UID: "u", Volumes: map[string]string{"cache": t.TempDir()},
		Outside: map[string]Volume{"data": {Key: "pv", Claim: claim}, "unknown": {Key: "other"}}}
	c := New(Options{Pods: func() []Pod { return []Pod{pod} }, Volume: func(key string) *statsapi.FsStats {
		if key != "pv" {
			return nil
		}
		return &statsapi.FsStats{UsedBytes: &used}
	}})
	s, err := c.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := s.Pods[0]
	if len(p.VolumeStats) != 2 || p.VolumeStats[0].Name != "cache" || p.VolumeStats[0].PVCRef != nil || p.VolumeStats[1].Name != "data" ||
		*p.VolumeStats[1].PVCRef != *claim || *p.VolumeStats[1].UsedBytes != used {
		t.Errorf("%+v", p.VolumeStats)
	}
	if *p.EphemeralStorage.UsedBytes >= used {
		t.Errorf("of the node's disk it takes %d", *p.EphemeralStorage.UsedBytes)
	}
}
