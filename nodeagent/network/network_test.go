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
	"lockstep/nodeagent/userns"
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
	testPin(t, Namespaces{IPC: true, UTS: true, Hostname: "cart"})
}

// TestPinUsers does so in a user namespace, of which the owner is its own root.
func TestPinUsers(t *testing.T) {
	asroot.Test(t)
	const first = 3 * userns.Length
	n := Namespaces{IPC: true, UTS: true, Hostname: "cart", FirstID: first}
	testPin(t, n)
	dir := filepath.Join(t.TempDir(), "ns")
	if err := Pin(dir, Namespaces{IPC: true, UTS: true}); err != nil {
		t.Fatal(err)
	}
	if Pinned(dir, n) {
		t.Error("a user namespace is pinned")
	}
	if err := Pin(dir, n); err != nil {
		t.Fatal(err)
	}
	defer Unpin(dir)
	users, err := os.Open(UserPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	if owner, err := unix.IoctlGetUint32(int(users.Fd()), unix.NS_GET_OWNER_UID); err != nil || owner != first {
		t.Errorf("its owner is %d, %v", owner, err)
	}
	var own, of unix.Stat_t
	if err := unix.Fstat(int(users.Fd()), &own); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(IPCPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &of); err != nil || of.Ino != own.Ino {
		t.Errorf("the IPC namespace belongs to user namespace %d, not %d: %v", of.Ino, own.Ino, err)
	}
}

func testPin(t *testing.T, n Namespaces) {
	dir := filepath.Join(t.TempDir(), "ns")
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

// TestSysctlsLeadNowhereElse: whatever an API server lets a pod state as the name of a sysctl, no other file is written.
func TestSysctlsLeadNowhereElse(t *testing.T) {
	for _, name := range []string{"net.//.//.//.//.tmp.x", "net.//.kernel.hostname", "", ".kernel.hostname", "kernel..hostname"} {
		if err := writeSysctl(name, "x"); err == nil || !strings.Contains(err.Error(), "that is no name") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
