package daemon_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"lockstep/daemon/command"
)

// TestBackupAndRestore backs a running server's data and keys up, loses them, and has them again; what came after the backup comes from
// Git. What is not to be restored changes nothing.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	scheduled := filepath.Join(t.TempDir(), "scheduled")
	s := newServer(t, "a", "--backup-dir", scheduled)
	s.args = append(s.args, "--source", "shop="+s.folder)
	s.push("1")
	s.start()
	s.untilReady()
	value, _ := prices(t, s)
	s.untilApplied(value, "1")
	dirs := []string{"--data-dir", filepath.Join(s.dir, "data"), "--run-dir", filepath.Join(s.dir, "run")}
	run := func(args ...string) error { return command.Run(t.Context(), append(args, dirs...)) }
	file := func(name string) string { return filepath.Join(s.dir, name) }
	for _, args := range [][]string{{"backup", file("data.backup")}, {"backup", "--keys", file("keys.backup")}} {
		if err := run(args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := run("backup", file("data.backup")); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over a file that is there: %v", err)
	}
	if info, err := os.Stat(file("keys.backup")); err != nil || info.Size() > 4<<10 || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup of keys: %v, %v", info, err)
	}
	s.until("one is made by itself", func() (string, bool) {
		found, _ := filepath.Glob(filepath.Join(scheduled, "lockstep-*.lockstep"))
		return fmt.Sprint(found), len(found) == 1
	})
	history := s.history()
	if err := run("restore", file("data.backup"), "--replace"); err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("while the daemon runs: %v", err)
	}
	s.push("2")
	s.untilApplied(value, "2")
	s.stop()

	whole, err := os.ReadFile(file("data.backup"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("cut.backup"), whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ file, flag, says string }{
		"over data":   {"data.backup", "--replace=false", "--replace replaces them"},
		"over keys":   {"keys.backup", "--replace=false", "--replace replaces them"},
		"a cut one":   {"cut.backup", "--replace", "damaged or cut off"},
		"another one": {"shop/shop.yaml", "--replace", "no backup of Lockstep"},
		"none":        {"none", "--replace", "no such file"},
	} {
		if err := run("restore", file(c.file), c.flag); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := newServer(t, "b")
	other.start()
	other.untilReady()
	other.stop()
	err = command.Run(t.Context(), []string{"restore", file("data.backup"), "--replace", "--data-dir", filepath.Join(other.dir, "data")})
	if err == nil || !strings.Contains(err.Error(), "backup of another cluster") {
		t.Errorf("into another cluster: %v", err)
	}
	s.start()
	s.untilReady()
	value, _ = prices(t, s)
	s.untilApplied(value, "2")
	if s.history() != history {
		t.Error("restores that were refused have changed the data")
	}
	s.stop()

	// All is lost but the two files, and Git.
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := run("restore", file("data.backup")); err == nil || !strings.Contains(err.Error(), "has no keys of a cluster") {
		t.Errorf("data without keys: %v", err)
	}
	for _, name := range []string{"keys.backup", "data.backup"} {
		if err := run("restore", file(name)); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	s.untilReady()
	value, _ = prices(t, s)
	s.untilApplied(value, "2")
	if s.history() == history {
		t.Error("what was restored has the identity of what was lost")
	}
	again := s.history()
	s.stop()
	s.start()
	s.untilReady()
	if s.history() != again {
		t.Error("it has another identity with every start")
	}
}

// history is the identity of the server's data, as its answers have it.
func (s *server) history() string {
	s.t.Helper()
	client, err := rest.HTTPClientFor(s.viewer())
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := client.Get("https://" + s.api + "/version")
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	_, _ = (&bytes.Buffer{}).ReadFrom(response.Body)
	return response.Header.Get("Lockstep-History")
}
