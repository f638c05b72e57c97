package register

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/nodeagent/client"
)

const (
	// leaseDuration in seconds is how long a node may be silent, heartbeat how often it renews: of five renewals four may be lost. In
	// Kubernetes they are 40 and 10 s.
	leaseDuration = 10
	heartbeat     = 2 * time.Second
	// statusPeriod is Kubernetes' of a status in which nothing has changed.
	statusPeriod = 5 * time.Minute
	// reportRetry is the pause after a report that failed.
	reportRetry = time.Second
	// answeredPause is that before the next one where another request was answered meanwhile: it bounds how often it is tried
	// where only others' are.
	answeredPause = 100 * time.Millisecond
	apiTimeout    = 10 * time.Second
	leaseSpace    = "kube-node-lease"
	// maxImages is Kubernetes' nodeStatusMaxImages: the status is sent whole each time.
	maxImages = 50
)

// State is what a node reports about itself at one moment.
type State struct {
	Facts Facts
	// Declared are the extended resources that the node is said to have, and Usable what of them can be used now.
	Declared, Usable corev1.ResourceList
	Addresses        []netip.Addr
	Version          string // of the agent
	// NotReady lists why pods cannot run here; empty means they can.
	NotReady []string
	// NoNetwork is why pods cannot get addresses; empty means they can.
	NoNetwork string
	// NoRules is why the kernel may not have the rules of services; empty means that it has them.
	NoRules string
	// Undecided says what is not known yet, and why: a node that was ready stays so, another one is not. What NoRules
	// says is not known then.
	Undecided string
	// Images are those on the node, largest first.
	Images []corev1.ContainerImage
	// MemoryPressure, DiskPressure and PIDPressure say that there is too little.
	MemoryPressure, DiskPressure, PIDPressure bool
	// Ingress says how the node serves Ingresses; nil: it is not to.
	Ingress *Ingress
	// VolumesInUse are those that must not be detached.
	VolumesInUse []corev1.UniqueVolumeName
}

// with is the state with extended resources besides, of which there is no device; of those that the agent knows itself it knows better.
func (s State) with(stated corev1.ResourceList) State {
	declared, usable := maps.Clone(stated), maps.Clone(stated)
	for name := range s.Declared {
		delete(usable, name)
	}
	maps.Copy(declared, s.Declared)
	maps.Copy(usable, s.Usable)
	s.Declared, s.Usable = declared, usable
	return s
}

// Ingress is how a node serves Ingresses.
type Ingress struct {
	HTTP, HTTPS uint16 // the ports
	Trouble     string // why not all is served; empty: all is
}

// Node is what a new node object states.
func Node(name string, labels map[string]string, taints []corev1.Taint) *corev1.Node {
	all := map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(all, labels)
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: all}, Spec: corev1.NodeSpec{Taints: taints}}
}

// handler tells what pods of a runtime can have; of others than runc that is not known.
func (s State) handler(name string, runc bool) corev1.NodeRuntimeHandler {
	return corev1.NodeRuntimeHandler{Name: name, Features: &corev1.NodeRuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: new(runc && s.Facts.RecursiveReadOnly), UserNamespaces: new(runc && s.Facts.UserNamespaces)}}
}

