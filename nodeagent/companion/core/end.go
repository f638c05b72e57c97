package core

import (
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// remembered is how long SIGTERM is: a machine that shuts down kills after it, systemd after 90 s.
	remembered = 90 * time.Second
	// lookAgain is short beside what a container takes to end.
	lookAgain = 100 * time.Millisecond
	// groups is where the kernel shows cgroups, those of version 1 a level deeper.
	groups = "/sys/fs/cgroup"
)

// Asked returns where a SIGTERM is from now on; without it, it does nothing. It is called before the companion says that it
// is ready: who then asks it to end is heard.
func Asked() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	return signals
}

// Wait waits for the end of a companion, and returns why: false when done is closed, since a successor has everything; true
// when SIGTERM has come, by what Asked returned, and no process is left in a cgroup (a path under the cgroup mounts) or
// below it, in which runs what the companion is for. A machine that shuts down sends SIGTERM to all, and waits for who stays.
// Where the cgroup has processes, somebody meant the agent: that does not concern the companion. With "" SIGTERM does
// nothing.
func Wait(done <-chan struct{}, asked <-chan os.Signal, cgroup string) (terminated bool) {
	if cgroup == "" {
		<-done
		return false
	}
	for {
		select {
		case <-done:
			return false
		case <-asked:
		}
		for until := time.Now().Add(remembered); time.Now().Before(until); {
			if !occupied(groups, cgroup) {
				return true
			}
			select {
			case <-done:
				return false
			case <-time.After(lookAgain):
			}
		}
	}
}

// occupied says whether a cgroup of any hierarchy below mount, or one below it, has a process.
func occupied(mount, cgroup string) bool {
	tops := []string{filepath.Join(mount, cgroup)}
	hierarchies, _ := os.ReadDir(mount)
	for _, h := range hierarchies {
		tops = append(tops, filepath.Join(mount, h.Name(), cgroup))
	}
	found := false
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // a cgroup that went away meanwhile, or a file
			}
			if data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs")); len(data) > 0 {
				found = true
				return filepath.SkipAll
			}
			return nil
		})
	}
	return found
}
