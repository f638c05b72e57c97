package runtime

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDropSocket: a socket goes when nobody listens, and has not just been made.
func TestDropSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	there := func() bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := dropSocket(path, 0); err != nil || !there() {
		t.Errorf("one that is listened on: %v, there %t", err, there())
	}
	listener.Close()
	if err := dropSocket(path, time.Hour); err != nil || !there() {
		t.Errorf("one that was just made: %v, there %t", err, there())
	}
	for range 2 {
		if err := dropSocket(path, 0); err != nil || there() {
			t.Errorf("one that is dead: %v, there %t", err, there())
		}
	}
}