// Status computes the node's status from the previous one, whose transition
// times hold as long as nothing changes. Heartbeat times are now.
func Status(name string, old corev1.NodeStatus, s State, now time.Time) corev1.NodeStatus {
	st := *old.DeepCopy()
	st.Capacity, st.Allocatable = s.Facts.Capacity(), s.Facts.Allocatable()
	maps.Copy(st.Capacity, s.Declared)
	maps.Copy(st.Allocatable, s.Usable)
	st.Addresses = nil
	for _, a := range s.Addresses {
		st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
	st.NodeInfo = corev1.NodeSystemInfo{
		MachineID: s.Facts.MachineID, SystemUUID: s.Facts.SystemUUID, BootID: s.Facts.BootID,
		KernelVersion: s.Facts.Kernel, OSImage: s.Facts.OSImage,
		ContainerRuntimeVersion: "containerd://" + s.Facts.ContainerRuntime,
		KubeletVersion:          s.Version,
		OperatingSystem:         runtime.GOOS, Architecture: runtime.GOARCH,
	}
	st.RuntimeHandlers = []corev1.NodeRuntimeHandler{s.handler("", true)} // that of pods without a class
	for _, name := range slices.Sorted(maps.Keys(s.Facts.Runtimes)) {
		runc := strings.HasPrefix(s.Facts.Runtimes[name], "io.containerd.runc.")
		st.RuntimeHandlers = append(st.RuntimeHandlers, s.handler(name, runc))
	}
	st.Images = s.Images[:min(len(s.Images), maxImages)]
	st.VolumesInUse = s.VolumesInUse
	set := func(t corev1.NodeConditionType, status bool, reason, message string) {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message,
			LastHeartbeatTime: metav1.NewTime(now.Truncate(time.Second)), LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
		if status {
			c.Status = corev1.ConditionTrue
		}
		i := slices.IndexFunc(st.Conditions, func(c corev1.NodeCondition) bool { return c.Type == t })
		if i < 0 {
			st.Conditions = append(st.Conditions, c)
			return
		}
		if st.Conditions[i].Status == c.Status {
			c.LastTransitionTime = st.Conditions[i].LastTransitionTime
		}
		st.Conditions[i] = c
	}
	pressure := func(t corev1.NodeConditionType, on bool, yes, no, yesText, noText string) {
		if on {
			set(t, true, yes, yesText)
		} else {
			set(t, false, no, noText)
		}
	}
	pressure(corev1.NodeMemoryPressure, s.MemoryPressure, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory",
		"kubelet has insufficient memory available", "kubelet has sufficient memory available")
	pressure(corev1.NodeDiskPressure, s.DiskPressure, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has disk pressure",
		"kubelet has no disk pressure")
	pressure(corev1.NodePIDPressure, s.PIDPressure, "KubeletHasInsufficientPID", "KubeletHasSufficientPID",
		"kubelet has insufficient PID available", "kubelet has sufficient PID available")
	if s.NoNetwork != "" {
		set(corev1.NodeNetworkUnavailable, true, "NoRouteCreated", s.NoNetwork)
	} else {
		set(corev1.NodeNetworkUnavailable, false, "RouteCreated", "pods have addresses and routes")
	}
	why := slices.Clone(s.NotReady)
	if s.NoNetwork != "" {
		why = append(why, "container runtime network not ready: "+s.NoNetwork)
	}
	switch {
	case s.Undecided != "":
		if !kinds.NodeReady(&corev1.Node{Status: old}) {
			why = append(why, s.Undecided)
		}
	case s.NoRules != "":
		set(kinds.NodeServiceRules, false, "RulesNotWritten", s.NoRules)
		why = append(why, "service rules are not in place: "+s.NoRules)
	default:
		set(kinds.NodeServiceRules, true, "RulesWritten", "the kernel has the rules of all services")
	}
	switch {
	case s.Ingress == nil:
		st.Conditions = slices.DeleteFunc(st.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kinds.NodeIngress })
	case s.Ingress.Trouble != "":
		set(kinds.NodeIngress, false, "IngressNotServed", s.Ingress.Trouble)
	default:
		set(kinds.NodeIngress, true, "IngressServed",
			fmt.Sprintf("serves HTTP at port %d, HTTPS at port %d", s.Ingress.HTTP, s.Ingress.HTTPS))
	}
	if len(why) > 0 {
		set(corev1.NodeReady, false, "KubeletNotReady", strings.Join(why, ", "))
	} else {
		set(corev1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
	}
	return st
}

// Reporter keeps the node's object and lease up to date.
type Reporter struct {
	Client client.Interface
	Name   string
	Labels map[string]string
	// Annotations are what the node says of itself besides.
	Annotations map[string]string
	// Marks, where set, are labels and annotations besides, which may be others each time; those that the node has already count.
	Marks  func() (labels, annotations map[string]string)
	Taints []corev1.Taint
	// State is asked before each report; it must be quick.
	State func(context.Context) State
	// Changed, when it receives, asks for a report at once.
	Changed <-chan struct{}
	// Answered, where set, returns a channel that is closed when the API next answers anybody: a report that nobody answered is
	// made again then. It is a link's.
	Answered func() <-chan struct{}
	// Reported, if not nil, is told of each write: "node status" or "lease", when it began, and its error.
	Reported func(what string, began time.Time, err error)
	// Stated, where set, is told before each report which extended resources the node's manifest gives it.
	Stated func(corev1.ResourceList)
	// Foreign, where set, says which pods run here that are the node's no longer: until it says none, empty, a node that was silent is
	// not ready.
	Foreign func(context.Context) string
	Log     *slog.Logger

	back bool // it was silent, and may have pods that are others' by now
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	var last time.Time
	failing := map[string]bool{} // logged once until it works again
	warn := func(message string, err error) {
		if err != nil && ctx.Err() == nil && !failing[message] {
			r.Log.Warn(message, "error", err)
		}
		failing[message] = err != nil
	}
	for {
		var answered <-chan struct{}
		if r.Answered != nil {
			answered = r.Answered()
		}
		now := time.Now()
		wrote, err := r.report(ctx, now, now.Sub(last) >= statusPeriod)
		if wrote || err != nil {
			r.tell("node status", now, err)
		}
		warn("cannot report node", err)
		if wrote {
			last = now
		}
		failed := err
		began := time.Now()
		err = r.renew(ctx, began)
		r.tell("lease", began, err)
		warn("cannot renew node lease", err)
		failed = errors.Join(failed, err)
		var again <-chan time.Time
		if failed != nil {
			again = time.After(reportRetry)
		}
		if !Unanswered(failed) {
			answered = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.Changed:
		case <-again:
		case <-answered:
			sleep.For(ctx, answeredPause)
		}
	}
}

func (r *Reporter) tell(what string, began time.Time, err error) {
	if r.Reported != nil {
		r.Reported(what, began, err)
	}
}

// report writes the node's status if it changed or if force asks for it.
func (r *Reporter) report(ctx context.Context, now time.Time, force bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	labels, annotations := r.marks()
	annotations = r.said(annotations)
	nodes := r.Client.CoreV1().Nodes()
	node, err := nodes.Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh, _ := marked(Node(r.Name, labels, r.Taints), nil, annotations)
		fresh.Status = Status(r.Name, corev1.NodeStatus{}, r.State(ctx), now)
		if node, err = nodes.Create(ctx, fresh, metav1.CreateOptions{}); err != nil {
			return false, fmt.Errorf("cannot register node %s: %w", r.Name, err)
		}
	} else if err != nil {
		return false, fmt.Errorf("cannot read node %s: %w", r.Name, err)
	} else if labelled, changed := marked(node, Node(r.Name, labels, nil).Labels, annotations); changed {
		if node, err = nodes.Update(ctx, labelled, metav1.UpdateOptions{}); err != nil {
			return false, fmt.Errorf("cannot label node %s: %w", r.Name, err)
		}
	}
	stated := kinds.CapacityStated(node)
	if r.Stated != nil {
		r.Stated(stated)
	}
	state := r.State(ctx).with(stated)
	if r.back = r.back || kinds.NodeSilent(node); r.back && r.Foreign != nil {
		why := r.Foreign(ctx)
		if r.back = why != ""; r.back {
			state.NotReady = append(state.NotReady, why)
		}
	}
	if !force && sameStatus(node.Status, Status(r.Name, node.Status, state, now)) {
		return false, nil
	}
	node = node.DeepCopy()
	// Others write the node's spec and conditions, several of them when it is new: with what they wrote it is tried again.
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node.Status = Status(r.Name, node.Status, state, now)
		_, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			if now, again := nodes.Get(ctx, r.Name, metav1.GetOptions{}); again == nil {
				node = now
			}
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("cannot report status of node %s: %w", r.Name, err)
	}
	return true, nil
}

