package nodeagent

import (
	"testing"
	"time"

	"lockstep/nodeagent/logs"
)

func TestLossesAreToldNowAndThen(t *testing.T) {
	at := time.Unix(1000, 0)
	known := losses{}
	look := func(after time.Duration, lost ...int64) int {
		var streams []logs.StreamStats
		for i, n := range lost {
			streams = append(streams, logs.StreamStats{Stream: logs.Stream{ID: string(rune('a' + i))}, DroppedLines: n})
		}
		return len(known.note(streams, at.Add(after)))
	}
	for _, step := range []struct {
		what  string
		after time.Duration
		lost  []int64
		want  int
	}{
		{"nothing lost", 0, []int64{0, 0}, 0},
		{"one", time.Second, []int64{5, 0}, 1},
		{"more of it", 2 * time.Second, []int64{9, 0}, 0},
		{"another", 3 * time.Second, []int64{9, 1}, 1},
		{"more of it, later", lossPause + time.Second, []int64{9, 1}, 1},
		{"no more", 3 * lossPause, []int64{9, 1}, 0},
		{"closed and open again", 4 * lossPause, nil, 0},
		{"a new one", 4 * lossPause, []int64{2}, 1},
	} {
		if got := look(step.after, step.lost...); got != step.want {
			t.Errorf("%s: %d are told, want %d", step.what, got, step.want)
		}
	}
}
