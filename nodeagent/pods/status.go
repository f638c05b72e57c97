package pods

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
)

// Reasons that Kubernetes gives and k8s.io/api does not name.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonCrash        = "CrashLoopBackOff"
	reasonDeadline     = "DeadlineExceeded"
	reasonLost         = "ContainerStatusUnknown"
	reasonRun          = "RunContainerError"
	reasonHook         = "PostStartHookError"
	reasonConfig       = "CreateContainerConfigError"
	reasonRestartAll   = "RestartingAllContainers"
)

// ReasonStartError and StartErrorCode are the exit of a container that
// containerd could not run.
const (
	ReasonStartError = "StartError"
	StartErrorCode   = 128
)

// startErrorShown is how long the cause of a failed start stands before the
// wait that follows from it: until the kubelet would look again.
const startErrorShown = time.Second

// startError is why the start of a container that has ended failed; nil if it
// did not.
func startError(c Container) *corev1.ContainerStateWaiting {
	switch {
	case c.Reason == ReasonStartError:
		return &corev1.ContainerStateWaiting{Reason: reasonRun, Message: c.Message}
	case c.HookError != "":
		return &corev1.ContainerStateWaiting{Reason: reasonHook, Message: c.HookError}
	}
	return nil
}

// Status is the pod's status as Kubernetes would report it. Conditions and
// fields that nodes do not own are kept from the pod; transition times change
// only with their condition.
func Status(w Wanted, o Observed, now time.Time) corev1.PodStatus {
	pod := w.Pod
	o = inRounds(pod, o)
	s := *pod.Status.DeepCopy()
	s.ObservedGeneration = pod.Generation
	s.HostIP, s.HostIPs = "", nil
	for _, ip := range o.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(o.HostIPs) > 0 {
		s.HostIP = o.HostIPs[0]
	}
	if s.StartTime == nil {
		t := metav1.NewTime(now.Truncate(time.Second))
		s.StartTime = &t
	}
	if o.Sandbox.ID != "" {
		s.PodIP, s.PodIPs = "", nil
		for _, ip := range o.Sandbox.IPs {
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
		}
		if len(o.Sandbox.IPs) > 0 {
			s.PodIP = o.Sandbox.IPs[0]
		}
	}
	if s.QOSClass == "" {
		s.QOSClass = qos.ComputePodQOS(pod)
	}
	s.Resources, s.AllocatedResources = resourcesOf(pod, liveOf(o))
	if w.Rejected != "" {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, w.Rejected, "Pod was rejected: "+w.RejectedMessage
		return s
	}
	why, _ := ending(w, o, now)
	end := why != ""
	inited := initialised(pod, o)
	done := podstatus.Finished(&pod.Status)
	s.InitContainerStatuses = containerStatuses(pod, o, pod.Spec.InitContainers, pod.Status.InitContainerStatuses, true, inited, end, now)
	s.ContainerStatuses = containerStatuses(pod, o, pod.Spec.Containers, pod.Status.ContainerStatuses, false, inited, end, now)
	if !done {
		s.Phase = phase(pod, o)
		// A pod has not failed while it still runs: its successor may need what it holds.
		switch ended := len(liveOf(o)) == 0; {
		case !ended:
		case w.Evicted.Message != "":
			s.Phase, s.Reason, s.Message = corev1.PodFailed, cmp.Or(w.Evicted.Reason, ReasonEvicted), w.Evicted.Message
		case overdue(pod, now) && (s.Phase != corev1.PodSucceeded || !inTime(pod, o)):
			s.Phase, s.Reason = corev1.PodFailed, reasonDeadline
			s.Message = "Pod was active on the node longer than the specified deadline"
		}
	}
	conditions(pod, o, &s, inited, now)
	if w.Evicted.Pressure {
		disrupted(&s, w, now)
	}
	resizing(w, o, &s, end, now)
	moved(w, &s, now)
	bound(&s)
	return s
}

// disrupted says for whoever counts failures that this one is not the pod's own.
func disrupted(s *corev1.PodStatus, w Wanted, now time.Time) {
	put(s, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: w.Pod.Generation,
		Reason: corev1.PodReasonTerminationByKubelet, Message: w.Evicted.Message}, now)
}

// inTime says that no container ran beyond the pod's deadline.
func inTime(pod *corev1.Pod, o Observed) bool {
	d := pod.Spec.ActiveDeadlineSeconds
	if d == nil || pod.Status.StartTime == nil {
		return true
	}
	deadline := pod.Status.StartTime.Add(kinds.Seconds(*d))
	return !slices.ContainsFunc(o.Containers, func(c Container) bool { return !c.FinishedAt.Before(deadline) })
}

