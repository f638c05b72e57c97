package sync

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lockstep/sync/forge/forgetest"
)

// TestEveryCommitGetsItsWord: of several commits between two looks each is told what became of it, once, whether they were
// pushed together or one by one, and also where the daemon did not run meanwhile; what has a word keeps it.
func TestEveryCommitGetsItsWord(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	data := func(o *Options) { o.DataDir = dir }
	files := func(color string) map[string]string {
		return map[string]string{"settings.yaml": strings.NewReplacer("shop", "default", "blue", color).Replace(settings)}
	}
	w.push("before the daemon", files("red"))
	first := w.push("first", files("blue"))
	s, stop := w.start(data)
	w.receives(first, "success")
	if got := w.texts(w.git("rev-parse", "HEAD~1"), judged); len(got) != 0 {
		t.Errorf("a commit before the first look was told %q", got)
	}
	shas := []string{w.push("one", files("green")), w.push("two", files("white")), w.push("three", files("black"))}
	s.poke()
	w.receives(shas[2], "success")
	for _, sha := range shas[:2] {
		w.receives(sha, "error: superseded by "+shas[2][:12]+" before it was applied")
	}
	stop()
	missed, last := w.push("missed", files("grey")), w.push("last", files("brown"))
	s, _ = w.start(data)
	w.receives(last, "success")
	w.receives(missed, "error: superseded by "+last[:12])

	w.git("reset", "-q", "--hard", shas[2])
	var many []string
	for i := range maxPassed + 3 {
		w.git("commit", "-q", "--allow-empty", "-m", fmt.Sprint(i))
		many = append(many, w.git("rev-parse", "HEAD"))
	}
	forced := w.push("forced", files("pink"), "--force")
	s.poke()
	w.receives(forced, "success")
	for i, sha := range many {
		if i < 3 {
			continue
		}
		w.receives(sha, "error: superseded by "+forced[:12])
	}
	time.Sleep(50 * time.Millisecond)
	for _, sha := range append(many[:3], w.git("rev-parse", shas[0]+"~2")) {
		if got := w.texts(sha, judged); len(got) != 0 {
			t.Errorf("%s was told %q", sha, got)
		}
	}
	for _, sha := range []string{first, shas[2], last, forced, shas[0], missed} {
		if got := w.texts(sha, judged); len(got) != 1 {
			t.Errorf("%s was told %q", sha, got)
		}
	}
}

// TestPassedOverWhileTheForgeIsAway: the word waits like any other.
func TestPassedOverWhileTheForgeIsAway(t *testing.T) {
	w := newWorld(t)
	files := func(color string) map[string]string {
		return map[string]string{"settings.yaml": strings.NewReplacer("shop", "default", "blue", color).Replace(settings)}
	}
	first := w.push("first", files("blue"))
	s, _ := w.start()
	w.receives(first, "success")
	w.forge.Outage(forgetest.Fault{Code: 503})
	one, two := w.push("one", files("red")), w.push("two", files("green"))
	s.poke()
	w.until("decided", func() bool { return w.status().Accepted == two })
	w.forge.Heal()
	w.receives(one, "error: superseded by "+two[:12])
	w.receives(two, "success")
}
