package pods

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden decides one case a file: pod.yaml and observed.yaml in, plan and
// status out. The time is 12:00:00.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := Wanted{Pod: &corev1.Pod{}}
			var o Observed
			want := map[string]string{}
			for _, f := range ar.Files {
				switch f.Name {
				case "pod.yaml":
					err = yaml.UnmarshalStrict(f.Data, w.Pod)
				case "observed.yaml":
					err = yaml.UnmarshalStrict(f.Data, &o)
				case "gone":
					w.Gone = true
				case "rejected":
					w.Rejected, w.RejectedMessage, _ = strings.Cut(strings.TrimSuffix(string(f.Data), "\n"), ": ")
				case "evicted":
					w.Evicted = strings.TrimSuffix(string(f.Data), "\n")
				default:
					want[f.Name] = string(f.Data)
				}
				if err != nil {
					t.Fatalf("%s: %v", f.Name, err)
				}
			}
			got := map[string]string{"plan": render(Decide(w, o, now), now), "status": renderStatus(t, Status(w, o, now))}
			if *update {
				kept := ar.Files[:0]
				for _, f := range ar.Files {
					if f.Name != "plan" && f.Name != "status" {
						kept = append(kept, f)
					}
				}
				ar.Files = append(kept, txtar.File{Name: "plan", Data: []byte(got["plan"])}, txtar.File{Name: "status", Data: []byte(got["status"])})
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func render(p Plan, now time.Time) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s", s)
		if s.Kind == Start {
			fmt.Fprintf(&b, " (attempt %d, crashes %d)", s.Attempt, s.Crashes)
		}
		if s.Kind == Stop {
			fmt.Fprintf(&b, " (grace %s, hooks %t)", s.Grace, s.Hooks)
		}
		b.WriteByte('\n')
	}
	for _, c := range p.Cancel {
		fmt.Fprintln(&b, "cancel", c)
	}
	if !p.Again.IsZero() {
		fmt.Fprintln(&b, "again in", p.Again.Sub(now))
	}
	if p.Done {
		fmt.Fprintln(&b, "done")
	}
	return b.String()
}

func renderStatus(t *testing.T, s corev1.PodStatus) string {
	t.Helper()
	data, err := yaml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
