package pods

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// A pod's containers are in one round until a rule of one that exited restarts all of them: then those that run end, and all,
// init containers first, are started anew in the next round, in the same sandbox, as in a new one.

// inRounds returns what was observed with the round that the pod is in, and whether that is about to end.
func inRounds(pod *corev1.Pod, o Observed) Observed {
	o.round, o.ends = 0, false
	if !mayRestartAll(pod) {
		return o
	}
	for _, c := range o.Containers {
		o.round = max(o.round, c.Round)
	}
	if !restartsAll(pod, o) {
		return o
	}
	starting := false
	for key := range o.InFlight {
		starting = starting || key.Kind == Start || key.Kind == Hook
	}
	if starting || len(liveOf(o)) > 0 {
		o.ends = true
	} else {
		o.round++
	}
	return o
}

// here says that an instance is of the pod's sandbox and round: one that is not is as good as none.
func (o Observed) here(c Container) bool { return c.Sandbox == o.Sandbox.ID && c.Round >= o.round }

// ended says that it was this exit of a container that ended a round. It backs off before it begins in another one, or a program that
// ends at once would have its pod's containers made anew as fast as the node can.
func (o Observed) ended(c *corev1.Container, last Container) bool {
	return last.State == Exited && last.Sandbox == o.Sandbox.ID && last.Round < o.round &&
		ruleFor(c, last.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers
}

// restartsAll says that a container of the round has exited so that all are to be restarted.
func restartsAll(pod *corev1.Pod, o Observed) bool {
	for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range cs {
			last, ok := latest(o, cs[i].Name)
			if ok && last.State == Exited && last.Round >= o.round &&
				ruleFor(&cs[i], last.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

// restartingAll says that all containers are being restarted: until the first of the next round is there.
func restartingAll(o Observed) bool {
	return o.ends || o.round > 0 && !slices.ContainsFunc(o.Containers, func(c Container) bool { return c.Round >= o.round })
}

// mayRestartAll says that a container of the pod has such a rule.
func mayRestartAll(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

// ruleFor is the action of the first rule that is for an exit code; empty: none is.
func ruleFor(c *corev1.Container, code int32) corev1.ContainerRestartRuleAction {
	for _, r := range c.RestartPolicyRules {
		if matches(r.ExitCodes, code) {
			return r.Action
		}
	}
	return ""
}

// decideRoundsEnd ends what runs, without preStop hooks and grace as the kubelet does it.
func decideRoundsEnd(p *Plan, w Wanted, o Observed) {
	p.cancel(o, Start, Hook)
	p.stopInOrder(w.Pod, o, Step{Cause: RestartsAll})
}
