// Package pods decides what a node does next for one pod.
package pods

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Wanted is what the cluster asks of this node for one pod.
type Wanted struct {
	// Pod is the newest known object; its status is the one stored in the API.
	Pod *corev1.Pod
	// Gone says that the API no longer has the pod, or has it on another node:
	// everything of it is removed, and nothing is reported.
	Gone bool
	// Resize is a change of the pod's resources that the node has not taken over; nil for none.
	Resize *Resize
	// Rejected, when not empty, is why this node refuses to run the pod (for
	// example OutOfcpu); the pod fails without starting anything.
	Rejected, RejectedMessage string
	// Evicted is why this node ends the pod early, if it does; the pod fails for good.
	Evicted Eviction
	// Moved is which tag of the pod's images is elsewhere now; empty where none is, or nobody asks for it.
	Moved string
	// Spare says that the node has too little disk: of containers that ended only what was last is kept.
	Spare bool
}

// ReasonEvicted is that of a pod which the node ends early, or does not take, because something would run short.
const ReasonEvicted = "Evicted"

// Eviction is how a node ends a pod early. The zero value is none.
type Eviction struct {
	Message string
	// Reason is that of the pod's failure; empty means ReasonEvicted.
	Reason string
	// Grace is what the pod gets instead of its own grace period.
	Grace time.Duration
	// Pressure says that it is not the pod's doing: the node has too little for all that run.
	Pressure bool
}

// Observed is what exists of one pod on this node at one moment.
type Observed struct {
	// Sandbox is the pod's namespaces and network.
	Sandbox Sandbox
	// Volumes says that every volume of the pod is set up.
	Volumes bool
	// Traces says that something besides containers is left on the machine:
	// a sandbox, whole or in part, volumes or directories.
	Traces bool
	// Prepared has the names of containers whose image and writable layer are
	// ready for the attempt that would be started next.
	Prepared map[string]bool
	// Containers are all known instances, in any order.
	Containers []Container
	// Failures has the last failure of each step; one that succeeded has none.
	Failures map[Key]Failure
	// Pulls words how far the pulls of images are that last, by the container that waits.
	Pulls map[string]string
	// InFlight are the steps that are being carried out.
	InFlight map[Key]bool
	// Unsized says that the pod's cgroup, or a container that need not be restarted for it, has other resources than it is to have.
	Unsized bool
	// Deleted says that the API has confirmed the final deletion.
	Deleted bool
	// Reported says that the API has confirmed the status in which every
	// container is terminated.
	Reported bool
	// HostIPs are the node's addresses, the first is the primary one.
	HostIPs []string
	// Health is how the devices are that containers have, by the containers' names.
	Health map[string][]corev1.ResourceStatus
	// RecursiveReadOnly says that containers can mount with all that is mounted below read-only.
	RecursiveReadOnly bool

	round int  // that the pod is in
	ends  bool // the round's containers end, for the next
}

// Sandbox is a pod's pinned namespaces and its addresses.
type Sandbox struct {
	// ID changes whenever the sandbox is made anew; empty means there is none.
	ID string
	// IPs are the pod's addresses, one a family.
	IPs []string
}

// State is where an instance of a container stands. It only moves forward.
type State int

const (
	// Created has been made and not been started.
	Created State = iota
	// Running has a living process.
	Running
	// Exited has ended; ExitCode and FinishedAt are set.
	Exited
)

func (s State) String() string {
	switch s {
	case Created:
		return "Created"
	case Running:
		return "Running"
	}
	return "Exited"
}

// Container is one instance of a container of the pod.
type Container struct {
	ID      string // as containerd names it
	Name    string // as the pod's spec names it
	Attempt int    // 0 for the first instance of that name
	Sandbox string // ID of the sandbox it was made in
	Hash    string // of the container's spec that it was made from
	// Round counts the restarts of all containers before this instance.
	Round int `json:",omitempty"`
	// Crashes counts the restarts in a row before this instance, none of
	// which ran long enough to be forgiven.
	Crashes int

	State      State
	StartedAt  time.Time // zero in one that exited: it could not be started
	FinishedAt time.Time
	ExitCode   int32
	Signal     int32
	Reason     string // of an exit; empty means by the exit code
	Message    string
	Image      string
	ImageID    string
	// User is who its first process began as; nil if nobody remembers.
	User *corev1.ContainerUser
	// Resources are what it runs with; nil: those that the pod states.
	Resources *corev1.ResourceRequirements
	// PodResources are the pod's own that it runs with, where Resources are known; nil: the pod states none.
	PodResources *corev1.ResourceRequirements `json:",omitempty"`
	// Removed says that only the record of its exit is left.
	Removed bool

	// Hooked says that its postStart hook has succeeded, or that it has none.
	Hooked bool
	// HookError is why its postStart hook failed.
	HookError string
	// Started is the startup probe's verdict, Ready the readiness probe's;
	// without such a probe they are true while it runs.
	Started, Ready bool
	// Unhealthy is why the liveness or startup probe gave up; empty if neither has.
	Unhealthy string
}

