package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
)

// TestGolden decides one case a file: pod.yaml and observed.yaml in, plan and
// status out. The time is 12:00:00.
func TestGolden(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	golden.Sections(t, "testdata", func(t *testing.T, c *txtar.Archive) []txtar.File {
		w := Wanted{Pod: &corev1.Pod{}}
		var o Observed
		for _, f := range c.Files {
			var err error
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
				w.Evicted = Eviction{Message: strings.TrimSuffix(string(f.Data), "\n"), Grace: time.Second}
			case "starved": // the message of a node that has too little, and the pod's grace
				w.Evicted = Eviction{Message: strings.TrimSuffix(string(f.Data), "\n"), Grace: 20 * time.Second, Pressure: true}
			case "shutdown":
				w.Evicted = Eviction{Reason: "Terminated", Message: strings.TrimSuffix(string(f.Data), "\n"), Grace: 20 * time.Second,
					Pressure: true}
			case "moved":
				w.Moved = strings.TrimSuffix(string(f.Data), "\n")
			case "spare":
				w.Spare = true
			case "plan", "status":
			default:
				err = errors.New("no such section")
			}
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
		}
		return []txtar.File{
			{Name: "plan", Data: []byte(render(Decide(w, o, now), now))},
			{Name: "status", Data: []byte(renderStatus(t, w.Pod.Status, Status(w, o, now), now))},
		}
	})
}

func render(p Plan, now time.Time) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s", s)
		if s.Kind == Start {
			fmt.Fprintf(&b, " (attempt %d, crashes %d)", s.Attempt, s.Crashes)
			if s.Round > 0 {
				fmt.Fprintf(&b, " (round %d)", s.Round)
			}
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

// UnmarshalText reads a key as cases write it.
func (k *Key) UnmarshalText(text []byte) error {
	kind, of, _ := strings.Cut(string(text), "/")
	*k = Key{Kind(kind), of}
	return nil
}

// UnmarshalText reads a state as cases write it.
func (s *State) UnmarshalText(text []byte) error {
	for _, known := range []State{Created, Running, Exited} {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("no state is called %q", text)
}

// renderStatus has a line for each condition and each other value of a status that the API does not have yet; a dash
// stands for one that it has to drop.
func renderStatus(t *testing.T, old, s corev1.PodStatus, now time.Time) string {
	t.Helper()
	before, after := map[string]string{}, map[string]string{}
	for to, status := range map[*map[string]string]corev1.PodStatus{&before: old, &after: s} {
		for _, c := range status.Conditions {
			words := []string{string(c.Status), c.Reason, c.Message}
			if !c.LastTransitionTime.Time.Equal(now) {
				words = append(words, "since "+c.LastTransitionTime.UTC().Format(time.TimeOnly))
			}
			(*to)["conditions["+string(c.Type)+"]"] = strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), ", ")
		}
		status.Conditions = nil
		data, err := json.Marshal(status)
		var tree any
		if err == nil {
			err = json.Unmarshal(data, &tree)
		}
		if err != nil {
			t.Fatal(err)
		}
		flatten(*to, "", tree)
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			after[path] = "-"
		}
	}
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if before[path] != after[path] {
			fmt.Fprintf(&b, "%s: %s\n", path, after[path])
		}
	}
	return b.String()
}

// flatten adds a tree's values by their paths. Elements of lists go by their name, else by their place.
func flatten(to map[string]string, path string, tree any) {
	switch tree := tree.(type) {
	case map[string]any:
		for key, value := range tree {
			flatten(to, strings.TrimPrefix(path+"."+key, "."), value)
		}
	case []any:
		for i, value := range tree {
			place := fmt.Sprint(i)
			if m, ok := value.(map[string]any); ok {
				if name, ok := m["name"].(string); ok {
					place = name
					delete(m, "name")
				}
			}
			flatten(to, fmt.Sprintf("%s[%s]", path, place), value)
		}
	case nil:
	default:
		if text := fmt.Sprint(tree); text != "" {
			to[path] = text
		}
	}
}
