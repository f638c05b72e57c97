package clone

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestPassedSinceOpened asks a process that has the clone open for what another one has fetched since.
func TestPassedSinceOpened(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "--bare", "-b", "main")
	var ids []string
	commit := func() {
		t.Helper()
		args := []string{"-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit-tree", "-m", "more",
			git("hash-object", "-t", "tree", "-w", "/dev/null")}
		if len(ids) > 0 {
			args = append(args, "-p", ids[len(ids)-1])
		}
		ids = append(ids, git(args...))
		git("update-ref", "refs/heads/main", ids[len(ids)-1])
		git("repack", "-q", "-d")
	}
	commit()
	commit()
	c := &clone{place: Place{Dir: dir}}
	defer c.shut()
	if got := c.passed(Passed{From: ids[0], To: ids[1], Most: 9}); len(got) > 0 {
		t.Fatalf("between neighbours are %q", got)
	}
	commit()
	commit()
	if got := c.passed(Passed{From: ids[1], To: ids[3], Most: 9}); !slices.Equal(got, ids[2:3]) {
		t.Errorf("passed %q, want %q", got, ids[2:3])
	}
}
