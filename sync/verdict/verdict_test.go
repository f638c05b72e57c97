package verdict

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"lockstep/internal/golden"
	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/kinds/v1alpha1"
	"lockstep/sync/health"
)

// moment is what is known at one time. What one of a case does not say is as in the one before it, but for what happened.
type moment struct {
	// After the moment before. What happened since: revisions that were Passed over, drift that was Repaired ("Kind
	// namespace/name: reason"), a forge that has Posted what waited, a Restart of the daemon, the Count of Repaired.
	After    metav1.Duration
	Passed   []string
	Repaired string
	Repairs  int
	Posted   bool
	Restart  bool
	// Found is what nodes have found, of the accepted revision unless it says otherwise.
	Found []drift.Finding

	Folder     bool
	NoForge    bool
	Seen       Seen
	Accepted   string
	Applied    string
	Waiting    string
	Refused    string
	Roll       health.Roll
	LeftOut    string
	Warnings   []string
	FetchError string
	ForgeError string
}

var start = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// TestGolden plays what happens to a source and tells what is decided at each moment. A case has the files "given", its
// moments as YAML documents, and "want"; the driver's part is played: what was decided is written, and remembered.
func TestGolden(t *testing.T) {
	golden.Cases(t, "testdata", func(t *testing.T, c *txtar.Archive) string { return play(t, golden.Section(c, "given")) })
}

func play(t *testing.T, given string) string {
	t.Helper()
	var b strings.Builder
	var m moment
	in := Input{Cluster: "test", Source: "shop", Link: func(revision string) string { return "https://status/" + revision }, Now: start}
	healthy := ""
	for _, doc := range strings.Split(given, "---\n") {
		m.After, m.Passed, m.Repaired, m.Repairs, m.Posted, m.Restart, m.Found = metav1.Duration{}, nil, "", 0, false, false, nil
		if err := yaml.UnmarshalStrict([]byte(doc), &m); err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
		in.Now = in.Now.Add(m.After.Duration)
		if m.Posted {
			for i := range in.Told {
				if in.Told[i].Waiting {
					in.Told[i].Waiting, in.Told[i].At = false, in.Now
				}
			}
		}
		if m.Restart {
			in.Memory = Memory{}
		}
		in.Folder, in.Posts, in.Seen, in.Passed, in.FetchError, in.ForgeError = m.Folder, !m.NoForge, m.Seen, m.Passed,
			m.FetchError, m.ForgeError
		in.Accepted = Accepted{
			Revision: m.Accepted, Applied: m.Applied, Healthy: healthy, Waiting: step(t, m.Waiting),
			Refused: step(t, m.Refused), Roll: m.Roll, LeftOut: m.LeftOut, Warnings: m.Warnings,
		}
		in.Found = found(m, in.Now)
		v := Decide(in)
		if again := Decide(in); !cmp.Equal(v, again) {
			t.Errorf("decided twice, decided otherwise:\n%s", cmp.Diff(v, again))
		}
		write(&b, in.Now, v)
		if v.Healthy {
			healthy = m.Accepted
		}
		in.Memory = v.Memory
		if v.Write {
			in.Live, in.Memory.Written = v.Status, in.Now
		}
		for _, e := range v.Posts {
			in.Told = slices.DeleteFunc(in.Told, func(t Told) bool { return t.Name() == e.Name() })
			in.Told = append(in.Told, Told{Entry: e, Waiting: true})
		}
	}
	return b.String()
}

// found is the drift of a moment: as many objects as were repaired, and what nodes have told.
func found(m moment, now time.Time) (out []drift.Finding) {
	if m.Repaired != "" {
		object, reason, _ := strings.Cut(m.Repaired, ": ")
		for i := range max(1, m.Repairs) {
			out = append(out, drift.Finding{ID: fmt.Sprint(now, i), Kind: drift.Object, Object: object, What: reason, Commit: m.Accepted,
				Repaired: now})
		}
	}
	for _, f := range m.Found {
		if f.Commit == "" {
			f.Commit = m.Accepted
		}
		out = append(out, f)
	}
	return out
}

// step reads "Kind namespace/name: reason"; nil for nothing.
func step(t *testing.T, text string) *Step {
	t.Helper()
	if text == "" {
		return nil
	}
	object, reason, _ := strings.Cut(text, ": ")
	kind, name, _ := strings.Cut(object, " ")
	namespace, name, _ := strings.Cut(name, "/")
	for _, k := range kinds.All {
		if k.Kind == kind {
			return &Step{Key: k.Key(namespace, name), Reason: reason}
		}
	}
	t.Fatalf("no kind %q", kind)
	return nil
}

