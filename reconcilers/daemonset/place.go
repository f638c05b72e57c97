package daemonset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/daemon/util"

	"lockstep/kinds/podstatus"
	"lockstep/reconcilers/loop"
	"lockstep/reconcilers/pods"
	"lockstep/store/view"
)

// failuresAnnotation counts the failed pods that a daemon's pod has replaced, one after the other.
const failuresAnnotation = "lockstep.dev/failed-before"

// The wait before a failed pod is replaced, and the doublings' end: Kubernetes' (cmd/kube-controller-manager/app/apps.go).
const (
	firstWait   = time.Second
	longestWait = 15 * time.Minute
)

// place is a node, or the name of one that is no more, with the daemon's pods on it.
type place struct {
	node string
	// exists: there is such a node. wanted: it is to have a pod. stays: it may keep one.
	exists, wanted, stays bool
	// pods are those on the node or meant for it, the oldest first, without those that have ended and are going.
	pods []*corev1.Pod
	// drops are those of pods that go.
	drops map[*corev1.Pod]drop
	// create is why a pod is made; empty: none is. failures is how many that failed it replaces.
	create   string
	failures int
}

type drop struct {
	reason string
	event  *loop.Event
}

// drop has a pod go; event is told of the daemon set, nil: none is.
func (p *place) drop(pod *corev1.Pod, reason string, event *loop.Event) {
	if p.drops == nil {
		p.drops = map[*corev1.Pod]drop{}
	}
	p.drops[pod] = drop{reason, event}
}

// left are the pods that nobody has asked to stop, and that this decision does not either.
func (p *place) left() []*corev1.Pod {
	var left []*corev1.Pod
	for _, pod := range p.pods {
		if _, dropped := p.drops[pod]; !dropped && !going(pod) {
			left = append(left, pod)
		}
	}
	return left
}

// findPlaces sorts the pods by their nodes. A pod that names no node has no place: somebody else's that was adopted, and that
// nothing has bound.
func (d *decision) findPlaces(v *view.View, mine []*corev1.Pod) {
	at := map[string]*place{}
	get := func(name string) *place {
		p := at[name]
		if p == nil {
			p = &place{node: name}
			at[name] = p
			d.places = append(d.places, p)
		}
		return p
	}
	spec := &d.ds.Spec.Template.Spec
	affinity := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *spec})
	for n := range view.List[*corev1.Node](v, "") {
		p := get(n.Name)
		p.exists = true
		p.wanted, p.stays = d.suits(n, affinity)
	}
	for _, pod := range mine {
		if name, err := util.GetTargetNodeName(pod); err == nil && !(podstatus.Finished(&pod.Status) && going(pod)) {
			p := get(name)
			p.pods = append(p.pods, pod)
		}
	}
	for _, p := range d.places {
		slices.SortFunc(p.pods, older)
	}
	slices.SortFunc(d.places, func(a, b *place) int { return cmp.Compare(a.node, b.node) })
}

// suits says whether a node is to have a pod of the template, and whether it may keep one that it has: a taint that only keeps
// pods from being scheduled drives none away.
func (d *decision) suits(n *corev1.Node, affinity nodeaffinity.RequiredNodeAffinity) (wanted, stays bool) {
	spec := &d.template.Spec
	if spec.NodeName != "" && spec.NodeName != n.Name {
		return false, false
	}
	if ok, err := affinity.Match(n); err != nil || !ok {
		return false, false
	}
	keeps := func(effects ...corev1.TaintEffect) bool {
		_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, n.Spec.Taints, spec.Tolerations,
			func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, false)
		return !untolerated
	}
	return keeps(corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule), keeps(corev1.TaintEffectNoExecute)
}

