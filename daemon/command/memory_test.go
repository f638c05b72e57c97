package command

import (
	"testing"

	"github.com/spf13/pflag"

	"lockstep/nodeagent/spec"
)

// TestMemoryFlags: the kubelet's values are taken, by its default nothing is done, and others are refused by the flag's name.
func TestMemoryFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want spec.MemoryPolicy
		err  string
	}{
		{nil, spec.MemoryPolicy{}, ""},
		{[]string{"--memory-throttling-factor=0.9", "--memory-reservation-policy=TieredReservation", "--swap-behavior=LimitedSwap"},
			spec.MemoryPolicy{Tiered: true, Throttle: 0.9, LimitedSwap: true}, ""},
		{[]string{"--memory-throttling-factor=1.1"}, spec.MemoryPolicy{},
			"cannot use --memory-throttling-factor 1.1: want a number above 0 and at most 1"},
		{[]string{"--memory-throttling-factor=NaN"}, spec.MemoryPolicy{},
			"cannot use --memory-throttling-factor NaN: want a number above 0 and at most 1"},
		{[]string{"--memory-reservation-policy=All"}, spec.MemoryPolicy{},
			"cannot use --memory-reservation-policy All: want None or TieredReservation"},
		{[]string{"--swap-behavior=UnlimitedSwap"}, spec.MemoryPolicy{},
			"cannot use --swap-behavior UnlimitedSwap: want NoSwap or LimitedSwap"},
	} {
		var f memoryFlags
		flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		f.add(flags)
		if err := flags.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		got, err := f.policy()
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != c.err || err == nil && got != c.want {
			t.Errorf("%v: %+v, %v", c.args, got, err)
		}
	}
}
