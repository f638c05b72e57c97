package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// table is all that the scheduler knows of placing pods: a row for each reason to refuse a node, in the order in which they
// are asked, and one for each reason to prefer it.
type table struct {
	profile    string // whose it is
	predicates []predicate
	scores     []score

	spread       []corev1.TopologySpreadConstraint // of pods that have none
	spreadListed bool                              // and these are a profile's own
}

// rows returns the table, named as kube-scheduler's plugins are, with its default weights; each row has a file of its own.
func rows() *table {
	return &table{
		spread: defaultSpread(),
		predicates: []predicate{nodeUnschedulable(), untoleratedTaints(), requiredNodes(), nodePorts(), resourcesFit(), singlePods(),
			volumeLimits(), volumesInReach(), volumeZones(), evenSpread(), nearPods()},
		scores: []score{fewestTaints(), preferredNodes(nil), leastAllocated(), balancedAllocation(), roomyVolumes(), evenerSpread(),
			likedPods(), imageLocality()},
	}
}

// best is the highest score of a row.
const best = 100

// scope says which placements change what a row says of a node.
type scope int

const (
	still  scope = iota // none: it stays for a whole round
	itself              // those on that node
	across              // those on any node
)

// predicate is a question to each node; the first that a node answers with no refuses the pod there.
type predicate struct {
	name  string
	scope scope
	// wakes are the changes after which a pod that it refused may find a node.
	wakes Changes
	// reads copies what the answer depends on from a pod to an empty one; the pod's load need not be: every class has one load.
	// Nil: the load is all.
	reads func(of, into *corev1.Pod)
	// objects are the kinds besides nodes and pods that it looks at, such as claims of volumes.
	objects []schema.GroupResource
	// concerns says whether it can refuse the pod at all. Nil: it can.
	concerns func(*demand) bool
	// check says whether the node can take the pod.
	check func(*demand, *nodeInfo, *cluster) bool
	// kin, of a row that looks across nodes, appends what the answer for a node depends on besides what is alike for all nodes.
	// Nodes with equal kin are answered alike.
	kin func(*demand, *nodeInfo, []byte) []byte
	// ends says whether a node that check says no of may take the pod once others of its pods are gone. Nil: it never does.
	ends func(*demand, *nodeInfo, *cluster) bool
	// words are the reasons why the node cannot, as kube-scheduler words them; it is asked where check says no.
	words func(*demand, *nodeInfo, *cluster) []string
}

// yields says whether the end of a node's pods may have it take a pod that the row refuses there.
func (row *predicate) yields(d *demand, n *nodeInfo, c *cluster) bool {
	return row.ends != nil && row.ends(d, n, c)
}

// score is a reason to prefer a node.
type score struct {
	name   string
	weight int64
	scope  scope
	// reads is as a predicate's.
	reads func(of, into *corev1.Pod)
	// concerns says whether nodes can differ for the pod. Nil: they can.
	concerns func(*demand) bool
	// kin is as a predicate's, and rank brings scores, from 0 to best, to one of each of such nodes, for all that can take the
	// pod. It stands in place of what follows in a row that looks across nodes.
	kin  func(*demand, *nodeInfo, []byte) []byte
	rank func(d *demand, nodes []spot, scores []int64)
	// of is the score of a node, from 0 to best; of a row with scale, which is still, any number from 0.
	of func(*demand, *nodeInfo, *cluster) int64
	// scale brings a number to a score; most is the highest number among the candidates, above 0. Where it is 0, or the row
	// does not concern the pod, all nodes have what nothing is worth.
	scale   func(number, most int64) int64
	nothing int64
}

// spot stands for nodes that have equal kin.
type spot struct {
	node  *nodeInfo // one of them
	nodes int
}

// fingerprints writes what pods are compared by. It keeps what it writes with from one pod to the next.
type fingerprints struct {
	bare  corev1.Pod
	group []byte // the key of the pod's group
	text  []byte
}

// of returns a text, valid until the next call, that is equal for pods that all rows answer alike, and that weigh alike on the
// nodes and on the pods decided after them.
func (f *fingerprints) of(t *table, p *corev1.Pod, l *load) []byte {
	f.bare, f.group = corev1.Pod{}, appendGroup(f.group[:0], p)
	t.readAsked(p, &f.bare)
	for i := range t.scores {
		if read := t.scores[i].reads; read != nil {
			read(p, &f.bare)
		}
	}
	f.text = l.appendTo(append(append(append(f.text[:0], p.Spec.SchedulerName...), 0), f.group...))
	begin, size := len(f.text), f.bare.Size()
	f.text = slices.Grow(f.text, size)[:begin+size]
	if _, err := f.bare.MarshalToSizedBuffer(f.text[begin:]); err != nil {
		return []byte(p.UID) // alike to nobody
	}
	return f.text
}

// readAsked copies what the answers of predicates depend on from a pod to an empty one.
func (t *table) readAsked(of, into *corev1.Pod) {
	for i := range t.predicates {
		if read := t.predicates[i].reads; read != nil {
			read(of, into)
		}
	}
}

// looksAt says whether a row looks at objects of a kind.
func (t *table) looksAt(kind schema.GroupResource) bool {
	for i := range t.predicates {
		for _, k := range t.predicates[i].objects {
			if k == kind {
				return true
			}
		}
	}
	return false
}

// Changes are what has changed in the cluster, as far as it means something to pods that wait.
type Changes uint

// The changes.
const (
	PodWaits          Changes = 1 << iota // the changed pod itself waits
	PodGone                               // a pod takes less of a node, or nothing any more
	PodPlaced                             // a pod takes something of a node that it did not before
	PodRegrouped                          // a pod on a node is another to affinity and spreading: its labels, or that it goes
	NodeListed                            // there is a node more or less
	NodeUnschedulable                     // what a node's spec says of it
	NodeTaints                            // its taints, and those that its conditions amount to
	NodeLabels
	NodeAllocatable
	ClaimChanged  // a claim: the pods that mount it are decided again, and no others
	VolumeChanged // a PersistentVolume
	ClassChanged  // a StorageClass
	ObjectChanged // an object of another kind that rows look at
)

// anything is every change.
const anything = ^Changes(0)
