package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lockstep/daemon/control"
	"lockstep/internal/loopback"
	"lockstep/internal/settings"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
)

func options(t *testing.T) Options {
	t.Helper()
	return Options{
		DataDir: t.TempDir(), RunDir: shortDir(t), Name: "test",
		Log:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Listen: loopback.Free(t), Advertise: netip.MustParseAddrPort("127.0.0.1:6443"), StatusListen: loopback.Free(t),
	}
}

// shortDir is a temporary folder whose path leaves room for a unix socket's name, of which the kernel takes 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ls")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestTasksByRole(t *testing.T) {
	p := &plane{opts: options(t), announcer: &announcer{}}
	names := func(tasks []task) (out []string) {
		for _, task := range tasks {
			out = append(out, task.name)
		}
		return out
	}
	got := names(p.tasks())
	want := []string{"etcd", "store", "heap", "memory", "api", "announcement", "keys", "authority", "status page", "control", "leader"}
	if !slices.Equal(got, want) {
		t.Errorf("every control plane runs %v, want %v", got, want)
	}
}

func TestNodePortsThatTheDaemonNeeds(t *testing.T) {
	for want, ports := range map[string]settings.Ports{
		"": {20000, 30000}, "the status page is at port 7070": {7000, 8000}, "not a range": {9, 8},
	} {
		o := options(t)
		o.StatusListen, o.Settings.NodePorts = netip.MustParseAddrPort("127.0.0.1:7070"), ports
		if _, err := o.withDefaults(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", ports, err, want)
		}
	}
}

func TestStatusURLNamesThePage(t *testing.T) {
	o := options(t)
	o.StatusURL = "https://status.example:8443/shop/"
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.StatusURL != "https://status.example:8443/shop" || !slices.Equal(pageHosts(o.StatusURL), []string{"status.example"}) {
		t.Errorf("the page is at %s, asked for as %v", o.StatusURL, pageHosts(o.StatusURL))
	}
	for _, bad := range []string{"status.example", "ftp://status.example", "https://", "http://a b"} {
		o.StatusURL = bad
		if _, err := o.withDefaults(); err == nil || !strings.Contains(err.Error(), "want http://HOST") {
			t.Errorf("%q is taken for a URL: %v", bad, err)
		}
	}
}

func TestSettingsAreTheClusters(t *testing.T) {
	odd := settings.Settings{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		Domain:       "acme.internal",
	}.Or(settings.Default())
	for name, c := range map[string]struct {
		given settings.Settings
		made  settings.Settings
		data  []byte
		want  string
	}{
		"made before they were kept": {made: settings.Default()},
		"nothing is given":           {made: odd, data: odd.Encode()},
		"the same is given":          {given: settings.Settings{Domain: "acme.internal"}, made: odd, data: odd.Encode()},
		"another is given": {given: settings.Settings{Domain: "cluster.local"}, made: odd, data: odd.Encode(),
			want: "the domain is cluster.local as it was given and acme.internal in this cluster, which was made with it, " +
				"and it stays so for the cluster's life"},
		"of before, another is given": {given: odd, made: settings.Default(),
			want: "the service network is 10.96.0.0/12 as it was given and 10.43.0.0/16 in this cluster, which was made with it, " +
				"and it stays so for the cluster's life"},
	} {
		got, err := settled(c.given, store.Cluster{Settings: c.data})
		if text := fmt.Sprint(err); !got.Equal(c.made) || (c.want == "") != (err == nil) || err != nil && text != c.want {
			t.Errorf("%s: %v, %s", name, got, text)
		}
	}
}

func TestRunTasksEndsAllWhenOneFails(t *testing.T) {
	ended := make(chan struct{})
	err := runTasks(t.Context(), []task{
		{"good", func(ctx context.Context) error { <-ctx.Done(); close(ended); return nil }},
		{"bad", func(context.Context) error { return errors.New("no disk") }},
	})
	<-ended
	if err == nil || err.Error() != "cannot keep bad running: no disk" {
		t.Errorf("runTasks = %v", err)
	}
}

func TestFolderIsStoredAndJudged(t *testing.T) {
	o := options(t)
	folder := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "shop.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prices, namespace: default}\ndata: {tea: '2'}\n")
	source := v1alpha1.Source{}
	source.Name, source.Spec.Folder = "shop", folder
	o.Sources = []v1alpha1.Source{source}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	door := control.Dial(o.RunDir)
	await := func(what string, ok func(control.SourceReport) bool) {
		t.Helper()
		var last control.Report
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			select {
			case err := <-done:
				t.Fatalf("the daemon ended: %v", err)
			default:
			}
			if report, err := door.Report(ctx); err == nil {
				last = report
				if len(report.Sources) == 1 && ok(report.Sources[0]) {
					return
				}
			}
		}
		t.Fatalf("%s did not happen; the last report is %+v", what, last)
	}
	await("the rollout", func(s control.SourceReport) bool {
		return s.Status.State == "success" && len(s.Objects) == 1 && s.Objects[0].State == "healthy" && s.Objects[0].File == "shop.yaml:1"
	})
	write("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prices, namespace: default}\nprices: {tea: '2'}\n")
	await("the refusal", func(s control.SourceReport) bool {
		return s.Status.State == "error" && strings.Contains(s.Status.Message, `shop.yaml:4`) && s.Objects[0].State == "healthy"
	})
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run = %v after its context ended", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Run did not return after its context ended")
	}
}
