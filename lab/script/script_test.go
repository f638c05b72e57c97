package script

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/internal/kubectl"
	"lockstep/lab/programs"
)

// bin has the programs, and folder is the run's own.
var bin, folder string

func TestMain(m *testing.M) {
	kubectl.Main()
	programs.Main(m, "scenarios of a lab", func(dir string) (err error) {
		folder = dir
		bin, err = programs.Find(dir, map[string]string{"standin": "lockstep/lab/standin"})
		// Scenarios wait more than they work: more than one a core.
		return errors.Join(err, flag.Set("test.parallel", "4"))
	})
}

// newStage makes a stage that the test's end takes down.
func newStage(t *testing.T) *Stage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Down(ctx, folder); err != nil {
			t.Error(err)
		}
	})
	s, err := Up(ctx, Options{
		Dir: folder, Bin: bin, Standin: filepath.Join(folder, "standin"), Prefix: "script-",
		Programs: map[string]func() (string, error){
			"clientgo":           built("clientgo", ".", "lockstep/lab/clientgo"),
			"idle":               built("idle", ".", "lockstep/bench/idle"),
			"csidriver":          built("csidriver", ".", "lockstep/lab/csidriver"),
			"prometheus":         built("prometheus", "../prometheus", "lockstep/lab/prometheus"),
			"kube-state-metrics": built("kube-state-metrics", "../kube-state-metrics", "k8s.io/kube-state-metrics/v2"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// built builds a package of a module when it is first asked for it, and tells where the program is.
func built(name, module, path string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(folder, name)
		return file, programs.BuildIn(module, file, path)
	})
}

// TestScenarios runs the scripts in testdata, each in a test of its name: make lab-test RUN=name.
func TestScenarios(t *testing.T) { newStage(t).Run(t, "testdata") }

// TestCommandsAreDocumented holds the page for those who write scenarios to the commands, and its example to the first one.
func TestCommandsAreDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../docs/development.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	rows := ""
	for _, d := range commands() {
		rows += fmt.Sprintf("| `%s` | %s |\n", strings.ReplaceAll(d.usage, "|", `\|`), d.does)
	}
	if !strings.Contains(page, "\n| command | does |\n| --- | --- |\n"+rows+"\n") {
		t.Errorf("docs/development.md does not have this table:\n%s", rows)
	}
	if raw, err = os.ReadFile("testdata/first.txtar"); err != nil {
		t.Fatal(err)
	}
	example := ""
	for line := range strings.Lines(string(raw)) {
		if line != "\n" {
			line = "    " + line
		}
		example += line
	}
	if !strings.Contains(page, "\n"+example) {
		t.Errorf("docs/development.md does not show testdata/first.txtar as it is")
	}
}
