package autoscaler

import (
	"encoding/json"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"lockstep/kinds"
)

// memory is what an autoscaler has decided lately, from which stabilisation and rates follow. Kubernetes keeps it in the
// controller's memory; here it is an annotation, so that it outlives the control plane. It is written where it changes alone.
type memory struct {
	// Recommendations are sizes that the metrics asked for, in order of time.
	Recommendations []recommendation `json:"recommendations,omitempty"`
	// Rescales are changes of size, in order of time.
	Rescales []rescale `json:"rescales,omitempty"`
}

// recommendation is a size that was asked for from one turn to another. The last one lasts where it has no Until: every turn
// since At asked for it.
type recommendation struct {
	Replicas int32      `json:"replicas"`
	At       time.Time  `json:"at"`
	Until    *time.Time `json:"until,omitempty"`
}

type rescale struct {
	From int32     `json:"from"`
	To   int32     `json:"to"`
	At   time.Time `json:"at"`
}

// remembered is the memory of an autoscaler: empty where it has none, or somebody has spoilt it.
func remembered(h *autoscalingv2.HorizontalPodAutoscaler) memory {
	var m memory
	if json.Unmarshal([]byte(h.Annotations[kinds.AutoscalerMemory]), &m) != nil {
		return memory{}
	}
	return m
}

// keep puts the memory into an object of the caller's own.
func (m *memory) keep(h *autoscalingv2.HorizontalPodAutoscaler) {
	if len(m.Recommendations)+len(m.Rescales) == 0 {
		delete(h.Annotations, kinds.AutoscalerMemory)
		return
	}
	text, err := json.Marshal(m)
	if err != nil {
		return // of numbers and times nothing fails
	}
	if h.Annotations == nil {
		h.Annotations = map[string]string{}
	}
	h.Annotations[kinds.AutoscalerMemory] = string(text)
}

// begin notes what the target has when it is first seen, and takes back a change of its size that was noted in a turn whose write
// came to nothing.
func (m *memory) begin(current int32, now time.Time) {
	if len(m.Recommendations) == 0 {
		at := stamp(now)
		m.Recommendations = []recommendation{{Replicas: current, At: at, Until: &at}}
	}
	if n := len(m.Rescales); n > 0 && m.Rescales[n-1].From == current && now.Sub(m.Rescales[n-1].At) < period {
		m.Rescales = m.Rescales[:n-1]
	}
}

// recommend notes what the metrics ask for in this turn.
func (m *memory) recommend(replicas int32, now time.Time) {
	if n := len(m.Recommendations); n > 0 && m.Recommendations[n-1].Until == nil && m.Recommendations[n-1].Replicas == replicas {
		return
	}
	m.pause(now)
	m.Recommendations = append(m.Recommendations, recommendation{Replicas: replicas, At: stamp(now)})
}

// pause notes that what was asked for until the turn before is not in this one.
func (m *memory) pause(now time.Time) {
	if n := len(m.Recommendations); n > 0 && m.Recommendations[n-1].Until == nil {
		until := m.Recommendations[n-1].last(now)
		m.Recommendations[n-1].Until = &until
	}
}

// last is when a recommendation was last made before a turn. One that lasts was made in the turn before.
func (r recommendation) last(now time.Time) time.Time {
	if r.Until != nil {
		return *r.Until
	}
	if before := stamp(now.Add(-period)); before.After(r.At) {
		return before
	}
	return r.At
}

func (m *memory) rescaled(from, to int32, now time.Time) {
	m.Rescales = append(m.Rescales, rescale{from, to, stamp(now)})
}

// forget drops what cannot count any more: what is older than all windows, and a recommendation between which and now there was
// both one that was as high and one that was as low.
func (m *memory) forget(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) {
	up, down := windows(h)
	kept := m.Recommendations[:0]
	for i, r := range m.Recommendations {
		later := m.Recommendations[i+1:]
		higher := slices.ContainsFunc(later, func(l recommendation) bool { return l.Replicas >= r.Replicas })
		lower := slices.ContainsFunc(later, func(l recommendation) bool { return l.Replicas <= r.Replicas })
		age := now.Sub(r.last(now))
		if i == len(m.Recommendations)-1 || !higher && age <= down || !lower && age <= up {
			kept = append(kept, r)
		}
	}
	m.Recommendations = kept
	longest := longestPeriod(h)
	m.Rescales = slices.DeleteFunc(m.Rescales, func(r rescale) bool { return now.Sub(r.At) >= longest })
}

// stamp is a time as the memory has it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
