package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"lockstep/internal/sleep"
)

// Reboot ends everything on the host but its disk and starts it again. A host that was cut, slow or parted from others is so no more,
// and its clock is right.
func (l *Lab) Reboot(ctx context.Context, h *Host) error {
	return l.change(func() error {
		if err := l.halt(ctx, h); err != nil {
			return err
		}
		if err := l.boot(ctx, h); err != nil {
			return err
		}
		if err := l.startServices(ctx, h); err != nil || h != l.firstServer() {
			return err
		}
		return l.forwardAPI()
	})
}

// RebootAll ends everything on all servers and agents, and only then starts them again, as when the power comes back. The hub stays.
func (l *Lab) RebootAll(ctx context.Context) error {
	return l.change(func() error {
		hosts := append(l.Servers(), l.Agents()...)
		for _, h := range hosts {
			if err := errors.Join(l.join(h), l.halt(ctx, h)); err != nil {
				return err
			}
		}
		for _, h := range hosts {
			if err := l.boot(ctx, h); err != nil {
				return err
			}
		}
		if err := l.startAgain(ctx); err != nil {
			return err
		}
		return l.forwardAPI()
	})
}

// Wipe has a host lose its data at once. A server that is alone loses what its etcd has; what is beside that, the cluster's authority
// above all, stays. One of several loses all, is taken out of the cluster by another one, and joins anew. An agent's machine comes back
// empty, as one that was set up anew: it is taken out of the cluster, with the data of claims on it, and joins anew under its name.
func (l *Lab) Wipe(ctx context.Context, h *Host) error {
	wipe := l.wipeAgent
	switch {
	case h.Role == roleServer && len(l.Servers()) == 1:
		return l.WipeAll(ctx)
	case h.Role == roleServer:
		wipe = l.wipeServer
	case h.Role != roleAgent:
		return fmt.Errorf("cannot wipe %s: it is not of the cluster", h.Name)
	}
	return l.change(func() error {
		i := slices.IndexFunc(l.Servers(), func(s *Host) bool { return s != h && s.Services[Daemon].alive() })
		if i < 0 {
			return fmt.Errorf("cannot wipe %s: no server runs that would take it out of the cluster", h.Name)
		}
		if err := wipe(ctx, h, l.Servers()[i]); err != nil {
			return fmt.Errorf("cannot wipe %s: %w", h.Name, err)
		}
		return nil
	})
}

// wipeServer wipes one server of several by another one, which takes nobody out who is not silent.
func (l *Lab) wipeServer(ctx context.Context, h, by *Host) error {
	if err := h.Services[Daemon].kill(ctx); err != nil {
		return err
	}
	if err := empty(h.DataDir()); err != nil {
		return err
	}
	const patience = time.Minute // until it is known to be silent
	removing, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := by.Run(removing, l.state.Options.Lockstep, "server", "remove", h.Name)
		if err == nil {
			return l.start(ctx, h, Daemon)
		}
		if !sleep.For(removing, 500*time.Millisecond) {
			return err
		}
	}
}

// wipeAgent wipes an agent, which a server takes out of the cluster.
func (l *Lab) wipeAgent(ctx context.Context, h, by *Host) error {
	if err := l.halt(ctx, h); err != nil {
		return err
	}
	if _, err := by.Run(ctx, l.state.Options.Lockstep, "node", "remove", h.Name, "--leave-data"); err != nil {
		return err
	}
	// The token that agents have joined with is lost where etcd was, meanwhile.
	err := errors.Join(empty(h.DataDir()), empty(filepath.Join(h.Dir, "containerd")), os.RemoveAll(l.joinTokenFile()))
	if err != nil {
		return err
	}
	if err := l.boot(ctx, h); err != nil {
		return err
	}
	return l.startServices(ctx, h)
}

// WipeAll ends all control planes at once and removes what their etcds have. The first server starts again with its keys, and the
// others join it, empty.
func (l *Lab) WipeAll(ctx context.Context) error {
	return l.change(func() error {
		servers := l.Servers()
		for _, h := range servers {
			if err := h.Services[Daemon].kill(ctx); err != nil {
				return err
			}
		}
		err := os.RemoveAll(filepath.Join(servers[0].DataDir(), "etcd"))
		for _, h := range servers[1:] {
			err = errors.Join(err, empty(h.DataDir()))
		}
		if err != nil {
			return fmt.Errorf("cannot wipe the servers: %w", err)
		}
		return l.startHosts(ctx)
	})
}

// Backup has a server write a backup into a file, which is the machine's; flags are those of lockstep backup.
func (l *Lab) Backup(ctx context.Context, file string, flags ...string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("cannot back up the lab: %w", err)
	}
	s := l.Server()
	_, err = s.Run(ctx, l.state.Options.Lockstep, append([]string{"backup", file, "--data-dir", s.DataDir()}, flags...)...)
	return err
}

// Mend ends all faults: every host is on the network, every service runs, the forge answers. It returns once every agent's
// node is Ready.
func (l *Lab) Mend(ctx context.Context) error {
	for _, h := range l.Hosts() {
		if err := l.Heal(h); err != nil {
			return err
		}
	}
	err := l.change(func() error { return l.startAgain(ctx) })
	if err == nil {
		err = l.HealForge(ctx)
	}
	if err == nil {
		err = l.waitReady(ctx)
	}
	return err
}

// halt ends every process of the host and removes its control groups.
func (l *Lab) halt(ctx context.Context, h *Host) error {
	in := spaces{}
	defer in.close()
	in.add(h.Holder.PID)
	if err := killAll(ctx, func() []process { return h.processes(in) }); err != nil {
		return fmt.Errorf("cannot halt host %s: %w", h.Name, err)
	}
	h.Services = map[string]process{}
	h.Holder = process{}
	return removeCgroups(h.Name)
}
