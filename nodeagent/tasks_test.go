package nodeagent

import (
	"slices"
	"testing"

	"lockstep/nodeagent/register"
)

// TestTasksByRole has what runs on each kind of node, in the order in which it begins.
func TestTasksByRole(t *testing.T) {
	names := func(tasks []task) (out []string) {
		for _, task := range tasks {
			out = append(out, task.name)
		}
		return out
	}
	every := []string{
		"observe", "relist", "log keeper", "losses", "look", "probes", "volumes", "storage", "csi", "pressure", "shutdown", "resize",
		"tiers", "images", "list", "tags", "stats", "claims", "statuses", "recall", "keep", "network", "services", "history", "cluster",
	}
	for containerd, want := range map[string][]string{"": every, Managed: append(slices.Clone(every), "containerd")} {
		a, err := New(Options{
			Server: "https://127.0.0.1:1", NodeName: "n1", DataDir: t.TempDir(), RunDir: t.TempDir(),
			Containerd: containerd,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := names(a.tasks()); !slices.Equal(got, want) {
			t.Errorf("with containerd %q: %v, want %v", containerd, got, want)
		}
		if got, want := names(a.joinedTasks(nil, register.Identity{}, nil, nil)),
			[]string{"report", "silence", "drift", "rebuild", "certificate", "tunnel", "server list", "follow", "grow", "csi node",
				"local path"}; !slices.Equal(got, want) {
			t.Errorf("a node that has joined runs %v, want %v", got, want)
		}
	}
}