// phase follows Kubernetes: Pending until every container has been started
// once, then Running until all have ended for good.
func phase(pod *corev1.Pod, o Observed) corev1.PodPhase {
	if p := finished(pod, o); p != "" {
		return p
	}
	if pod.DeletionTimestamp != nil && len(liveOf(o)) == 0 {
		return endedPhase(pod, o)
	}
	for i := range pod.Spec.Containers {
		last, ok := latest(o, pod.Spec.Containers[i].Name)
		if !ok || last.State == Created && last.Attempt == 0 {
			return corev1.PodPending
		}
	}
	if pod.Status.Phase == corev1.PodRunning || initialised(pod, o) {
		return corev1.PodRunning
	}
	return corev1.PodPending
}

// endedPhase is what a pod being deleted amounts to once nothing of it runs.
func endedPhase(pod *corev1.Pod, o Observed) corev1.PodPhase {
	p := corev1.PodSucceeded
	for i := range pod.Spec.Containers {
		if last, ok := latest(o, pod.Spec.Containers[i].Name); !ok || last.ExitCode != 0 {
			p = corev1.PodFailed
		}
	}
	return p
}

func containerStatuses(pod *corev1.Pod, o Observed, cs []corev1.Container, old []corev1.ContainerStatus, init, inited, end bool,
	now time.Time) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range cs {
		out = append(out, containerStatus(pod, o, &cs[i], old, init, inited, end, now))
	}
	return out
}

func containerStatus(pod *corev1.Pod, o Observed, c *corev1.Container, old []corev1.ContainerStatus, init, inited, end bool,
	now time.Time) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(false), VolumeMounts: mounted(c, o.RecursiveReadOnly)}
	if !init {
		s.AllocatedResourcesStatus = o.Health[c.Name]
	}
	last, any := latest(o, c.Name)
	if !any {
		// Nothing of it is known here; what was reported of its end stays true.
		if i := slices.IndexFunc(old, func(s corev1.ContainerStatus) bool { return s.Name == c.Name }); i >= 0 {
			if t := old[i].State.Terminated; t != nil && (end || init && inited) {
				return old[i]
			} else if end && old[i].State.Running != nil {
				lost := old[i]
				lost.Ready, lost.Started = false, new(false)
				lost.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: 137, Reason: reasonLost, ContainerID: lost.ContainerID,
					Message: "The container could not be located when the pod was terminated"}}
				return lost
			}
		}
		s.State.Waiting = waiting(pod, o, c, init, inited, false, last)
		return s
	}
	s.RestartCount = int32(last.Attempt)
	s.ContainerID = "containerd://" + last.ID
	s.ImageID = last.ImageID
	s.Resources, s.AllocatedResources, s.User = c.Resources.DeepCopy(), c.Resources.Requests.DeepCopy(), last.User.DeepCopy()
	if last.State == Running {
		is := actual(c, last)
		s.Resources = is.DeepCopy()
	}
	if c.Lifecycle != nil {
		s.StopSignal = c.Lifecycle.StopSignal
	}
	if last.Image != "" {
		s.Image = last.Image
	}
	if prev, ok := predecessor(o, last); ok {
		s.LastTerminationState.Terminated = terminated(prev)
	}
	switch last.State {
	case Running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(last.StartedAt)}
		s.Started = new(last.Started && last.Hooked)
		s.Ready = last.Ready && last.Started && last.Hooked && (!init || podstatus.Sidecar(c))
	case Created:
		s.State.Waiting = waiting(pod, o, c, init, inited, true, last)
	case Exited:
		s.State.Terminated = terminated(last)
		s.Ready = init && last.ExitCode == 0 && !podstatus.Sidecar(c) && last.Round >= o.round
		if !end && !o.ends && (last.Round < o.round || restarts(pod, c, init, last)) && !(init && inited && !podstatus.Sidecar(c)) {
			s.LastTerminationState.Terminated = s.State.Terminated
			s.State = corev1.ContainerState{Waiting: waiting(pod, o, c, init, inited, true, last)}
			due := last.FinishedAt.Add(restartDelay(last))
			failed := startError(last)
			if !o.here(last) {
				failed = nil
			}
			switch {
			case o.ended(c, last) && now.Before(due):
				s.State.Waiting = crashLoop(pod, c, last)
			case last.Round < o.round && s.State.Waiting.Reason == reasonCreating:
				s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reasonRestartAll,
					Message: "The container is removed because RestartAllContainers in place"}
			case last.Round < o.round: // what keeps it from starting
			case failed != nil && now.Before(last.FinishedAt.Add(startErrorShown)):
				s.State.Waiting = failed
			case last.Sandbox == o.Sandbox.ID && now.Before(due) || s.State.Waiting.Reason == reasonCreating && restartDelay(last) > 0:
				s.State.Waiting = crashLoop(pod, c, last)
			case failed != nil && s.State.Waiting.Reason == reasonCreating:
				s.State.Waiting = failed
			case s.State.Waiting.Reason == reasonCreating && last.Sandbox == o.Sandbox.ID:
				// It restarts at once: Kubernetes shows the exit until then.
				s.State = corev1.ContainerState{Terminated: terminated(last)}
				s.LastTerminationState = corev1.ContainerState{}
				if prev, ok := predecessor(o, last); ok {
					s.LastTerminationState.Terminated = terminated(prev)
				}
			}
		}
	}
	return s
}

