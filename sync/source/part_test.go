package source

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPart(t *testing.T) {
	now := time.Unix(0, 0)
	p := newPart(15*time.Minute, now)
	for i, step := range []struct{ passed, used, want time.Duration }{
		{0, 0, -time.Hour},
		{0, 15 * time.Minute, 0},         // a whole look is for nothing,
		{0, 30 * time.Minute, time.Hour}, // the next is waited for
		{59 * time.Minute, 0, time.Minute},
		{time.Minute, 0, 0},
		{24 * time.Hour, 0, -time.Hour}, // no more than one is saved
	} {
		now = now.Add(step.passed)
		if got := p.wait(p.used+max(0, step.used-p.used), now); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}

// TestReadingGivesWay: the process that reads a repository has a low priority on all its threads, what it uses is counted,
// and after too much of it the source says until when it waits.
func TestReadingGivesWay(t *testing.T) {
	manifest := blob("good")
	files := treeOf("100644 a.yaml", manifest.hash())
	commit := commitOf(files, "fine")
	e := newEvil(t)
	e.branch("main", commit, whole(commit, files, manifest))
	r := watchWith(t, Options{DataDir: t.TempDir()}, e.source("main"))
	if _, err := r.Look(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	threads := 0
	for _, stat := range below(t) {
		threads++
		if fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]); fields[16] != "10" { // proc(5): nice is the 19th
			t.Errorf("a thread has the niceness %s", fields[16])
		}
	}
	if threads == 0 || r.worker.Used() <= 0 {
		t.Errorf("%d threads used %s", threads, r.worker.Used())
	}

	r.part.left = -time.Minute
	fetched := len(e.wanted)
	var told []string
	for range 2 {
		if err := r.look(t.Context(), func(u Update) { told = append(told, u.Err.Error()) }); err == nil {
			t.Error("looked out of turn")
		}
	}
	want := "it has used 15m0s of a processor and more than a fourth of it since; the next look is at "
	if len(told) == 0 || !strings.Contains(told[0], want) || len(e.wanted) != fetched {
		t.Errorf("told %q, %d fetches", told, len(e.wanted)-fetched)
	}
	r.part.left = r.part.most
	var got *Revision
	if err := r.look(t.Context(), func(u Update) { got = u.Revision }); err != nil || got == nil || got.ID != commit.hash() {
		t.Errorf("afterwards: %v, %v", got, err)
	}
}

// below are the states of the threads of this process' children, as in proc(5).
func below(t *testing.T) (stats []string) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/task/*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // has ended
		}
		if fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:])); fields[1] == strconv.Itoa(os.Getpid()) {
			stats = append(stats, string(stat))
		}
	}
	return stats
}
