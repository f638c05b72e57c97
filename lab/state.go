package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lockstep/internal/whole"
)

// stateFile holds the lab's state, in its folder.
const stateFile = "lab.json"

// state is what the state file holds.
type state struct {
	Options Options           `json:"options"`
	Switch  process           `json:"switch"`
	Hosts   []*Host           `json:"hosts"`
	Forward map[string]string `json:"forward,omitempty"` // what → address on the machine's loopback
	// Partitions are the pairs of hosts that do not reach each other.
	Partitions []partition `json:"partitions,omitempty"`
}

// load reads the state. Hosts that are known keep their identity, so that who holds a *Host sees what another process
// has changed.
func (l *Lab) load() error {
	raw, err := os.ReadFile(filepath.Join(l.dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot open a lab in %s: there is none (lockstep-lab up makes one)", l.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot open a lab: %w", err)
	}
	var read state
	if err := json.Unmarshal(raw, &read); err != nil {
		return fmt.Errorf("cannot open the lab in %s: %w", l.dir, err)
	}
	for i, h := range read.Hosts {
		for _, known := range l.state.Hosts {
			if known.Name == h.Name {
				*known = *h
				read.Hosts[i] = known
			}
		}
	}
	l.state = read
	return nil
}

// save writes the state whole or not at all.
func (l *Lab) save() error {
	raw, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot save the lab's state: %w", err)
	}
	if err := whole.Write(filepath.Join(l.dir, stateFile), raw); err != nil {
		return fmt.Errorf("cannot save the lab's state: %w", err)
	}
	return nil
}

// change calls f while nobody else changes the lab, with the newest state, and saves what f made of it, also when f fails.
func (l *Lab) change(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lock, err := os.OpenFile(filepath.Join(l.dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock the lab: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock the lab: %w", err)
	}
	if err := l.load(); err != nil {
		return err
	}
	return errors.Join(f(), l.save())
}
