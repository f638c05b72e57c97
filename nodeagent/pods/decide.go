package pods

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
)

// defaultGrace is Kubernetes' default of terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

// Decide returns the next steps of a pod. It is called again after anything
// changed and at Plan.Again; steps in flight are not named a second time.
func Decide(w Wanted, o Observed, now time.Time) Plan {
	var p Plan
	o = inRounds(w.Pod, o)
	switch why, detail := ending(w, o, now); {
	case why != "":
		decideEnd(&p, w, o, Step{Cause: why, Detail: detail}, now)
	default:
		decideRun(&p, w, o, now)
	}
	p.Steps = slices.DeleteFunc(p.Steps, func(s Step) bool {
		if o.InFlight[s.Key()] {
			return true
		}
		if f, ok := o.Failures[s.Key()]; ok && now.Before(f.Retry(s.Kind)) {
			p.again(f.Retry(s.Kind))
			return true
		}
		return false
	})
	return p
}

// ending says why the pod must not run any more; empty if it may.
func ending(w Wanted, o Observed, now time.Time) (why Cause, detail string) {
	pod := w.Pod
	switch {
	case w.Gone:
		return Unbound, ""
	case pod.DeletionTimestamp != nil:
		return Deleting, ""
	case w.Rejected != "":
		return Rejected, w.RejectedMessage
	case podstatus.Finished(&pod.Status):
		return Finished, ""
	case w.Evicted.Reason != "":
		return Shutdown, ""
	case w.Evicted.Message != "":
		return Evicted, ""
	case overdue(pod, now):
		return Overdue, ""
	}
	if phase := finished(pod, o); phase != "" {
		return Finished, ""
	}
	return "", ""
}

// overdue says whether activeDeadlineSeconds have passed since the pod's start.
func overdue(pod *corev1.Pod, now time.Time) bool {
	d := pod.Spec.ActiveDeadlineSeconds
	return d != nil && pod.Status.StartTime != nil && !now.Before(pod.Status.StartTime.Add(kinds.Seconds(*d)))
}

// decideEnd stops containers, mains before sidecars, then removes what is left. All its steps have the cause of why.
func decideEnd(p *Plan, w Wanted, o Observed, why Step, now time.Time) {
	p.cancel(o, Prepare, Start, Hook, Volumes, Setup)
	grace := graceOf(w.Pod, now)
	if w.Evicted.Message != "" {
		grace = w.Evicted.Grace
	}
	alive := p.stopInOrder(w.Pod, o, Step{Grace: grace, Hooks: grace > 0, Cause: why.Cause, Detail: why.Detail})
	if alive || len(p.Cancel) > 0 {
		return
	}
	switch {
	case o.Traces:
		p.add(Step{Kind: Teardown, Cause: why.Cause, Detail: why.Detail})
	case w.Gone || o.Deleted:
		if len(o.Containers) > 0 {
			p.add(Step{Kind: Purge, Cause: why.Cause, Detail: why.Detail})
			return
		}
		p.Done = true
	case w.Pod.DeletionTimestamp != nil && o.Reported:
		p.add(Step{Kind: Delete, Cause: AllDown})
	}
}

// cancel ends the steps of some kinds that are in flight.
func (p *Plan) cancel(o Observed, kinds ...Kind) {
	for key := range o.InFlight {
		if slices.Contains(kinds, key.Kind) {
			p.Cancel = append(p.Cancel, key)
		}
	}
	slices.SortFunc(p.Cancel, func(a, b Key) int { return strings.Compare(a.String(), b.String()) })
}

