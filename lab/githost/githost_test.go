package githost

import (
	"context"
	"crypto/rand"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=a@b")...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pushAndClone has git itself push two megabytes, which it sends in chunks, and clone them again.
func pushAndClone(t *testing.T, url string, env ...string) {
	t.Helper()
	work := t.TempDir()
	data := make([]byte, 2<<20)
	rand.Read(data)
	if err := os.WriteFile(filepath.Join(work, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "-m", "data"}, {"push", "-q", url, "main"},
		{"clone", "-q", url, clone},
	} {
		if out, err := run(t, work, env, args...); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	if got, err := os.ReadFile(filepath.Join(clone, "data")); err != nil || string(got) != string(data) {
		t.Errorf("cloned %d bytes, %v", len(got), err)
	}
}

func TestHTTP(t *testing.T) {
	s := New(t.TempDir(), Options{User: "ada", Password: "pw", Token: "tok"})
	for range 2 {
		if _, err := s.Create(t.Context(), "team/shop"); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for _, credentials := range []string{"ada:pw@", "anybody:tok@"} {
		url := strings.Replace(server.URL, "http://", "http://"+credentials, 1)
		if _, err := run(t, t.TempDir(), nil, "ls-remote", url+"/team/shop.git"); err != nil {
			t.Errorf("%s is refused", credentials)
		}
		if _, err := run(t, t.TempDir(), nil, "ls-remote", url+"/../../etc.git"); err == nil {
			t.Error("a path outside is served")
		}
	}
	for _, credentials := range []string{"", "ada:no@", "eve:pw@"} {
		url := strings.Replace(server.URL, "http://", "http://"+credentials, 1)
		if out, err := run(t, t.TempDir(), nil, "ls-remote", url+"/team/shop.git"); err == nil {
			t.Errorf("%q is let in: %s", credentials, out)
		}
	}
	pushAndClone(t, strings.Replace(server.URL, "http://", "http://ada:pw@", 1)+"/team/shop.git")
	if s.Requests("push") == 0 || s.Requests("fetch") == 0 || s.Requests("list") == 0 {
		t.Errorf("counts %v", s.requests)
	}
}

func TestSSH(t *testing.T) {
	s := New(t.TempDir(), Options{})
	if _, err := s.Create(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	host, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	client, private, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.ServeSSH(ctx, l, SSH{HostKey: host, Authorized: []ssh.PublicKey{client.PublicKey()}})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"key":      string(private),
		"stranger": string(stranger),
		"hosts":    KnownHosts(l.Addr().String(), host.PublicKey()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := func(key string) string {
		return "GIT_SSH_COMMAND=ssh -F /dev/null -o IdentitiesOnly=yes -o BatchMode=yes" +
			" -o UserKnownHostsFile=" + filepath.Join(dir, "hosts") + " -i " + filepath.Join(dir, key)
	}
	url := "ssh://git@" + l.Addr().String() + "/shop.git"
	pushAndClone(t, url, command("key"))
	if _, err := run(t, dir, []string{command("stranger")}, "ls-remote", url); err == nil {
		t.Error("a stranger is let in")
	}
}
