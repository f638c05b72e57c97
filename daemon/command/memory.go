package command

import (
	"fmt"

	"github.com/spf13/pflag"

	"lockstep/nodeagent/spec"
)

// memoryFlags say what a node does for memory, by the names and values of the kubelet's configuration.
type memoryFlags struct {
	throttle          float64
	reservation, swap string
}

func (f *memoryFlags) add(flags *pflag.FlagSet) {
	flags.Float64Var(&f.throttle, "memory-throttling-factor", 0,
		"from which `PART` of the memory between its request and its limit on a container is slowed down, above 0 and at most 1 "+
			"(default: it is not; cgroup v2)")
	flags.StringVar(&f.reservation, "memory-reservation-policy", "None",
		"`POLICY` by which memory that pods request is kept for them: None or TieredReservation (cgroup v2)")
	flags.StringVar(&f.swap, "swap-behavior", "NoSwap", "`BEHAVIOR` of containers: NoSwap or LimitedSwap (cgroup v2)")
}

func (f *memoryFlags) policy() (spec.MemoryPolicy, error) {
	p := spec.MemoryPolicy{Throttle: f.throttle, Tiered: f.reservation == "TieredReservation", LimitedSwap: f.swap == "LimitedSwap"}
	switch {
	case !(f.throttle >= 0 && f.throttle <= 1): // no number is neither
		return p, fmt.Errorf("cannot use --memory-throttling-factor %v: want a number above 0 and at most 1", f.throttle)
	case !p.Tiered && f.reservation != "None":
		return p, fmt.Errorf("cannot use --memory-reservation-policy %s: want None or TieredReservation", f.reservation)
	case !p.LimitedSwap && f.swap != "NoSwap":
		return p, fmt.Errorf("cannot use --swap-behavior %s: want NoSwap or LimitedSwap", f.swap)
	}
	return p, nil
}
