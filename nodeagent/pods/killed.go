package pods

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds/drift"
)

// Exit is how a container's first process ended, and what the node knows of why.
type Exit struct {
	Code int32
	// OOM says that the kernel killed a process of it for lack of memory, Ours that the node was ending it.
	OOM, Ours bool
	At        time.Time
}

// DriftOf names a pod as findings do.
func DriftOf(pod *corev1.Pod) *drift.Pod {
	return &drift.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}

// killedCode is the exit code of what SIGKILL has ended.
const killedCode = 128 + 9

// Struck is what is found of a container that somebody killed; false where it ended otherwise. A process that is the first of its PID
// namespace takes no SIGKILL from its own container, and every other signal ends it only where it wants to be ended by it, so that this
// is the one that tells. A program that ends with that code by itself, as shells do whose last command was killed, looks the same.
func Struck(pod *corev1.Pod, c *corev1.Container, inst Container, exit Exit, now time.Time) (drift.Finding, bool) {
	if exit.Code != killedCode || exit.OOM || exit.Ours || c == nil || pod.DeletionTimestamp != nil {
		return drift.Finding{}, false
	}
	f := drift.Finding{
		ID: "killed/" + inst.ID, Kind: drift.Killed, Pod: DriftOf(pod), Place: c.Name,
		What: fmt.Sprintf("exit code %d (SIGKILL), restart %d", exit.Code, inst.Attempt), Noticed: now, Since: exit.At,
		Evidence: []string{
			fmt.Sprintf("container %s ended %s, began %s", inst.ID, exit.At.UTC().Format(time.RFC3339Nano),
				inst.StartedAt.UTC().Format(time.RFC3339Nano)),
			"this node was not ending it, and the kernel killed nothing of it for lack of memory",
		},
	}
	switch share := pod.Spec.ShareProcessNamespace; {
	case pod.Spec.HostPID:
		f.Evidence = append(f.Evidence, "it has the host's PID namespace: any process of its user may have sent the signal")
	case share != nil && *share:
		f.Evidence = append(f.Evidence, "its pod shares a PID namespace: a process of it may have sent the signal, or that namespace ended")
	default:
		f.Evidence = append(f.Evidence, "it has a PID namespace of its own: the signal came from outside, or the program ended so itself")
	}
	inst.State, inst.ExitCode = Exited, exit.Code
	if f.Open = restarts(pod, c, false, inst); !f.Open {
		f.How = "it is not restarted: its pod's restartPolicy is " + string(pod.Spec.RestartPolicy)
	}
	return f, true
}

// Restarted is the finding of a killed container whose successor runs.
func Restarted(f drift.Finding, attempt int, now time.Time) drift.Finding {
	f.Repaired, f.Open, f.How = now, false, fmt.Sprintf("restarted, as restart %d", attempt)
	return f
}
