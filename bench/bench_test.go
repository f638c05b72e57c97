package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"lockstep/internal/asroot"
)

func TestMain(m *testing.M) {
	asroot.Main("the benchmarks")
	isolate()
	goleak.VerifyTestMain(m)
}

// program is the lockstep that is measured: the one that the suite built, or one built now.
func program(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("LOCKSTEP_BIN"); dir != "" {
		return filepath.Join(dir, "lockstep")
	}
	path := filepath.Join(t.TempDir(), "lockstep")
	if out, err := exec.Command("go", "build", "-o", path, "lockstep").CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v: %s", err, out)
	}
	return path
}

// TestQuick measures everything in small, once: that the figures can be taken, not what they are.
func TestQuick(t *testing.T) {
	path, scratch := filepath.Join(t.TempDir(), "results.json"), t.TempDir()
	t.Setenv("TMPDIR", scratch)
	if err := bench(t.Context(), options{run: regexp.MustCompile(""), quick: true, lockstep: program(t), results: path}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	if err := json.Unmarshal(raw, &rows); err != nil {
		t.Fatal(err)
	}
	goals := 0
	for _, r := range rows {
		if r.Value <= 0 || r.Unit == "" || (r.Bound != nil && *r.Bound <= 0) {
			// A second without work may cost no tick of the processor's clock, and a few pods no more memory than none.
			if !strings.HasPrefix(r.Unit, "%") && !strings.HasSuffix(r.Name, "beyond none") {
				t.Errorf("no figure: %+v", r)
			}
		}
		if r.Goal != "" {
			goals++
		}
	}
	if goals < 11 {
		t.Errorf("%d goals were measured", goals)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
