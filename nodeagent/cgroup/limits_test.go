package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestDifferences: files that say something else than they were given are found, in either version.
func TestDifferences(t *testing.T) {
	limits := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: new(int64(50000)), Period: new(uint64(100000)), Shares: new(uint64(512))},
		Memory: &specs.LinuxMemory{Limit: new(int64(10_000_000))}, Pids: &specs.LinuxPids{Limit: new(int64(100))},
	}
	for name, c := range map[string]struct {
		unified bool
		limits  *specs.LinuxResources
		files   map[string]string
		want    []string
	}{
		"as it was given": {true, limits, map[string]string{"cpu.max": "50000 100000", "memory.max": "9998336", "pids.max": "100"}, nil},
		"changed": {true, limits, map[string]string{"cpu.max": "max 100000", "memory.max": "max", "pids.max": "7"}, []string{
			"cpu.max is max 100000 instead of 50000 100000", "memory.max is max instead of 9998336", "pids.max is 7 instead of 100"}},
		"of memory alone in the second version": {true,
			&specs.LinuxResources{Unified: map[string]string{"memory.high": "5000", "memory.low": "max"}},
			map[string]string{"memory.high": "max", "memory.low": "max"}, []string{"memory.high is max instead of 4096"}},
		"not there":       {true, limits, nil, nil},
		"nothing is said": {true, &specs.LinuxResources{}, map[string]string{"cpu.max": "1 1", "memory.max": "1", "pids.max": "1"}, nil},
		"no bound": {true, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1))}}, map[string]string{"memory.max": "1"},
			nil},
		"of the first version": {false, limits, map[string]string{"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
			"memory/memory.limit_in_bytes": "9223372036854771712", "pids/pids.max": "100"}, []string{
			"cpu/cpu.cfs_quota_us is -1 instead of 50000", "memory/memory.limit_in_bytes is 9223372036854771712 instead of 9998336"}},
	} {
		var got []string
		for _, d := range differences(c.limits, c.unified, 4096, func(file string) (string, error) {
			if text, ok := c.files[file]; ok {
				return text, nil
			}
			return "", errors.New("no such file")
		}) {
			got = append(got, fmt.Sprint(d))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