// stopInOrder ends the containers that are next, each by the step, and says whether any is alive: sidecars end after all
// others, in reverse order, each after those started later. Hooks run in those that run.
func (p *Plan) stopInOrder(pod *corev1.Pod, o Observed, by Step) (any bool) {
	sidecars := sidecarNames(pod)
	alive := liveOf(o)
	mains := slices.ContainsFunc(alive, func(c Container) bool { return !slices.Contains(sidecars, c.Name) })
	last := ""
	if !mains {
		for _, name := range slices.Backward(sidecars) {
			if slices.ContainsFunc(alive, func(c Container) bool { return c.Name == name }) {
				last = name
				break
			}
		}
	}
	for _, c := range alive {
		if slices.Contains(sidecars, c.Name) && (mains || c.Name != last) {
			continue
		}
		step := by
		step.Hooks = by.Hooks && c.State == Running
		p.stop(o, c, step)
	}
	return len(alive) > 0
}

// stop adds a step that ends a container, unless that is just being made: it is stopped once that has ended, however it
// ends. Meanwhile nobody can tell a container that is not there yet from one that is not there any more.
func (p *Plan) stop(o Observed, c Container, s Step) {
	if BeingMade(c, o.InFlight) {
		return
	}
	s.Kind, s.Container, s.ID = Stop, c.Name, c.ID
	p.add(s)
}

// BeingMade says that a container is between its record and its first process, by one of the steps under way.
func BeingMade[T any](c Container, steps map[Key]T) bool {
	_, starts := steps[Key{Start, c.Name}]
	return c.State == Created && starts
}

// decideRun moves a pod towards running all its containers.
func decideRun(p *Plan, w Wanted, o Observed, now time.Time) {
	pod := w.Pod
	if d := pod.Spec.ActiveDeadlineSeconds; d != nil && pod.Status.StartTime != nil {
		p.again(pod.Status.StartTime.Add(kinds.Seconds(*d)))
	}
	if !o.Volumes {
		p.add(Step{Kind: Volumes, Cause: NoVolumes})
	}
	if o.ends {
		decideRoundsEnd(p, w, o)
		return
	}
	if o.Sandbox.ID == "" {
		// Containers cannot outlive the namespaces they were made in.
		alive := liveOf(o)
		for _, c := range alive {
			p.stop(o, c, Step{Grace: graceOf(pod, now), Hooks: false, Cause: SandboxGone})
		}
		if len(alive) == 0 {
			p.add(Step{Kind: Setup, Cause: NoSandbox})
		}
	}
	if o.Unsized && o.Sandbox.ID != "" {
		p.add(Step{Kind: Size, Cause: Resized})
	}
	turn := decideInit(p, w, o, now)
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		decideContainer(p, w, o, c, false, turn, now)
		turn = turn && !starting(p, o, c, now)
	}
	decideGarbage(p, w, o)
}

// starting says that a container is on its way to run, its postStart hook
// included: those after it in the list wait. One whose start has failed is not,
// until it is tried again.
func starting(p *Plan, o Observed, c *corev1.Container, now time.Time) bool {
	if o.InFlight[Key{Prepare, c.Name}] || o.InFlight[Key{Start, c.Name}] {
		return true
	}
	last, _ := latest(o, c.Name)
	if last.State == Running && !last.Hooked {
		return true
	}
	return slices.ContainsFunc(p.Steps, func(s Step) bool {
		f, failed := o.Failures[s.Key()]
		waits := failed && !f.Interrupted && now.Before(f.Retry(s.Kind))
		return s.Container == c.Name && (s.Kind == Prepare || s.Kind == Start) && !waits
	})
}

// decideInit runs init containers in order and says whether the others may
// start: all have done their part, and no sidecar is being restarted.
func decideInit(p *Plan, w Wanted, o Observed, now time.Time) bool {
	pod := w.Pod
	if initialised(pod, o) {
		turn := true
		for i := range pod.Spec.InitContainers {
			if c := &pod.Spec.InitContainers[i]; podstatus.Sidecar(c) {
				decideContainer(p, w, o, c, true, turn, now)
				turn = turn && !starting(p, o, c, now)
			}
		}
		return turn
	}
	ready := true
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if ready && initDone(o, c) && !podstatus.Sidecar(c) {
			continue
		}
		decideContainer(p, w, o, c, true, ready, now)
		ready = ready && initDone(o, c)
	}
	return ready
}

