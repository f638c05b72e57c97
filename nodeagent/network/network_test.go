package network

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lockstep/internal/asroot"
	"lockstep/internal/thread"
)

func TestDefaultConfig(t *testing.T) {
	data, err := defaultConfig(Options{Node: "n1", StateDir: "/run/x/cni"}, []string{"10.42.1.0/24", "fd00:42:1::/64"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"name":"lockstep-n1"`, `"type":"ptp"`, `"ipMasq":false`, `"dataDir":"/run/x/cni/addresses"`,
		`"subnet":"10.42.1.0/24"`, `"subnet":"fd00:42:1::/64"`, `"dst":"0.0.0.0/0"`, `"dst":"::/0"`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is not in %s", want, data)
		}
	}
}

func TestConfigureNeedsAddresses(t *testing.T) {
	n := Open(Options{Node: "n1", StateDir: t.TempDir()})
	if err := n.Configure(nil); !errors.Is(err, ErrNotReady) {
		t.Errorf("Configure = %v", err)
	}
	if err := n.Ready(); !errors.Is(err, ErrNotReady) {
		t.Errorf("Ready = %v", err)
	}
	if err := n.Configure([]string{"10.42.1.0/24"}); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(); err != nil {
		t.Errorf("Ready = %v", err)
	}
}

func TestUserConfigurationWins(t *testing.T) {
	for file, text := range map[string]string{
		"10-own.conflist": `{"cniVersion":"1.0.0","name":"own","plugins":[{"type":"bridge"}]}`,
		"10-own.conf":     `{"cniVersion":"1.0.0","name":"own","type":"bridge"}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := Open(Options{Node: "n1", StateDir: t.TempDir(), ConfDir: dir})
		if err := n.Configure(nil); err != nil {
			t.Fatal(err)
		}
		if got := n.current(); got.Name != "own" || len(got.Plugins) != 1 || got.Plugins[0].Network.Type != "bridge" {
			t.Errorf("%s: network %+v", file, got)
		}
	}
}

// TestPin makes IPC and UTS namespaces, which no other process sees.
func TestPin(t *testing.T) {
	asroot.Test(t)
	dir := filepath.Join(t.TempDir(), "ns")
	n := Namespaces{IPC: true, UTS: true, Hostname: "cart"}
	for range 2 {
		if err := Pin(dir, n); err != nil {
			t.Fatal(err)
		}
		if !Pinned(dir, n) {
			t.Fatal("not pinned")
		}
	}
	if Pinned(dir, Namespaces{Net: true}) {
		t.Error("a network namespace is pinned")
	}
	own, err := os.ReadFile("/proc/sys/kernel/msgmax")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Tune(dir, map[string]string{"kernel.msgmax": "4321"}); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (value string) {
		err := thread.Own(func() error {
			err := enter(IPCPath(dir), unix.CLONE_NEWIPC)
			data, readErr := os.ReadFile("/proc/sys/kernel/msgmax")
			value = strings.TrimSpace(string(data))
			return errors.Join(err, readErr)
		})
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	if got := read(); got != "4321" {
		t.Errorf("the namespace's msgmax is %s", got)
	}
	if now, _ := os.ReadFile("/proc/sys/kernel/msgmax"); !bytes.Equal(now, own) {
		t.Errorf("the machine's msgmax is %s", now)
	}
	if err := Tune(dir, map[string]string{"kernel.msgmax": "many"}); err == nil || read() != "4321" {
		t.Errorf("no number was taken: %v", err)
	}
	for range 2 {
		if err := Unpin(dir); err != nil {
			t.Fatal(err)
		}
	}
	if Pinned(dir, n) {
		t.Error("still pinned")
	}
	if h, _ := os.Hostname(); h == "cart" {
		t.Error("the machine's own name was changed")
	}
}
