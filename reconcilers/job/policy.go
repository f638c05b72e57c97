package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// ruling is what the policy says of a failed pod.
type ruling struct {
	counts     bool   // towards the limits
	failsIndex bool   // at once
	failsJob   string // why; empty: it does not
}

// policy returns what the first rule that matches a failed pod says of it.
func policy(j *batchv1.Job, p *corev1.Pod) ruling {
	if j.Spec.PodFailurePolicy == nil {
		return ruling{counts: true}
	}
	for i, rule := range j.Spec.PodFailurePolicy.Rules {
		var cause string
		switch {
		case rule.OnExitCodes != nil:
			c := exited(&p.Status, rule.OnExitCodes)
			if c == nil {
				continue
			}
			cause = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d", c.Name, p.Namespace, p.Name,
				c.State.Terminated.ExitCode)
		default:
			c := conditioned(&p.Status, rule.OnPodConditions)
			if c == nil {
				continue
			}
			cause = fmt.Sprintf("Pod %s/%s has condition %v", p.Namespace, p.Name, c.Type)
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return ruling{}
		case batchv1.PodFailurePolicyActionFailIndex:
			return ruling{counts: true, failsIndex: true}
		case batchv1.PodFailurePolicyActionFailJob:
			return ruling{counts: true, failsJob: fmt.Sprintf("%s matching %v rule at index %d", cause, rule.Action, i)}
		}
		return ruling{counts: true}
	}
	return ruling{counts: true}
}

func exited(s *corev1.PodStatus, want *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, c := range slices.Concat(s.ContainerStatuses, s.InitContainerStatuses) {
		if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 ||
			want.ContainerName != nil && *want.ContainerName != c.Name {
			continue
		}
		if slices.Contains(want.Values, c.State.Terminated.ExitCode) == (want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return &c
		}
	}
	return nil
}

func conditioned(s *corev1.PodStatus, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if slices.ContainsFunc(patterns, func(p batchv1.PodFailurePolicyOnPodConditionsPattern) bool {
			return p.Type == c.Type && p.Status == c.Status
		}) {
			return c
		}
	}
	return nil
}

// successful returns the rule of the success policy that the indexes which have succeeded fulfil.
func successful(j *batchv1.Job, done intervals) (message string, ok bool) {
	if j.Spec.SuccessPolicy == nil || len(done) == 0 {
		return "", false
	}
	for i, rule := range j.Spec.SuccessPolicy.Rules {
		among, all := done.total(), -1
		if rule.SucceededIndexes != nil {
			asked := parse(*rule.SucceededIndexes, completions(j))
			if len(asked) == 0 {
				continue
			}
			among, all = common(asked, done), asked.total()
		}
		if among == all || rule.SucceededCount != nil && among >= int(*rule.SucceededCount) {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}

// common counts the indexes that are in both.
func common(a, b intervals) (n int) {
	for len(a) > 0 && len(b) > 0 {
		n += max(0, min(a[0].last, b[0].last)-max(a[0].first, b[0].first)+1)
		if a[0].last < b[0].last {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return n
}