// decideContainer starts, restarts or stops one container. turn says whether
// its predecessors are done; its image is prepared even before.
func decideContainer(p *Plan, w Wanted, o Observed, c *corev1.Container, init, turn bool, now time.Time) {
	pod := w.Pod
	last, any := latest(o, c.Name)
	here := any && o.here(last)
	hash := Hash(c)
	if any && here && last.State != Exited {
		if why, grace := unwanted(pod, c, last, hash, now); why != "" {
			p.stop(o, last, Step{Grace: grace, Hooks: grace > 0, Cause: why, Detail: last.Unhealthy})
			return
		}
		if last.State == Running {
			if !last.Hooked && !o.InFlight[Key{Start, c.Name}] {
				p.add(Step{Kind: Hook, Container: c.Name, ID: last.ID, Cause: Interrupted})
			}
			return
		}
	}
	outgrew := any && restartsFor(pod, c, last)
	if any && last.State == Exited && here && last.Hash == hash && !restarts(pod, c, init, last) {
		return
	}
	next := Step{Kind: Start, Container: c.Name, Round: o.round, Cause: NotStarted}
	if any {
		next.Attempt, next.Crashes = last.Attempt, last.Crashes
		if last.State == Exited {
			next.Attempt, next.Crashes = last.Attempt+1, crashes(last)
			next.Cause, next.Detail = Restarting, fmt.Sprint(last.ExitCode)
			if !here && !o.ended(c, last) || last.Hash != hash || outgrew {
				next.Crashes = 0
			}
		}
		if due := last.FinishedAt.Add(restartDelay(last)); last.State == Exited && (here || o.ended(c, last)) && last.Hash == hash &&
			!outgrew && now.Before(due) {
			p.again(due)
			if shown := last.FinishedAt.Add(startErrorShown); startError(last) != nil && now.Before(shown) {
				p.again(shown) // its status changes then
			}
			return
		}
	}
	if !o.Prepared[c.Name] {
		if !o.InFlight[next.Key()] {
			p.add(Step{Kind: Prepare, Container: c.Name, Attempt: next.Attempt, Cause: Unprepared})
		}
		return
	}
	if turn && o.Volumes && o.Sandbox.ID != "" && !o.Unsized && !o.InFlight[Key{Prepare, c.Name}] {
		p.add(next)
	}
}

// unwanted says why a living instance must end; empty if it may live on.
func unwanted(pod *corev1.Pod, c *corev1.Container, i Container, hash string, now time.Time) (Cause, time.Duration) {
	switch {
	case i.Hash != hash:
		return Changed, graceOf(pod, now)
	case i.State == Running && restartsFor(pod, c, i):
		return Outgrew, graceOf(pod, now)
	case i.HookError != "":
		return HookFailed, graceOf(pod, now)
	case i.Unhealthy != "":
		grace := graceOf(pod, now)
		if g := probeGrace(c, i); g != nil {
			grace = kinds.Seconds(*g)
		}
		return Unhealthy, grace
	}
	return "", 0
}

func probeGrace(c *corev1.Container, i Container) *int64 {
	probe := c.LivenessProbe
	if !i.Started {
		probe = c.StartupProbe
	}
	if probe == nil {
		return nil
	}
	return probe.TerminationGracePeriodSeconds
}

// decideGarbage removes the instances before the last two of each container:
// people ask for the log of the last and of the one before it. A node that has
// too little disk keeps the last.
func decideGarbage(p *Plan, w Wanted, o Observed) {
	kept, why := 1, Superseded
	if w.Spare {
		kept, why = 0, Spared
	}
	for _, c := range o.Containers {
		if last, _ := latest(o, c.Name); c.State == Exited && c.Attempt < last.Attempt-kept {
			p.add(Step{Kind: Remove, Container: c.Name, ID: c.ID, Attempt: c.Attempt, Cause: why})
		}
	}
}

