package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Difference is a file of a cgroup that has another value than it was given.
type Difference struct {
	File       string // "memory.max", or with its controller, "memory/memory.limit_in_bytes"
	Want, Have string
}

func (d Difference) String() string { return d.File + " is " + d.Have + " instead of " + d.Want }

// Differences are the files of a cgroup that do not say what its limits are, of CPU quota, memory and processes, by their names. What
// limits do not name, and files that are not there, are not looked at; nor are weights, which bound nothing, and which runtimes reckon
// in ways of their own.
func Differences(path string, limits *specs.LinuxResources) []Difference {
	return differences(limits, V2(), int64(os.Getpagesize()), func(file string) (string, error) {
		data, err := os.ReadFile(fileOf(path, file))
		return strings.TrimSpace(string(data)), err
	})
}

// fileOf is where a cgroup's file is: in the first version the part before the slash is its hierarchy.
func fileOf(path, file string) string {
	if controller, name, ok := strings.Cut(file, "/"); ok {
		return filepath.Join(Mount, controller, path, name)
	}
	return filepath.Join(Mount, path, file)
}

func differences(limits *specs.LinuxResources, unified bool, page int64, read func(file string) (string, error)) (out []Difference) {
	look := func(file, want string) {
		if have, err := read(file); err == nil && have != want {
			out = append(out, Difference{File: file, Want: want, Have: have})
		}
	}
	if c := limits.CPU; c != nil && c.Quota != nil && c.Period != nil {
		quota, period := strconv.FormatInt(*c.Quota, 10), strconv.FormatUint(*c.Period, 10)
		if unified {
			look("cpu.max", quota+" "+period)
		} else {
			look("cpu/cpu.cfs_quota_us", quota)
			look("cpu/cpu.cfs_period_us", period)
		}
	}
	if m := limits.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		want := strconv.FormatInt(*m.Limit/page*page, 10) // the kernel counts pages
		if unified {
			look("memory.max", want)
		} else {
			look("memory/memory.limit_in_bytes", want)
		}
	}
	if unified {
		for name, want := range limits.Unified {
			if n, err := strconv.ParseInt(want, 10, 64); err == nil {
				want = strconv.FormatInt(n/page*page, 10)
			}
			if strings.HasPrefix(name, "memory.") {
				look(name, want)
			}
		}
	}
	if p := limits.Pids; p != nil && p.Limit != nil && *p.Limit > 0 {
		file := "pids.max"
		if !unified {
			file = "pids/" + file
		}
		look(file, strconv.FormatInt(*p.Limit, 10))
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.File, b.File) })
	return out
}

// Frozen says whether somebody has the processes of a cgroup stand still; in which file, where it is the cgroup's own doing.
func Frozen(path string) (file string, frozen bool) {
	file, want := "freezer/freezer.state", "FROZEN"
	if V2() {
		file, want = "cgroup.freeze", "1"
	}
	data, err := os.ReadFile(fileOf(path, file))
	return file, err == nil && strings.TrimSpace(string(data)) == want
}

// Thaw lets the processes of a cgroup go on. One that is not frozen is no error.
func Thaw(path string) error {
	file, value := "freezer/freezer.state", "THAWED"
	if V2() {
		file, value = "cgroup.freeze", "0"
	}
	if err := os.WriteFile(fileOf(path, file), []byte(value), 0); err != nil {
		return fmt.Errorf("cannot thaw cgroup %s: %w", path, err)
	}
	return nil
}
