// Package lab makes a cluster of several hosts on one machine, each in namespaces of its own, with faults on demand.
//
// A host is a holder process in a network, mount and UTS namespace of its own, with a private /run and a folder on the
// machine's disk. The hosts' links meet at a bridge inside one more namespace, which has no other link: no packet of a
// lab can leave the machine. Everything a lab makes is either a process, which Down finds by its holder and ends, or
// lies under the lab's folder.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// DefaultDir is where a lab keeps its hosts' disks and its state.
const DefaultDir = "/var/lib/lockstep-lab"

// Hub is the name of the host that serves Git repositories, images and commit statuses; it is not part of the cluster.
const Hub = "hub"

// network is every lab's own: the labs do not see each other, so it can be the same for all.
var network = netip.MustParsePrefix("10.99.0.0/24")

// HubAddr is the hub's address in every lab; its ports are GitPort (HTTP: Git and the forge's API), SSHPort and
// RegistryPort.
const (
	HubAddr      = "10.99.0.2"
	GitPort      = 3000
	SSHPort      = 2222
	RegistryPort = 5000
)

// Options says what lab to make. The zero value of a field that is not named as required is a working default.
type Options struct {
	// Dir is the lab's folder; required. It must not hold a lab already.
	Dir string
	// Lockstep is the path of the lockstep program; required.
	Lockstep string
	// Self is the path of the lockstep-lab program, which is run again as holder and hub; required.
	Self string
	// Servers run the control plane. Zero: 1. More than one need embedded etcd with peers, which this release lacks.
	Servers int
	// Agents run pods. Zero: 2. Negative: none.
	Agents int
	// Sources of the cluster, each [NAME=]URL|FOLDER[#branch[:path]] as lockstep daemon's --source takes them.
	Sources []string
	// Config is a configuration file for the daemon, beside Sources. Empty: none.
	Config string
	// Prefix goes before the hosts' names, so that nodes of labs that run side by side differ. Empty: none.
	Prefix string
}

func (o *Options) validate() error {
	if o.Servers == 0 {
		o.Servers = 1
	}
	if o.Agents == 0 {
		o.Agents = 2
	}
	switch {
	case o.Dir == "", o.Lockstep == "", o.Self == "":
		return errors.New("cannot make a lab: Dir, Lockstep and Self are required")
	case o.Servers != 1:
		return fmt.Errorf("cannot make a lab with %d servers: this release runs one control plane", o.Servers)
	case o.Agents > 200:
		return fmt.Errorf("cannot make a lab with %d agents: its network has room for 200", o.Agents)
	}
	return nil
}

// Lab is a running lab. Its methods may be called from several processes; each reads and writes the state on disk.
type Lab struct {
	dir   string
	state state
}

// state is what lab.json holds.
type state struct {
	Options  Options           `json:"options"`
	Switch   process           `json:"switch"`
	Hosts    []*Host           `json:"hosts"`
	Forward  map[string]string `json:"forward,omitempty"` // what → address on the machine's loopback
	Forwards []process         `json:"forwards,omitempty"`
}

// Up makes a lab and returns once every daemon answers /readyz and every agent's node is Ready. On an error it takes
// down what it made.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "lab.json")); err == nil {
		return nil, fmt.Errorf("cannot make a lab in %s: there is one already (lockstep-lab down ends it)", o.Dir)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a lab: %w", err)
	}
	l := &Lab{dir: o.Dir, state: state{Options: o, Forward: map[string]string{}}}
	defer func() {
		if err != nil {
			down, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, l.collectLogs(), l.Down(down))
		}
	}()

	if err := os.MkdirAll(reposDir(o.Dir), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a lab: %w", err)
	}
	if err := l.makeKeys(); err != nil {
		return nil, err
	}
	if err := l.startSwitch(ctx); err != nil {
		return nil, err
	}
	if _, err := l.addHost(ctx, Hub, roleHub, 2); err != nil {
		return nil, err
	}
	for i := range o.Servers {
		if _, err := l.addHost(ctx, fmt.Sprintf("%sserver%d", o.Prefix, i+1), roleServer, 11+i); err != nil {
			return nil, err
		}
	}
	for i := range max(o.Agents, 0) {
		if _, err := l.addHost(ctx, fmt.Sprintf("%sagent%d", o.Prefix, i+1), roleAgent, 31+i); err != nil {
			return nil, err
		}
	}
	for _, h := range l.state.Hosts {
		if err := l.startServices(ctx, h); err != nil {
			return nil, err
		}
	}
	if err := l.forwardAPI(); err != nil {
		return nil, err
	}
	return l, l.waitReady(ctx)
}

// Open returns the lab in a folder.
func Open(dir string) (*Lab, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot open a lab in %s: there is none (lockstep-lab up makes one)", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open a lab: %w", err)
	}
	l := &Lab{dir: dir}
	if err := json.Unmarshal(raw, &l.state); err != nil {
		return nil, fmt.Errorf("cannot open the lab in %s: %w", dir, err)
	}
	return l, nil
}

// Dir is the lab's folder.
func (l *Lab) Dir() string { return l.dir }

// Hosts are all hosts, the hub first, in the order they were made.
func (l *Lab) Hosts() []*Host { return l.state.Hosts }

// Host returns the host with that name, with or without the lab's prefix.
func (l *Lab) Host(name string) (*Host, error) {
	for _, h := range l.state.Hosts {
		if h.Name == name || h.Name == l.state.Options.Prefix+name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("cannot find host %q in the lab", name)
}

// Server returns the first host that runs the control plane.
func (l *Lab) Server() *Host {
	for _, h := range l.state.Hosts {
		if h.Role == roleServer {
			return h
		}
	}
	return nil
}

// Agents returns the hosts that run pods.
func (l *Lab) Agents() []*Host {
	var out []*Host
	for _, h := range l.state.Hosts {
		if h.Role == roleAgent {
			out = append(out, h)
		}
	}
	return out
}

// Forwarded returns the address on the machine's loopback that leads to the first server's "api" or "status" page.
func (l *Lab) Forwarded(what string) string { return l.state.Forward[what] }

// save writes lab.json whole or not at all.
func (l *Lab) save() error {
	raw, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot save the lab's state: %w", err)
	}
	path := filepath.Join(l.dir, "lab.json")
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return fmt.Errorf("cannot save the lab's state: %w", err)
	}
	return os.Rename(path+".new", path)
}