// restarts says whether an exited instance gets a successor.
func restarts(pod *corev1.Pod, c *corev1.Container, init bool, last Container) bool {
	switch {
	case podstatus.Sidecar(c):
		return true
	case init && last.ExitCode == 0:
		return false
	case restartsFor(pod, c, last):
		return true
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		if ruleFor(c, last.ExitCode) != "" {
			return true
		}
		policy = corev1.RestartPolicy(*c.RestartPolicy) // the same words
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return last.ExitCode != 0
	}
	return true
}

// matches says whether a rule that restarts a container is for that exit code.
func matches(on *corev1.ContainerRestartRuleOnExitCodes, code int32) bool {
	if on == nil {
		return false
	}
	switch in := slices.Contains(on.Values, code); on.Operator {
	case corev1.ContainerRestartRuleOnExitCodesOpIn:
		return in
	case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
		return !in
	}
	return false
}

// initialised says that all init containers have done their part: a container
// of the current sandbox exists.
func initialised(pod *corev1.Pod, o Observed) bool {
	if o.Sandbox.ID == "" {
		return false
	}
	for i := range pod.Spec.Containers {
		if last, ok := latest(o, pod.Spec.Containers[i].Name); ok && o.here(last) {
			return true
		}
	}
	return !slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return !initDone(o, &c) })
}

// initDone says that the container's successor may start.
func initDone(o Observed, c *corev1.Container) bool {
	last, ok := latest(o, c.Name)
	if !ok || !o.here(last) {
		return false
	}
	if podstatus.Sidecar(c) {
		return last.State == Running && last.Started && last.Hooked
	}
	return last.State == Exited && last.ExitCode == 0
}

// finished returns the terminal phase that the containers amount to, or "".
func finished(pod *corev1.Pod, o Observed) corev1.PodPhase {
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		last, ok := latest(o, c.Name)
		if ok && last.State == Exited && last.ExitCode != 0 && last.Round >= o.round && !restarts(pod, c, true, last) {
			return corev1.PodFailed
		}
	}
	if len(pod.Spec.Containers) == 0 {
		return ""
	}
	phase := corev1.PodSucceeded
	for i := range pod.Spec.Containers {
		last, ok := latest(o, pod.Spec.Containers[i].Name)
		if !ok || last.State != Exited || last.Round < o.round || restarts(pod, &pod.Spec.Containers[i], false, last) {
			return ""
		}
		if last.ExitCode != 0 {
			phase = corev1.PodFailed
		}
	}
	return phase
}

// graceOf is what is left of the pod's grace period. Without any, no preStop hook runs.
func graceOf(pod *corev1.Pod, now time.Time) time.Duration {
	grace := defaultGrace
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = kinds.Seconds(*g)
	}
	if g := pod.DeletionGracePeriodSeconds; g != nil && pod.DeletionTimestamp != nil {
		grace = min(kinds.Seconds(*g), max(0, pod.DeletionTimestamp.Sub(now)))
	}
	return grace
}

// Hash identifies what of a container's spec needs a new instance when it
// changes: name and image, the only mutable field of a container.
func Hash(c *corev1.Container) string {
	data, _ := json.Marshal([]string{c.Name, c.Image})
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// latest is the newest instance of a container.
func latest(o Observed, name string) (Container, bool) {
	var last Container
	found := false
	for _, c := range o.Containers {
		if c.Name == name && (!found || c.Attempt > last.Attempt) {
			last, found = c, true
		}
	}
	return last, found
}

// liveOf returns the instances that have not exited.
func liveOf(o Observed) []Container {
	var alive []Container
	for _, c := range o.Containers {
		if c.State != Exited {
			alive = append(alive, c)
		}
	}
	return alive
}

func sidecarNames(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.InitContainers {
		if podstatus.Sidecar(&pod.Spec.InitContainers[i]) {
			names = append(names, pod.Spec.InitContainers[i].Name)
		}
	}
	return names
}
