package preflight

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/internal/asroot"
)

func what(lacks []Lack) []string {
	var out []string
	for _, l := range lacks {
		out = append(out, l.What)
	}
	return out
}

// TestFindNamesAllAtOnce takes everything away that can be taken away from one process.
func TestFindNamesAllAtOnce(t *testing.T) {
	asroot.Test(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	t.Setenv("PATH", t.TempDir())
	notDir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lacks := Find(t.Context(), Options{Managed: true, CNIBinDirs: []string{t.TempDir()}, Dirs: []string{notDir},
		Ports: []Port{{Address: netip.MustParseAddrPort(taken.Addr().String()), For: "--listen names another address"}}})
	port := "port " + strings.Split(taken.Addr().String(), ":")[1]
	if got, want := what(lacks), []string{"iptables", "CNI plugins", "containerd", port, "folder " + notDir}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	text := Error(lacks).Error()
	for _, part := range []string{
		"cannot run a node on this machine: 5 things are missing\n",
		`  iptables: cannot find iptables: exec: "iptables-restore": executable file not found in $PATH; exec: `,
		"  CNI plugins: no ptp and no host-local in ",
		"  containerd: no containerd and no containerd-shim-runc-v2 and no runc in PATH\n",
		"address already in use\n      --listen names another address",
		"\non Debian and Ubuntu: apt-get install iptables containernetworking-plugins containerd runc",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the message lacks %q:\n%s", part, text)
		}
	}
}

func TestFindsNothingHere(t *testing.T) {
	asroot.Test(t)
	free := Port{Address: netip.MustParseAddrPort("10.43.0.10:0"), Datagrams: true} // an address that comes later
	if lacks := Find(t.Context(), Options{Managed: true, CNIBinDirs: []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"},
		Dirs: []string{filepath.Join(t.TempDir(), "a", "b")}, DataDir: t.TempDir(), Ports: []Port{free}}); len(lacks) > 0 {
		t.Errorf("%v", Error(lacks))
	}
	if err := Error(nil); err != nil {
		t.Error(err)
	}
}

// TestReadOnlyAndFullDisk looks at file systems of a kind that a node cannot begin on.
func TestReadOnlyAndFullDisk(t *testing.T) {
	asroot.Test(t)
	dir := t.TempDir()
	out, err := exec.Command("unshare", "-m", "sh", "-ec",
		`mount -t tmpfs -o size=1m none "$1"; mkdir "$1/ro"; mount -t tmpfs -o ro none "$1/ro"
		LOCKSTEP_PREFLIGHT_DIR="$1" exec "$0" -test.run '^TestInside$' -test.v`, os.Args[0], dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestInside(t *testing.T) {
	dir := os.Getenv("LOCKSTEP_PREFLIGHT_DIR")
	if dir == "" {
		return // a part of the test above
	}
	lacks := disk(Options{Dirs: []string{dir, filepath.Join(dir, "ro", "data")}, DataDir: filepath.Join(dir, "data")})
	if got, want := what(lacks), []string{"folder " + filepath.Join(dir, "ro", "data"), "disk"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if text := Error(lacks).Error(); !strings.Contains(text, "read-only file system") || !strings.Contains(text, "1 MiB are left") {
		t.Error(text)
	}
}

func TestPluginsOfAnotherNetwork(t *testing.T) {
	bin, conf := t.TempDir(), t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(bin, "bridge"), "#!/bin/sh\n", 0o755)
	write(filepath.Join(conf, "10.conflist"),
		`{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "bridge", "ipam": {"type": "dhcp"}}, {"type": "portmap"}]}`, 0o600)
	lacks := plugins(Options{CNIBinDirs: []string{bin}, CNIConfDir: conf})
	if len(lacks) != 1 || !strings.HasPrefix(lacks[0].Cause, "no dhcp and no portmap in ") {
		t.Errorf("%+v", lacks)
	}
}