// crashLoop says that a container backs off before it runs again.
func crashLoop(pod *corev1.Pod, c *corev1.Container, last Container) *corev1.ContainerStateWaiting {
	return &corev1.ContainerStateWaiting{Reason: reasonCrash, Message: fmt.Sprintf(
		"back-off %s restarting failed container=%s pod=%s_%s(%s)", restartDelay(last), c.Name, pod.Name, pod.Namespace, pod.UID)}
}

// waiting says why a container does not run yet.
func waiting(pod *corev1.Pod, o Observed, c *corev1.Container, init, inited, tried bool, last Container) *corev1.ContainerStateWaiting {
	if f, ok := o.Failures[Key{Prepare, c.Name}]; ok && (inited || init) {
		return &corev1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if f, ok := o.Failures[Key{Start, c.Name}]; ok {
		return &corev1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if !tried && len(pod.Spec.InitContainers) > 0 && !inited {
		return &corev1.ContainerStateWaiting{Reason: reasonInitializing, Message: o.Pulls[c.Name]}
	}
	return &corev1.ContainerStateWaiting{Reason: reasonCreating, Message: o.Pulls[c.Name]}
}

func terminated(c Container) *corev1.ContainerStateTerminated {
	reason := c.Reason
	if reason == "" {
		reason = "Completed"
		if c.ExitCode != 0 {
			reason = "Error"
		}
	}
	started := metav1.NewTime(c.StartedAt)
	if c.StartedAt.IsZero() {
		started = metav1.Unix(0, 0) // Kubernetes' way to say never
	}
	return &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Signal: c.Signal, Reason: reason, Message: c.Message,
		StartedAt: started, FinishedAt: metav1.NewTime(c.FinishedAt),
		ContainerID: "containerd://" + c.ID,
	}
}

// predecessor is the instance before c, if its record is still there.
func predecessor(o Observed, c Container) (Container, bool) {
	var prev Container
	found := false
	for _, p := range o.Containers {
		if p.Name == c.Name && p.Attempt < c.Attempt && (!found || p.Attempt > prev.Attempt) {
			prev, found = p, true
		}
	}
	return prev, found && prev.State == Exited
}

// conditions sets those that nodes own: PodReadyToStartContainers,
// Initialized, ContainersReady and Ready.
func conditions(pod *corev1.Pod, o Observed, s *corev1.PodStatus, inited bool, now time.Time) {
	ended := podstatus.Finished(s)
	// Kubernetes says so by an event alone, which nobody may ever see. Its sandboxes come after the volumes, here beside them.
	hindered := o.Failures[Key{Kind: Volumes}]
	if hindered.Reason == "" {
		hindered = o.Failures[Key{Kind: Setup}]
	}
	able := o.Sandbox.ID != "" && !ended && (hindered.Reason == "" || s.Phase != corev1.PodPending)
	set(s, corev1.PodReadyToStartContainers, able, hindered.Reason, shorten(hindered.Message), pod, now)

	// A pod that was initialised once stays so, whatever its init containers do in a new sandbox.
	once := podstatus.True(s, corev1.PodInitialized)
	if inited || once || s.Phase == corev1.PodSucceeded {
		reason := ""
		if s.Phase == corev1.PodSucceeded {
			reason = "PodCompleted"
		}
		set(s, corev1.PodInitialized, true, reason, "", pod, now)
	} else {
		waiting := incomplete(pod, s.InitContainerStatuses)
		set(s, corev1.PodInitialized, len(waiting) == 0, "ContainersNotInitialized",
			fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(waiting, " ")), pod, now)
	}

	var unready []string
	for _, c := range s.InitContainerStatuses {
		i := slices.IndexFunc(pod.Spec.InitContainers, func(ic corev1.Container) bool { return ic.Name == c.Name })
		if podstatus.Sidecar(&pod.Spec.InitContainers[i]) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	reason, message := "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	ready := len(unready) == 0 && s.Phase == corev1.PodRunning
	if mayRestartAll(pod) {
		setRestartingAll(pod, o, s, now)
	}
	switch {
	case s.Phase == corev1.PodSucceeded:
		reason, message = "PodCompleted", ""
	case s.Phase == corev1.PodFailed:
		reason, message = "PodFailed", ""
	}
	set(s, corev1.ContainersReady, ready, reason, message, pod, now)
	if ready {
		if unmet := podstatus.UnmetGates(pod, s); unmet != "" {
			ready, reason, message = false, podstatus.GatesNotReady, unmet
		}
	}
	set(s, corev1.PodReady, ready, reason, message, pod, now)
}

// mounted is how a container has its volumes, where recursive says that what is below one can be read-only, too.
func mounted(c *corev1.Container, recursive bool) (all []corev1.VolumeMountStatus) {
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			s.RecursiveReadOnly = new(corev1.RecursiveReadOnlyDisabled)
			if recursive && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled {
				s.RecursiveReadOnly = new(corev1.RecursiveReadOnlyEnabled)
			}
		}
		all = append(all, s)
	}
	return all
}

