package register

import (
	"testing"
	"time"
)

func TestCrossed(t *testing.T) {
	roomy := Left{Memory: 1 << 30, Node: Space{50, 100, 50, 100}, Images: Space{50, 100, 50, 100}, PIDs: 50, PIDsAtMost: 100}
	for name, c := range map[string]struct {
		change func(*Left)
		want   Pressures
	}{
		"nothing":            {func(*Left) {}, Pressures{}},
		"memory":             {func(l *Left) { l.Memory = 100<<20 - 1 }, Pressures{Memory: true}},
		"memory at the edge": {func(l *Left) { l.Memory = 100 << 20 }, Pressures{}},
		"disk":               {func(l *Left) { l.Node.Bytes = 9 }, Pressures{Disk: true}},
		"disk at the edge":   {func(l *Left) { l.Node.Bytes = 10 }, Pressures{}},
		"inodes":             {func(l *Left) { l.Node.Inodes = 4 }, Pressures{Disk: true}},
		"no inodes":          {func(l *Left) { l.Node.Inodes, l.Node.InodesSize = 0, 0 }, Pressures{}}, // btrfs counts none
		"image disk":         {func(l *Left) { l.Images.Bytes = 14 }, Pressures{Disk: true}},
		"image inodes":       {func(l *Left) { l.Images.Inodes = 4 }, Pressures{Disk: true}},
		"PIDs":               {func(l *Left) { l.PIDs = 4 }, Pressures{PID: true}},
	} {
		left := roomy
		c.change(&left)
		if got := left.Crossed(); got != c.want {
			t.Errorf("%s: Crossed() = %+v, want %+v", name, got, c.want)
		}
	}
}

func TestConditionsAreHeld(t *testing.T) {
	var h Held
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		after   time.Duration
		crossed Pressures
		want    Pressures
	}{
		{0, Pressures{}, Pressures{}},
		{10 * time.Second, Pressures{Disk: true}, Pressures{Disk: true}},
		{20 * time.Second, Pressures{}, Pressures{Disk: true}},
		{4 * time.Minute, Pressures{Disk: true, PID: true}, Pressures{Disk: true, PID: true}},
		{4*time.Minute + holdPressure - 1, Pressures{}, Pressures{Disk: true, PID: true}},
		{4*time.Minute + holdPressure, Pressures{}, Pressures{}},
	} {
		if got := h.Note(c.crossed, now.Add(c.after)); got != c.want {
			t.Errorf("after %s: %+v, want %+v", c.after, got, c.want)
		}
	}
}

func TestReadLeft(t *testing.T) {
	l, err := ReadLeft(1<<50, t.TempDir(), "/")
	if err != nil {
		t.Fatal(err)
	}
	if l.Memory <= 0 || l.Node.Bytes <= 0 || l.Node.Bytes > l.Node.Size || l.Images.Size <= 0 || l.PIDs <= 0 || l.PIDs >= l.PIDsAtMost {
		t.Errorf("ReadLeft() = %+v", l)
	}
	if _, err := ReadLeft(1, "/nonexistent", "/"); err == nil {
		t.Error("a directory that does not exist was measured")
	}
}
