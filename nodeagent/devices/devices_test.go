package devices

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"example.com/gpu=2":                                 "{example.com/gpu 2 []}",
		"example.com/gpu=0":                                 "{example.com/gpu 0 []}",
		"example.com/gpu=example.com/gpu=0":                 "{example.com/gpu 1 [example.com/gpu=0]}",
		"example.com/gpu=nvidia.com/gpu=a,nvidia.com/gpu=b": "{example.com/gpu 2 [nvidia.com/gpu=a nvidia.com/gpu=b]}",
		"example.com/gpu":                                   "!want NAME=COUNT",
		"gpu=2":                                             "!no name of an extended resource",
		"kubernetes.io/gpu=2":                               "!no name of an extended resource",
		"requests.example.com/gpu=2":                        "!no name of an extended resource",
		"example.com/gpu=-1":                                "!there cannot be -1",
		"example.com/gpu=two":                               "!neither a number nor a device's name",
		"example.com/gpu=example.com/gpu=0,":                "!neither a number nor a device's name",
	} {
		r, err := Parse(text)
		got := fmt.Sprint(r)
		if problem, bad := strings.CutPrefix(want, "!"); bad != (err != nil) || err == nil && got != want ||
			err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
	gpu := Resource{Name: "example.com/gpu", Count: 1, Devices: []string{"example.com/gpu=0"}}
	for _, c := range []struct {
		also Resource
		want bool
	}{
		{Resource{Name: "example.com/nic", Count: 2}, true}, {Resource{Name: "example.com/gpu", Count: 2}, false},
		{Resource{Name: "example.com/nic", Devices: []string{"example.com/gpu=0"}}, false},
	} {
		if err := Check([]Resource{gpu, c.also}); (err == nil) != c.want {
			t.Errorf("%v: %v", c.also, err)
		}
	}
}

const described = `{"cdiVersion": "0.6.0", "kind": "example.com/gpu", "devices": [
  {"name": "0", "containerEdits": {"env": ["GPU=0"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null"}]}}]}`

// TestDevices: those that no file describes, or not yet, are there and cannot be used.
func TestDevices(t *testing.T) {
	folder := t.TempDir()
	s, err := Open([]Resource{
		{Name: "example.com/gpu", Count: 2, Devices: []string{"example.com/gpu=0", "example.com/gpu=1"}},
		{Name: "example.com/token", Count: 5},
	}, slog.New(slog.DiscardHandler), filepath.Join(folder, "absent"), folder)
	if err != nil {
		t.Fatal(err)
	}
	counts := func(want string) {
		t.Helper()
		capacity, usable := s.Counts()
		got := fmt.Sprint(capacity.Name("example.com/gpu", "").Value(), usable.Name("example.com/gpu", "").Value(),
			capacity.Name("example.com/token", "").Value(), usable.Name("example.com/token", "").Value(), s.Healthy())
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	health := func(want string) {
		t.Helper()
		if got := fmt.Sprint(s.Health([]string{"example.com/gpu=1", "example.com/gpu=0", "example.com/gone=0"})); got != want {
			t.Errorf("health %s, want %s", got, want)
		}
	}
	if s.Health(nil) != nil || s.Changes() != 0 {
		t.Error("nothing has been looked at")
	}
	health("[{example.com/gpu [{example.com/gpu=1 Healthy <nil>} {example.com/gpu=0 Healthy <nil>}]}]") // until it is known
	counts("2 0 5 5 map[example.com/gpu:[]]")
	health("[{example.com/gpu [{example.com/gpu=1 Unhealthy <nil>} {example.com/gpu=0 Unhealthy <nil>}]}]")
	changes := s.Changes()
	var spec specs.Spec
	if err := s.Inject(&spec, []string{"example.com/gpu=0"}); err == nil || !strings.Contains(err.Error(),
		"CDI device injection failed: unresolvable CDI devices example.com/gpu=0") {
		t.Errorf("Inject: %v", err)
	}
	for _, text := range []string{"{", described} {
		if err := os.WriteFile(filepath.Join(folder, "gpu.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if text == "{" {
			counts("2 0 5 5 map[example.com/gpu:[]]")
		}
	}
	counts("2 1 5 5 map[example.com/gpu:[example.com/gpu=0]]")
	health("[{example.com/gpu [{example.com/gpu=1 Unhealthy <nil>} {example.com/gpu=0 Healthy <nil>}]}]")
	if got := s.Changes(); got != changes+1 {
		t.Errorf("changed %d times since", got-changes)
	}
	if err := s.Inject(&spec, nil); err != nil || spec.Process != nil {
		t.Errorf("Inject of none: %v, %v", spec, err)
	}
	if err := s.Inject(&spec, []string{"example.com/gpu=0"}); err != nil {
		t.Fatal(err)
	}
	if d := spec.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/gpu0" || len(spec.Linux.Resources.Devices) != 1 ||
		strings.Join(spec.Process.Env, "") != "GPU=0" {
		t.Errorf("injected: %+v %+v", spec.Process, spec.Linux)
	}
}
