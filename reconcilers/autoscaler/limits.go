package autoscaler

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// stabilization is Kubernetes' (--horizontal-pod-autoscaler-downscale-stabilization).
const stabilization = 5 * time.Minute

// windows are those over which recommendations are looked at before the size grows, and before it shrinks.
func windows(h *autoscalingv2.HorizontalPodAutoscaler) (up, down time.Duration) {
	down = stabilization
	if b := h.Spec.Behavior; b != nil {
		if w := b.ScaleUp.StabilizationWindowSeconds; w != nil {
			up = seconds(*w)
		}
		if w := b.ScaleDown.StabilizationWindowSeconds; w != nil {
			down = seconds(*w)
		}
	}
	return up, down
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// longestPeriod is that of all policies.
func longestPeriod(h *autoscalingv2.HorizontalPodAutoscaler) (longest time.Duration) {
	if b := h.Spec.Behavior; b != nil {
		for _, rules := range []*autoscalingv2.HPAScalingRules{b.ScaleUp, b.ScaleDown} {
			for _, p := range rules.Policies {
				longest = max(longest, seconds(p.PeriodSeconds))
			}
		}
	}
	return longest
}

// normalize makes what the metrics ask for what the target gets, and says what kept it from more.
func (t *turn) normalize(proposed int32) int32 {
	stable := t.stabilize(proposed)
	desired, reason, message := t.limit(stable)
	limited := corev1.ConditionTrue
	if desired == stable {
		limited = corev1.ConditionFalse
	}
	t.set(autoscalingv2.ScalingLimited, limited, reason, message)
	return desired
}

// stabilize holds what is proposed against what was proposed lately: the size shrinks to the highest of the window's, and grows
// to the lowest.
func (t *turn) stabilize(proposed int32) int32 {
	lowest, highest := proposed, proposed
	up, down := windows(t.hpa)
	behaves := t.hpa.Spec.Behavior != nil
	for _, r := range t.memory.Recommendations {
		age := t.now.Sub(r.last(t.now))
		if age < up {
			lowest = min(lowest, r.Replicas)
		}
		if age < down || age == down && !behaves {
			highest = max(highest, r.Replicas)
		}
	}
	t.memory.recommend(proposed, t.now)
	stable := highest
	if behaves {
		stable = min(max(t.current, lowest), highest)
	}
	reason, message := "ReadyForNewScale", "recommended size matches current size"
	switch {
	case stable == proposed:
	case behaves && proposed >= t.current:
		reason = "ScaleUpStabilized"
		message = "recent recommendations were lower than current one, applying the lowest recent recommendation"
	default:
		reason = "ScaleDownStabilized"
		message = "recent recommendations were higher than current one, applying the highest recent recommendation"
	}
	t.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, message)
	return stable
}

const (
	within    = "the desired count is within the acceptable range"
	tooMany   = "the desired replica count is more than the maximum replica count"
	tooFew    = "the desired replica count is less than the minimum replica count"
	tooFast   = "the desired replica count is increasing faster than the maximum scale rate"
	tooFastIn = "the desired replica count is decreasing faster than the maximum scale rate"
)

// limit bounds a size by the autoscaler's own bounds, and by how fast the target may grow and shrink.
func (t *turn) limit(desired int32) (allowed int32, reason, message string) {
	most, least := t.hpa.Spec.MaxReplicas, t.least
	b := t.hpa.Spec.Behavior
	switch {
	case b == nil:
		fastest := clamp(math.Max(2*float64(t.current), 4)) // twice as many, or four
		switch {
		case desired < least:
			return least, "TooFewReplicas", tooFew
		case desired > fastest && most > fastest:
			return fastest, "ScaleUpLimit", tooFast
		case desired > most:
			return most, "TooManyReplicas", tooMany
		}
	case desired > t.current:
		fastest := max(t.current, t.rate(b.ScaleUp, +1))
		switch {
		case desired > fastest && most > fastest:
			return fastest, "ScaleUpLimit", tooFast
		case desired > most:
			return most, "TooManyReplicas", tooMany
		}
	case desired < t.current:
		fastest := min(t.current, t.rate(b.ScaleDown, -1))
		switch {
		case desired < fastest && least < fastest:
			return fastest, "ScaleDownLimit", tooFastIn
		case desired < least:
			return least, "TooFewReplicas", tooFew
		}
	}
	return desired, "DesiredWithinRange", within
}

// rate is the size that the policies of one direction, +1 or -1, allow to reach now.
func (t *turn) rate(rules *autoscalingv2.HPAScalingRules, direction int) int32 {
	if *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return t.current
	}
	// The largest change is the default.
	highest := direction > 0 != (*rules.SelectPolicy == autoscalingv2.MinChangePolicySelect)
	result := int32(math.MaxInt32)
	if highest {
		result = math.MinInt32
	}
	for _, p := range rules.Policies {
		began := t.current
		for _, r := range t.memory.Rescales {
			if t.now.Sub(r.At) < seconds(p.PeriodSeconds) {
				began -= r.To - r.From
			}
		}
		size := float64(began) + float64(direction)*float64(p.Value)
		if p.Type == autoscalingv2.PercentScalingPolicy {
			size = float64(began) * (1 + float64(direction)*float64(p.Value)/100)
			if direction > 0 {
				size = math.Ceil(size) // or it might never grow
			}
		}
		proposed := clamp(size)
		if highest {
			result = max(result, proposed)
		} else {
			result = min(result, proposed)
		}
	}
	return result
}

// clamp is a size that may be more than a size can be.
func clamp(n float64) int32 { return int32(math.Max(math.Min(n, math.MaxInt32), math.MinInt32)) }
