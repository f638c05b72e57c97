package command

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lockstep/daemon"
	"lockstep/daemon/control"
)

// TestPathsAndAddressesOfFlags gives each flag that takes a path or an address one that cannot be used. Each is refused at
// once, with flag and value; the table has all such flags.
func TestPathsAndAddressesOfFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	data, run := t.TempDir(), t.TempDir()
	folder, absent := t.TempDir(), filepath.Join(t.TempDir(), "absent")
	wrong := map[string][]string{ // by flag
		"images": {absent, file}, "registry-config": {absent, file}, "registry-credentials": {absent, folder}, "cni-conf": {absent, file},
		"config": {absent, folder}, "encryption-config": {absent, folder, file}, "token-file": {absent, folder},
		"etcd-cafile": {absent, folder}, "etcd-certfile": {absent, folder}, "etcd-keyfile": {absent, folder},
		"data-dir": {file, file + "/below", ""}, "run-dir": {file, file + "/below", ""},
		"node-ip": {"here", "192.0.2.77"}, "listen": {"99"}, "status-listen": {"localhost"}, "advertise": {"example.com", "127.0.0.1"},
		"status-url": {"shop", "ftp://shop"}, "etcd-endpoints": {"nope", "ftp://a:1"}, "server": {"http://127.0.0.1:1", "shop", "https://"},
		"join": {"http://127.0.0.1:1", "shop", "https://"}, "peer": {"99", "0.0.0.0:2380"},
		"containerd": {absent, file}, "kubelet-dir": {file, file + "/below"},
		"backup-dir": {file, file + "/below"}, "ingress-access-log": {folder, file + "/below"},
	}
	shape := regexp.MustCompile("`(FOLDER|FILE|SOCKET|URLS?|ADDRESS(:PORT)?)`")
	seen := map[string]bool{}
	for _, name := range []string{"up", "daemon", "agent", "kubeconfig"} {
		c, _, err := newRoot().Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !shape.MatchString(f.Usage) || name == "kubeconfig" && f.Name != "server" {
				return
			}
			if wrong[f.Name] == nil {
				t.Errorf("what does %s --%s say to what it cannot use?", name, f.Name)
			}
			seen[f.Name] = true
			for _, value := range wrong[f.Name] {
				args := []string{name}
				if name != "kubeconfig" {
					args = append(args, "--data-dir", data)
				}
				args = append(args, "--run-dir", run)
				if name == "agent" {
					args = append(args, "--server", "https://127.0.0.1:1", "--node-name", "paths-test")
				}
				err := tryFor(t, append(args, "--"+f.Name, value)...)
				if err == nil || !strings.Contains(err.Error(), "--"+f.Name) || !strings.Contains(err.Error(), value) {
					t.Errorf("%s --%s %q: %v", name, f.Name, value, err)
				}
			}
		})
	}
	for name := range wrong {
		if !seen[name] {
			t.Errorf("no command has a flag --%s", name)
		}
	}
}

// tryFor runs a command line that is to be refused. With a context that has ended, none starts anything.
func tryFor(t *testing.T, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	return root.ExecuteContext(ctx)
}

// doors answers what farewell asks.
type doors struct{ control.Backend }

func (doors) Kubeconfig(context.Context, control.KubeconfigOptions) ([]byte, error) {
	return []byte("x"), nil
}

// TestHintsCanBeCopied gives each command that is printed to a shell, and looks what arrives.
func TestHintsCanBeCopied(t *testing.T) {
	base := filepath.Join(t.TempDir(), "it's a $(folder)")
	if err := os.MkdirAll(base, 0o700); err != nil {
		t.Fatal(err)
	}
	dirs := dirFlags{data: base, run: base + "/run;x"}
	var out strings.Builder
	farewell(t.Context(), newProgress(&screen{out: &out}), doors{}, dirs, daemon.Options{DataDir: dirs.data}, control.Report{})
	for _, line := range []string{
		regexp.MustCompile(`(?m)^kubectl  (.*)$`).FindStringSubmatch(out.String())[1],
		regexp.MustCompile(`(?m)^stop     Ctrl-C leaves the pods running; (.*) removes everything$`).FindStringSubmatch(out.String())[1],
		dirs.client("status"),
	} {
		words, err := exec.CommandContext(t.Context(), "sh", "-c", `for w in `+line+`; do printf '%s\n' "$w"; done`).Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got := strings.Split(strings.TrimSpace(string(words)), "\n")[1:]
		if got[0] == "--kubeconfig" {
			if got[1] != base+"/viewer.kubeconfig" {
				t.Errorf("%s: %q", line, got)
			}
			continue
		}
		c, rest, err := newRoot().Find(got)
		if err == nil {
			err = c.ParseFlags(rest)
		}
		if err != nil || !has(c, "run-dir", dirs.run) || c.Name() == "reset" && !has(c, "data-dir", dirs.data) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if got := (dirFlags{defaultData, defaultRun}).command("reset"); strings.Contains(got, "--") {
		t.Errorf("defaults are stated: %s", got)
	}
}

func has(c *cobra.Command, flag, value string) bool {
	return c.Flags().Lookup(flag).Value.String() == value
}
