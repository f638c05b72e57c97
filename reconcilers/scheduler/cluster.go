package scheduler

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
)

// cluster is what rows may look at besides the node they are asked about, with the placements of a round.
type cluster struct {
	nodes   []*nodeInfo                // in order of their names; a node's place here is its at
	objects map[kinds.Key]kinds.Object // of the kinds that rows name

	services   map[string]map[string]*corev1.Service // by namespace and name
	images     map[string]map[*nodeInfo]int64        // as a state has them
	local      map[string][]int64                    // scores by the images of a pod
	groups     *groups                               // of the pods that the state has placed
	fresh      groups                                // and of those of the round that are of none of them
	moved      map[*group]map[int]int64
	topologies map[topologyKey]*topology
	tallies    []*tally // those that placements change, by number
	made       int      // how many tallies there have been
	concerned  map[*group]*concern

	used     map[kinds.Key]int64                        // as a state has it
	using    map[kinds.Key]int64                        // and how that changes in the round
	shelves  map[string]*shelf                          // by class, once one is asked for
	attached map[string]map[handle]bool                 // by node, once it is asked for
	rooms    map[string][]*storagev1.CSIStorageCapacity // by class, once one is asked for
	taken    map[string]*corev1.PersistentVolume        // given to claims in the round
	settled  map[kinds.Key]bool                         // claims for which the round has chosen
}

// concern is which tallies count a group, of those with a number up to seen.
type concern struct {
	seen    int
	tallies []*tally
	weights []int64
}

func newCluster(s *State) cluster {
	c := cluster{
		nodes: make([]*nodeInfo, len(s.names)), objects: s.objects,
		services: s.services, images: s.images, local: map[string][]int64{}, groups: &s.groups, fresh: newGroups(),
		moved: map[*group]map[int]int64{}, topologies: map[topologyKey]*topology{}, concerned: map[*group]*concern{}, used: s.used,
		using: map[kinds.Key]int64{}, taken: map[string]*corev1.PersistentVolume{}, settled: map[kinds.Key]bool{},
	}
	for i, name := range s.names {
		c.nodes[i] = s.infos[name]
	}
	return c
}

// group returns the group of a pod, by its key. It fails as newGroup does.
func (c *cluster) group(key string, p *corev1.Pod) (*group, error) {
	if g := c.groups.all[key]; g != nil {
		return g, nil
	}
	if g := c.fresh.all[key]; g != nil {
		return g, nil
	}
	g, err := newGroup(key, p)
	c.fresh.add(g)
	return g, err
}

// move has pods of a group come to a node, or with a negative count go.
func (c *cluster) move(g *group, node int, count int64) {
	if c.moved[g] == nil {
		c.moved[g] = map[int]int64{}
	}
	c.moved[g][node] += count
	who := c.concerned[g]
	if who == nil {
		who = &concern{}
		c.concerned[g] = who
	}
	for i := len(c.tallies) - 1; i >= 0 && c.tallies[i].number > who.seen; i-- {
		if weight := c.tallies[i].weigh(g); weight != 0 {
			who.tallies, who.weights = append(who.tallies, c.tallies[i]), append(who.weights, weight)
		}
	}
	who.seen = c.made
	kept := 0
	for i, t := range who.tallies {
		if t.over {
			continue
		}
		t.add(node, who.weights[i]*count)
		who.tallies[kept], who.weights[kept] = t, who.weights[i]
		kept++
	}
	who.tallies, who.weights = who.tallies[:kept], who.weights[:kept]
}

// where calls visit with the nodes that pods of a group are on, and how many.
func (c *cluster) where(g *group, visit func(node int, count int64)) {
	for info, count := range g.nodes {
		if info.node != nil {
			visit(info.at, count)
		}
	}
	for node, count := range c.moved[g] {
		visit(node, count)
	}
}

// reaching are the groups that may ask something of where pods of a namespace are, each once.
func (c *cluster) reaching(namespace string) iter.Seq[*group] {
	return func(yield func(*group) bool) {
		for _, have := range []*groups{c.groups, &c.fresh} {
			for g := range have.aims[namespace] {
				if !yield(g) {
					return
				}
			}
			for g := range have.roams {
				if _, aims := have.aims[namespace][g]; !aims && !yield(g) {
					return
				}
			}
		}
	}
}

// owned are the groups of a controller's pods.
func (c *cluster) owned(owner types.UID) iter.Seq[*group] {
	return both(c.groups.owners[owner], c.fresh.owners[owner])
}

// inside are the groups of a namespace.
func (c *cluster) inside(namespace string) iter.Seq[*group] {
	return both(c.groups.spaces[namespace], c.fresh.spaces[namespace])
}

// near are the groups that terms can name.
func (c *cluster) near(terms []term) iter.Seq[*group] {
	spaces := map[string]bool{}
	for i := range terms {
		t := &terms[i]
		for _, namespace := range t.namespaces {
			spaces[namespace] = true
		}
		for _, have := range []*groups{c.groups, &c.fresh} {
			for namespace := range have.spaces {
				if t.spaces.Matches(c.namespaceLabels(namespace)) {
					spaces[namespace] = true
				}
			}
		}
	}
	return func(yield func(*group) bool) {
		for namespace := range spaces {
			for g := range c.inside(namespace) {
				if !yield(g) {
					return
				}
			}
		}
	}
}

func both(a, b members) iter.Seq[*group] {
	return func(yield func(*group) bool) {
		for _, set := range []members{a, b} {
			for g := range set {
				if !yield(g) {
					return
				}
			}
		}
	}
}

// namespaceLabels are empty for a namespace that is not there.
func (c *cluster) namespaceLabels(name string) labels.Set {
	if o := c.objects[kinds.Key{Resource: "namespaces", Name: name}]; o != nil {
		return o.GetLabels()
	}
	return nil
}