func write(b *strings.Builder, now time.Time, v Verdict) {
	const clock = time.TimeOnly
	fmt.Fprintf(b, "%s\n", now.Format(clock))
	if v.Healthy {
		fmt.Fprintf(b, "  healthy for the first time\n")
	}
	if v.Write {
		b.WriteString("  status " + text(v.Status) + "\n")
	}
	for _, e := range v.Posts {
		link := strings.TrimPrefix(e.Status.TargetURL, "https://status/")
		fmt.Fprintf(b, "  post on %s, %s: %s: %s\n", link, e.Status.Context, e.Status.State, e.Status.Description)
	}
	if !v.Again.IsZero() {
		fmt.Fprintf(b, "  again at %s\n", v.Again.Format(clock))
	}
}

func text(s v1alpha1.SourceStatus) string {
	out := fmt.Sprintf("%s: %q of %s since %s; accepted %s, applied %s, healthy %d of %d", s.State, s.Message, s.Seen,
		s.Since.Format(time.TimeOnly), s.Accepted, s.Applied, s.Healthy, s.Objects)
	for _, more := range [][2]string{
		{"drift", s.Drift}, {"left out", s.LeftOut}, {"warnings", strings.Join(s.Warnings, "; ")},
		{"fetch", s.FetchError}, {"forge", s.ForgeError}, {"errors", strings.Join(s.Errors, "; ")},
	} {
		if more[1] != "" {
			out += fmt.Sprintf("\n    %s: %s", more[0], more[1])
		}
	}
	return out
}

func TestCut(t *testing.T) {
	if got := Cut("a\x1b[31m\u202e b"); got != `a\x1b[31m\u202e b` {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{
		"base.yaml:10:26: PersistentVolumeClaim shop/data: spec.resources.requests.storage: field can not be less than status.capacity; " +
			"state the size it had": "base.yaml:10:26: PersistentVolumeClaim shop/data: spec.resources.requests.storage: " +
			"field can not be less than status…; state the size it had",
		"base.yaml:10:26: PersistentVolumeClaim shop/data: spec: spec is immutable after creation except resources.requests and others; " +
			"add another one, and keep both until its data are moved": "base.yaml:10:26: PersistentVolumeClaim shop/data: " +
			"spec: spec is immutable after cr…; add another one, and keep both until its data are moved",
	} {
		if got := Cut(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := Cut("a\n b"); got != "a b" {
		t.Errorf("%q", got)
	}
	if got := []rune(Cut(strings.Repeat("ü", 141))); len(got) != 140 || got[139] != '…' {
		t.Errorf("%d characters, ending in %q", len(got), got[len(got)-1])
	}
	if got := Cut(strings.Repeat("ü", 140)); got != strings.Repeat("ü", 140) {
		t.Errorf("%q", got)
	}
}

// TestRefusalFits: that there are more errors is told however long the first one is.
func TestRefusalFits(t *testing.T) {
	long := strings.Repeat("ä", 200)
	for name, c := range map[string]struct {
		errors []string
		text   string
	}{
		"one error":   {[]string{"cart.yaml:14: bad"}, "cart.yaml:14: bad"},
		"two errors":  {[]string{"cart.yaml:14: bad", "x"}, "cart.yaml:14: bad (and 1 more)"},
		"long errors": {[]string{long, "x"}, strings.Repeat("ä", 126) + "… (and 1 more)"},
		"what to do":  {[]string{long + "; mend it", "x"}, strings.Repeat("ä", 117) + "…; mend it (and 1 more)"},
		"kinds": {[]string{"a.yaml:26:7: ServiceMonitor a: kind: ServiceMonitor (monitoring.coreos.com/v1) is not served yet; " +
			"ignoreKinds: [ServiceMonitor.monitoring.coreos.com] in the Source skips it (validate: --ignore-kinds)", "x"},
			"a.yaml:26:7: ServiceMonitor a: kind: ServiceMonitor (monitorin…; " +
				"ignoreKinds: [ServiceMonitor.monitoring.coreos.com] in the So… " +
				"(and 1 more)"},
		"much to do": {[]string{"a; " + long, "x"}, "a; " + strings.Repeat("ä", 123) + "… (and 1 more)"},
	} {
		got := refusal(Seen{Revision: "c1", Refusal: c.errors})
		if got != c.text || len([]rune(Cut(got))) > MaxDescription {
			t.Errorf("%s: %q, want %q", name, got, c.text)
		}
	}
}