// marks are all labels and annotations that the node has for itself.
func (r *Reporter) marks() (labels, annotations map[string]string) {
	if r.Marks == nil {
		return r.Labels, r.Annotations
	}
	moreLabels, moreAnnotations := r.Marks()
	labels, annotations = map[string]string{}, map[string]string{}
	maps.Copy(labels, moreLabels)
	maps.Copy(labels, Node(r.Name, r.Labels, nil).Labels)
	maps.Copy(annotations, moreAnnotations)
	maps.Copy(annotations, r.Annotations)
	return labels, annotations
}

// marked is a node with labels and annotations besides those that it has, and whether that changes it.
func marked(n *corev1.Node, labels, annotations map[string]string) (*corev1.Node, bool) {
	out := n.DeepCopy()
	for _, with := range []struct {
		has  *map[string]string
		want map[string]string
	}{{&out.Labels, labels}, {&out.Annotations, annotations}} {
		if *with.has == nil {
			*with.has = map[string]string{}
		}
		maps.Copy(*with.has, with.want)
	}
	return out, !maps.Equal(out.Labels, n.Labels) || !maps.Equal(out.Annotations, n.Annotations)
}

// said are annotations with the labels that the node was started with, of which no manifest can give it another value.
func (r *Reporter) said(annotations map[string]string) map[string]string {
	if len(r.Labels) == 0 {
		return annotations
	}
	said := map[string]string{kinds.AgentLabels: strings.Join(slices.Sorted(maps.Keys(r.Labels)), ",")}
	maps.Copy(said, annotations)
	return said
}

// sameStatus compares all but the heartbeat times.
func sameStatus(a, b corev1.NodeStatus) bool {
	strip := func(s corev1.NodeStatus) corev1.NodeStatus {
		s = *s.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return s
	}
	return equality.Semantic.DeepEqual(strip(a), strip(b))
}

// renew writes the lease that says the node lives.
func (r *Reporter) renew(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	leases := r.Client.CoordinationV1().Leases(leaseSpace)
	t, holder, d := metav1.NewMicroTime(now), r.Name, int32(leaseDuration)
	spec := coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &d, RenewTime: &t}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: leaseSpace, Name: r.Name}, Spec: spec}
	_, err := leases.Update(ctx, lease, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	}
	return err
}