// resourcesOf are the resources that a pod itself states: as it has them with the containers that live, and what its node keeps for
// it. One that states none has those of its containers.
func resourcesOf(pod *corev1.Pod, live []Container) (has *corev1.ResourceRequirements, kept corev1.ResourceList) {
	if !helpers.IsPodLevelResourcesSet(pod) {
		return nil, nil
	}
	return Largest(pod, live).Spec.Resources, helpers.PodRequests(pod, helpers.PodResourcesOptions{})
}

// resizing sets the conditions of a change of resources, which are there while it waits or goes on.
func resizing(w Wanted, o Observed, s *corev1.PodStatus, end bool, now time.Time) {
	say := func(t corev1.PodConditionType, on bool, generation int64, reason, message string) {
		if !on || end {
			unset(s, t)
			return
		}
		put(s, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, ObservedGeneration: generation, Reason: reason,
			Message: message}, now)
	}
	r := Resize{Pod: w.Pod}
	if w.Resize != nil {
		r = *w.Resize
	}
	say(corev1.PodResizePending, r.Reason != "", r.Pod.Generation, r.Reason, r.Message)
	all := slices.Concat(w.Pod.Spec.InitContainers, w.Pod.Spec.Containers)
	going := o.Unsized || slices.ContainsFunc(all, func(c corev1.Container) bool {
		last, any := latest(o, c.Name)
		return any && restartsFor(w.Pod, &c, last)
	})
	reason, message := "", ""
	if f, failed := o.Failures[Key{Kind: Size}]; failed {
		reason, message = corev1.PodReasonError, f.Message
	}
	say(corev1.PodResizeInProgress, going, w.Pod.Generation, reason, message)
}

// incomplete names the init containers that have not done their part. That goes
// by their statuses, which outlive the sandbox that they did it in.
func incomplete(pod *corev1.Pod, statuses []corev1.ContainerStatus) []string {
	var names []string
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		at := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
		done := at >= 0 && statuses[at].Ready
		if podstatus.Sidecar(c) {
			done = at >= 0 && statuses[at].Started != nil && *statuses[at].Started
		}
		if !done {
			names = append(names, c.Name)
		}
	}
	return names
}

// set writes one condition; reason and message are for the false case, but
// for a non-empty reason of a true Initialized.
func set(s *corev1.PodStatus, t corev1.PodConditionType, ok bool, reason, message string, pod *corev1.Pod, now time.Time) {
	c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: pod.Generation}
	if ok {
		c.Status, c.Message = corev1.ConditionTrue, ""
		if reason != "PodCompleted" {
			c.Reason = ""
		}
	}
	put(s, c, now)
}

// setRestartingAll says whether all containers are being restarted.
func setRestartingAll(pod *corev1.Pod, o Observed, s *corev1.PodStatus, now time.Time) {
	c := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation}
	switch {
	case s.Phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
	case s.Phase == corev1.PodFailed:
		c.Reason = "PodFailed"
	case restartingAll(o):
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	put(s, c, now)
}

// maxText bounds the message of a condition, in bytes: as that of an event, which says the same.
const maxText = 1024

// shorten cuts a text to maxText.
func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText-len("…")], "") + "…"
}

// unset removes a condition, if it is there.
func unset(s *corev1.PodStatus, t corev1.PodConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == t })
}

// put writes a condition, whose time stays where it says the same as before.
func put(s *corev1.PodStatus, c corev1.PodCondition, now time.Time) {
	c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
	i := slices.IndexFunc(s.Conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type })
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if s.Conditions[i].Status == c.Status {
		c.LastTransitionTime = s.Conditions[i].LastTransitionTime
	}
	s.Conditions[i] = c
}
