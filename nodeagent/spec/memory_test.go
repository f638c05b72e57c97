package spec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestMemoryPolicy holds what cgroups of the second version get to what the kubelet writes, by its formulas.
func TestMemoryPolicy(t *testing.T) {
	node := Node{CgroupV2: true, SwapLimits: true, MemoryCapacity: 1000 << 20, Swap: 500 << 20,
		Allocatable: corev1.ResourceList{"memory": resource.MustParse("900Mi")}}
	tiered, throttled, swapping := node, node, node
	tiered.Memory.Tiered, throttled.Memory.Throttle, swapping.Memory.LimitedSwap = true, 0.9, true
	first := Node{SwapLimits: true, Memory: MemoryPolicy{Tiered: true, Throttle: 0.5, LimitedSwap: true}}
	guaranteed := of(asks(list("1", "100Mi"), list("1", "100Mi")))
	burstable := of(asks(list("", "100Mi"), list("", "200Mi")))
	free := of(asks(list("", "100Mi"), nil))
	none := of(asks(nil, nil))
	whole := itself(of(asks(list("", "10Mi"), nil)), list("", "100Mi"), list("", "200Mi"))
	critical := of(asks(list("", "100Mi"), list("", "200Mi")))
	critical.Spec.Priority = new(int32(2_000_000_000))
	noSwap := map[string]string{"memory.swap.max": "0"}
	const kept = "104857600"
	with := func(file, value string) map[string]string {
		return map[string]string{file: value, "memory.swap.max": "0"}
	}
	for name, c := range map[string]struct {
		node      Node
		pod       *corev1.Pod
		own, pods map[string]string
	}{
		"the default":            {node, guaranteed, noSwap, nil},
		"the default, burstable": {node, burstable, noSwap, nil},
		"kept":                   {tiered, guaranteed, with("memory.min", kept), map[string]string{"memory.min": kept}},
		"kept if possible":       {tiered, burstable, with("memory.low", kept), map[string]string{"memory.low": kept}},
		"nothing to keep":        {tiered, none, noSwap, nil},
		"not slowed down":        {throttled, guaranteed, noSwap, nil},
		"slowed down":            {throttled, burstable, with("memory.high", "199229440"), nil},
		"by the node":            {throttled, free, with("memory.high", "859832320"), nil},
		"best effort":            {throttled, none, with("memory.high", "849346560"), nil},
		"the pod as whole":       {throttled, whole, noSwap, map[string]string{"memory.high": "199229440"}},
		"swap":                   {swapping, burstable, map[string]string{"memory.swap.max": "52428800"}, nil},
		"no swap":                {swapping, guaranteed, noSwap, nil},
		"nothing asked for":      {swapping, none, noSwap, nil},
		"critical":               {swapping, critical, noSwap, nil},
		"the first version":      {first, burstable, nil, nil},
		"no controller of swap":  {Node{CgroupV2: true}, burstable, nil, nil},
	} {
		if diff := cmp.Diff(c.own, ContainerLimits(c.pod, &c.pod.Spec.Containers[0], c.node).Unified); diff != "" {
			t.Errorf("%s: the container: %s", name, diff)
		}
		if diff := cmp.Diff(c.pods, PodLimits(c.pod, c.node).Unified); diff != "" {
			t.Errorf("%s: the pod: %s", name, diff)
		}
	}
	for _, c := range []struct {
		node         Node
		rootMin, all string
	}{{tiered, "314572800", "209715200"}, {node, "0", "0"}} {
		tiers := Tiers([]*corev1.Pod{guaranteed, burstable, free, none}, c.node)
		want := map[string]map[string]string{"": {"memory.min": c.rootMin, "memory.low": c.all}, "burstable": {"memory.low": c.all},
			"besteffort": nil}
		got := map[string]map[string]string{}
		for name, r := range tiers {
			got[name] = r.Unified
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if tiers := Tiers(nil, Node{}); len(tiers) != 2 || tiers["burstable"].Unified != nil {
		t.Errorf("the first version's tiers: %v", tiers)
	}
}