// Failure is the last thing that went wrong with a step.
type Failure struct {
	Reason  string // as Kubernetes names it, for example ErrImagePull
	Message string
	Count   int // in a row, from 1
	At      time.Time
	// Until, when set, is when to try again, instead of the step's own backoff.
	Until time.Time
	// Interrupted says that it is not the step's doing: it goes on where it was,
	// and what waits for it waits on.
	Interrupted bool
}

// Kind is what a step does.
type Kind string

const (
	Volumes  Kind = "Volumes"  // set up all volumes
	Setup    Kind = "Sandbox"  // make namespaces, cgroup and network
	Prepare  Kind = "Prepare"  // get the image and a writable layer of Container
	Size     Kind = "Resize"   // give the pod's cgroup and its running containers their resources
	Start    Kind = "Start"    // create and start Container as Attempt
	Hook     Kind = "Hook"     // run the postStart hook of ID
	Stop     Kind = "Stop"     // end ID within Grace
	Remove   Kind = "Remove"   // remove the exited ID, keep its exit record
	Teardown Kind = "Teardown" // remove sandbox and volumes
	Purge    Kind = "Purge"    // remove all containers, records and directories
	Delete   Kind = "Delete"   // delete the pod in the API
)

// Step is one thing to do for a pod. Steps of one plan may run together.
type Step struct {
	Kind      Kind
	Container string // name, for Prepare, Start, Stop, Remove
	ID        string // instance, for Stop and Remove
	Attempt   int    // for Start
	Crashes   int    // for Start
	Round     int    // for Start
	// Grace is how long Stop waits between the stop signal and SIGKILL.
	Grace time.Duration
	// Hooks says that Stop runs the preStop hook first, within Grace.
	Hooks bool
	// Cause is why the step is taken, Detail what the cause is in this case; empty for most.
	Cause  Cause
	Detail string
}

// Cause is why a step is taken, in words where those are always the same.
type Cause string

const (
	Unbound  Cause = "the pod is not bound to this node"
	Deleting Cause = "the pod is being deleted"
	Rejected Cause = "the node refuses the pod" // Detail says why
	Finished Cause = "the pod has finished"
	Evicted  Cause = "the pod is evicted"
	Shutdown Cause = "the node is shutting down"
	Overdue  Cause = "the pod was active longer than its deadline"
	AllDown  Cause = "everything of the pod is down"

	NoVolumes   Cause = "the pod's volumes are not set up"
	NoSandbox   Cause = "the pod has no sandbox"
	SandboxGone Cause = "the pod's sandbox is gone"

	Unprepared  Cause = "the container's image and layer are not ready"
	NotStarted  Cause = "the container has not been started"
	Restarting  Cause = "the container exited" // Detail is its exit code
	Interrupted Cause = "the container's postStart hook was interrupted"
	HookFailed  Cause = "FailedPostStartHook" // as the kubelet says it
	Changed     Cause = "the container's definition changed"
	Unhealthy   Cause = "the container is unhealthy" // Detail says which probe failed
	Resized     Cause = "the pod's resources changed"
	Outgrew     Cause = "the container's resources changed"
	Superseded  Cause = "two newer instances exist"
	Spared      Cause = "a newer instance exists, and the node has too little disk"
	RestartsAll Cause = "a container's exit restarts all containers"
)

// Key is what a step works on; two steps with one key never run together.
type Key struct {
	Kind Kind
	// Of is a container's name for Prepare and Start, an instance's ID for Hook, Stop and Remove, and else empty: the pod.
	Of string
}

func (k Key) String() string {
	if k.Of == "" {
		return string(k.Kind)
	}
	return string(k.Kind) + "/" + k.Of
}

// Touches says whether a step with the key may change the container's instances.
func (k Key) Touches(container string) bool {
	switch k.Kind {
	case Prepare, Start:
		return k.Of == container
	case Setup, Teardown, Purge:
		return true
	}
	return false
}

// Key is what the step works on.
func (s Step) Key() Key { return Key{s.Kind, cmp.Or(s.ID, s.Container)} }

// Reason is the step's cause in words.
func (s Step) Reason() string {
	switch s.Cause {
	case Rejected:
		return s.Detail
	case Restarting:
		return "the container exited with code " + s.Detail
	case Changed:
		return fmt.Sprintf("Container %s definition changed", s.Container)
	case Outgrew:
		return fmt.Sprintf("Container %s resize requires restart", s.Container)
	case Unhealthy:
		return fmt.Sprintf("Container %s %s", s.Container, s.Detail)
	}
	return string(s.Cause)
}

func (s Step) String() string { return fmt.Sprintf("%s: %s", s.Key(), s.Reason()) }

// Plan is what a decision asks for.
type Plan struct {
	Steps []Step
	// Cancel are the steps in flight that no longer serve.
	Cancel []Key
	// Again is when to look again without being woken; zero means never.
	Again time.Time
	// Done says that nothing of the pod is left and nobody asks for it.
	Done bool
}

func (p *Plan) add(s Step) { p.Steps = append(p.Steps, s) }

// again asks to be woken at t, or earlier.
func (p *Plan) again(t time.Time) {
	if p.Again.IsZero() || t.Before(p.Again) {
		p.Again = t
	}
}