// older orders pods that are bound before others, and each by their age.
func older(a, b *corev1.Pod) int {
	bound := func(p *corev1.Pod) int {
		if p.Spec.NodeName != "" {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(bound(a), bound(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// manage decides what a node lacks, and what it has too much of, whatever the templates.
func (d *decision) manage(p *place) {
	switch {
	case !p.exists:
		for _, pod := range p.left() {
			// Those that were bound go with their node.
			if pod.Spec.NodeName == "" {
				p.drop(pod, "its node is gone", nil)
			}
		}
		return
	case !p.stays:
		for _, pod := range p.left() {
			p.drop(pod, "not to be on this node", nil)
		}
		return
	}
	waits := d.replaceEnded(p)
	running := slices.DeleteFunc(p.left(), func(pod *corev1.Pod) bool { return podstatus.Finished(&pod.Status) })
	surge := util.AllowsSurge(d.ds)
	switch {
	case len(running) > 0 && surge:
		d.prune(p, running)
	case len(running) > 0:
		for _, pod := range running[1:] {
			p.drop(pod, "more than one on this node", nil)
		}
	case p.wanted && !waits && (surge || !slices.ContainsFunc(p.pods, going)):
		p.create = "none on this node"
	}
}

func going(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }

// replaceEnded drops the pods that have ended, a failed one after a while. waits says that one is left until then.
func (d *decision) replaceEnded(p *place) (waits bool) {
	for _, pod := range p.left() {
		switch pod.Status.Phase {
		case corev1.PodFailed:
			failures, at := d.backOff(pod)
			if at.After(d.now) {
				d.again(at)
				waits = true
				continue
			}
			p.failures = max(p.failures, failures)
			p.drop(pod, "failed", &loop.Event{
				Type: corev1.EventTypeWarning, Reason: "FailedDaemonPod",
				Message: fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, p.node),
			})
		case corev1.PodSucceeded:
			p.drop(pod, "ended", &loop.Event{
				Type: corev1.EventTypeNormal, Reason: "SucceededDaemonPod",
				Message: fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, p.node),
			})
		}
	}
	return waits
}

// backOff says when a failed pod is to be replaced, and how many have failed with it. The first goes at once. Who ran for twice
// the longest wait, or had another template, did not fail again.
func (d *decision) backOff(pod *corev1.Pod) (failures int, at time.Time) {
	before, err := strconv.Atoi(pod.Annotations[failuresAnnotation])
	since := pod.CreationTimestamp.Time
	if err != nil || before <= 0 || !d.updated(pod) || d.now.Sub(since) > 2*longestWait {
		return 1, time.Time{}
	}
	return before + 1, since.Add(min(longestWait, firstWait<<min(before-1, 10)))
}

// prune leaves, of the pods that run on a node, the oldest of the present template and the oldest of another: both, while the
// first is not available yet and the second is ready.
func (d *decision) prune(p *place, running []*corev1.Pod) {
	var fresh, stale *corev1.Pod
	for _, pod := range running {
		switch {
		case d.hashed(pod) && fresh == nil:
			fresh = pod
		case !d.hashed(pod) && stale == nil:
			stale = pod
		default:
			p.drop(pod, "more than one on this node", nil)
		}
	}
	if fresh == nil || stale == nil {
		return
	}
	switch {
	case !podstatus.Ready(&stale.Status):
		p.drop(stale, "not ready, and replaced", nil)
	case d.available(fresh):
		p.drop(stale, "replaced", nil)
	}
}

func (d *decision) hashed(p *corev1.Pod) bool { return p.Labels[hashLabel] == d.hash }

// available says that a pod is, and asks to decide again when it becomes so by time alone.
func (d *decision) available(p *corev1.Pod) bool {
	ok, at := podstatus.Available(&p.Status, time.Duration(d.ds.Spec.MinReadySeconds)*time.Second, d.now)
	d.again(at)
	return ok
}

// act wants and drops what was decided about the places, as much of it as a decision may.
func (d *decision) act(claims pods.Claims) {
	gone := map[*corev1.Pod]bool{}
	created, deleted := 0, 0
	var creations []loop.Want
	for _, p := range d.places {
		if created == burst || deleted > 0 && deleted+len(p.drops) > burst {
			break
		}
		for _, pod := range p.pods {
			drop, ok := p.drops[pod]
			if !ok {
				continue
			}
			deleted++
			gone[pod] = true
			d.Drops = append(d.Drops, pods.Deletion(pod, drop.reason))
			if drop.event != nil {
				d.Events = append(d.Events, *drop.event)
			}
		}
		if p.create != "" {
			created++
			creations = append(creations, d.creation(p))
		}
	}
	stay := slices.DeleteFunc(slices.Clone(claims.Mine), func(pod *corev1.Pod) bool { return gone[pod] })
	d.Wants = append(d.Wants, claims.Keep("needed", stay...)...)
	d.Wants = append(d.Wants, creations...)
}

// creation wants a new pod that only that node may have.
func (d *decision) creation(p *place) loop.Want {
	pod := pods.Of(d.ds, &d.template)
	pod.Spec.Affinity = util.ReplaceDaemonSetPodNodeNameNodeAffinity(pod.Spec.Affinity.DeepCopy(), p.node)
	if p.failures > 0 {
		pod.Annotations = maps.Clone(pod.Annotations)
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[failuresAnnotation] = strconv.Itoa(p.failures)
	}
	return pods.Creation(pod, fmt.Sprintf("%s: %s", p.node, p.create))
}
