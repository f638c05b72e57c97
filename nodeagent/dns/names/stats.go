package names

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of a histogram's buckets: 0.1 ms to 6.5 s.
var Bounds = [...]float64{0.0001, 0.0004, 0.0016, 0.0064, 0.0256, 0.1024, 0.4096, 1.6384, 6.5536}

// Kind is what answers are counted by.
type Kind struct {
	Protocol string `json:"protocol"` // "udp" or "tcp"
	Type     string `json:"type"`     // "A"; "other" for what nobody asks for
	Rcode    string `json:"rcode"`
}

// Count is a number of answers.
type Count struct {
	Kind
	Answers uint64 `json:"answers"`
}

// Histogram has a count for each of Bounds, not cumulated, and one for what is above; Sum is in seconds.
type Histogram struct {
	Counts [len(Bounds) + 1]uint64 `json:"counts"`
	Sum    float64                 `json:"sum"`
}

// Stats are what a process has done since it began.
type Stats struct {
	PID   int    `json:"pid"`
	Build string `json:"build"`
	// Answers are by kind; their order is without meaning.
	Answers []Count `json:"answers,omitempty"`
	// Latency is of answers, Forward of what upstream was asked for, Index of taking new data in.
	Latency       Histogram `json:"latency"`
	Forward       Histogram `json:"forward"`
	Index         Histogram `json:"index"`
	ForwardErrors uint64    `json:"forwardErrors,omitempty"`
}

type stats struct {
	mu                      sync.Mutex
	answers                 map[Kind]uint64 // bounded: the kinds that are told apart, times Rcodes
	latency, forward, index histogram
	forwardErrors           atomic.Uint64
}

func (s *stats) answered(k Kind, took time.Duration) {
	s.latency.observe(took)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil {
		s.answers = map[Kind]uint64{}
	}
	s.answers[k]++
}

func (s *stats) read() Stats {
	s.mu.Lock()
	answers := maps.Clone(s.answers)
	s.mu.Unlock()
	out := Stats{Latency: s.latency.read(), Forward: s.forward.read(), Index: s.index.read(), ForwardErrors: s.forwardErrors.Load()}
	for k, n := range answers {
		out.Answers = append(out.Answers, Count{k, n})
	}
	return out
}

type histogram struct {
	mu sync.Mutex
	h  Histogram
}

func (h *histogram) observe(d time.Duration) {
	seconds, i := d.Seconds(), 0
	for i < len(Bounds) && seconds > Bounds[i] {
		i++
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.h.Counts[i]++
	h.h.Sum += seconds
}

func (h *histogram) read() Histogram {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.h
}
