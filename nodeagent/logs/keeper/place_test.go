package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestPlaceUnderAttack writes, rotates, reads and removes a log 1,000 times while a pod that has the host's log
// directory puts links and FIFOs everywhere: nothing outside is reached, and nothing waits.
func TestPlaceUnderAttack(t *testing.T) {
	host, logs := t.TempDir(), t.TempDir()
	secret := filepath.Join(host, "0.log")
	if err := os.WriteFile(secret, []byte("root's own"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(logs)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := syscall.Mkfifo(filepath.Join(logs, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(logs, "pod", "main", "0.log")
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		parts := []struct{ name, target string }{{"pod", host}, {"pod/main", host}, {"pod/main/0.log", secret}}
		for round := 0; ; round++ {
			select {
			case <-stop:
				return
			default:
			}
			part := parts[round%3]
			_ = root.RemoveAll(part.name)
			if round/3%2 == 0 {
				_ = root.Symlink(part.target, part.name)
			} else {
				_ = root.Link("fifo", part.name)
			}
			if round%4 == 0 {
				_ = root.RemoveAll("pod")
			}
		}
	})
	done := make(chan error, 1)
	go func() {
		for i := range 1000 {
			l := file{path: path, maxSize: 10, maxFiles: 2}
			for range 3 {
				_ = l.write([]byte("a line\n"), time.Now()) // may fail
			}
			l.close()
			if f, err := Open(path); err == nil {
				data := make([]byte, 100)
				n, _ := f.Read(data)
				f.Close()
				if n > 0 && string(data[:6]) != "a line" {
					done <- fmt.Errorf("read %q", data[:n])
					return
				}
			}
			if i%10 == 0 {
				_ = Remove(path)
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(3 * time.Minute):
		t.Error("something waits for a FIFO")
	}
	close(stop)
	attacker.Wait()
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != 1 {
		t.Errorf("the host has %v, %v", entries, err)
	}
	if data, err := os.ReadFile(secret); err != nil || string(data) != "root's own" {
		t.Errorf("the host's file has %q, %v", data, err)
	}
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod", "main", "0.log")
	l := file{path: path, maxSize: 10, maxFiles: 3}
	for range 5 {
		if err := l.write([]byte("a line\n"), at); err != nil {
			t.Fatal(err)
		}
	}
	l.close()
	kept := filepath.Join(filepath.Dir(path), "10.log")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if err := Remove(filepath.Join(t.TempDir(), "none", "main", "0.log")); err != nil {
		t.Error(err)
	}
	if _, err := Open(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
}
