package csi

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"lockstep/store/view"
)

// segment is where nodes are that a driver cannot tell apart: the values of its topology keys.
type segment map[string]string

func (s segment) String() string {
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&out, "%s=%s,", key, s[key])
	}
	return out.String()
}

func selects(s *corev1.NodeSelector, n *corev1.Node) bool {
	ok, err := nodeaffinity.NewLazyErrorNodeSelector(s).Match(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: n.Labels}})
	return ok && err == nil
}

// segmentOf is where a driver's node is; nil: the driver does not tell nodes apart. An error says that the node does not tell yet.
func segmentOf(v *view.View, driver, node string) (segment, error) {
	csi, ok := view.Get[*storagev1.CSINode](v, "", node)
	if !ok {
		return nil, fmt.Errorf("error getting CSINode for selected node %q: csinode.storage.k8s.io %q not found", node, node)
	}
	i := slices.IndexFunc(csi.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver })
	if i < 0 {
		return nil, fmt.Errorf("no topology key found on CSINode %s", node)
	}
	n, ok := view.Get[*corev1.Node](v, "", node)
	if !ok {
		return nil, fmt.Errorf("error getting node %q: node %q not found", node, node)
	}
	var out segment
	for _, key := range csi.Spec.Drivers[i].TopologyKeys {
		value, has := n.Labels[key]
		if !has {
			return nil, fmt.Errorf("topology labels from selected node %v does not match topology keys from CSINode %v", n.Labels,
				csi.Spec.Drivers[i].TopologyKeys)
		}
		if out == nil {
			out = segment{}
		}
		out[key] = value
	}
	return out, nil
}

// segments are where a driver's nodes are, each once, in order.
func segments(v *view.View, driver string) []segment {
	found := map[string]segment{}
	for n := range view.List[*storagev1.CSINode](v, "") {
		if s, err := segmentOf(v, driver, n.Name); err == nil && s != nil {
			found[s.String()] = s
		}
	}
	return sorted(found)
}

func sorted(by map[string]segment) (out []segment) {
	for _, key := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[key])
	}
	return out
}

// requirements are where a claim's volume has to be reachable: from the selected node first, else from where the claim's name has it
// begin, so that volumes are spread.
func requirements(v *view.View, driver, claim string, allowed []corev1.TopologySelectorTerm, selected string) (
	*csipb.TopologyRequirement, error) {
	var at segment
	if selected != "" {
		var err error
		if at, err = segmentOf(v, driver, selected); err != nil || at == nil {
			return nil, err
		}
	}
	requisite := segments(v, driver)
	if len(allowed) > 0 {
		requisite = flattened(allowed)
	}
	if len(requisite) == 0 {
		return nil, nil
	}
	first := 0
	if selected != "" {
		first = slices.IndexFunc(requisite, func(s segment) bool { return s.covers(at) })
		if first < 0 {
			return nil, fmt.Errorf("selected node %q topology %v is not in allowed topologies: %v", selected,
				map[string]string(at), requisite)
		}
	} else {
		h := fnv.New32()
		h.Write([]byte(claim))
		first = int(h.Sum32() % uint32(len(requisite)))
	}
	out := &csipb.TopologyRequirement{}
	for _, s := range requisite {
		out.Requisite = append(out.Requisite, &csipb.Topology{Segments: s})
	}
	preferred := slices.Concat(requisite[first:], requisite[:first])
	if selected != "" {
		preferred[0] = at
	}
	for _, s := range preferred {
		out.Preferred = append(out.Preferred, &csipb.Topology{Segments: s})
	}
	return out, nil
}

// covers says that a segment has all that another one says, as far as it says anything of it.
func (s segment) covers(other segment) bool {
	for key, value := range s {
		if other[key] != value {
			return false
		}
	}
	return true
}

// flattened are the segments that a class allows.
func flattened(terms []corev1.TopologySelectorTerm) []segment {
	found := map[string]segment{}
	for _, t := range terms {
		some := []segment{{}}
		for _, e := range t.MatchLabelExpressions {
			var next []segment
			for _, s := range some {
				for _, value := range e.Values {
					one := segment(maps.Clone(s))
					one[e.Key] = value
					next = append(next, one)
				}
			}
			some = next
			if len(some) > maxSegments {
				some = some[:maxSegments]
			}
		}
		for _, s := range some {
			if len(s) > 0 {
				found[s.String()] = s
			}
		}
	}
	return sorted(found)
}

// maxSegments bounds what a class's few lines can become: far more places than a cluster has.
const maxSegments = 1000

// affinity is where a volume can be reached from; nil: from everywhere.
func affinity(from []*csipb.Topology) *corev1.VolumeNodeAffinity {
	var terms []corev1.NodeSelectorTerm
	for _, t := range from {
		var term corev1.NodeSelectorTerm
		for _, key := range slices.Sorted(maps.Keys(t.GetSegments())) {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{t.GetSegments()[key]},
			})
		}
		if len(term.MatchExpressions) > 0 {
			terms = append(terms, term)
		}
	}
	if len(terms) == 0 {
		return nil
	}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
}
