// Package lab makes a cluster of several hosts on one machine, each in namespaces of its own, with faults on demand.
//
// A host is a holder process in a network, mount and UTS namespace of its own, with a private /run and a folder on the
// machine's disk. The hosts' links meet at a bridge inside one more namespace, which has no other link: no packet of a
// lab can leave the machine. Everything a lab makes is a process, which Down finds by its environment, its mount namespace
// or its control group and ends, such a control group, or lies under the lab's folder.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lockstep/lab/githost"
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
	// Dir is the lab's folder; required. It must not hold a lab already, and is removed with the lab.
	Dir string
	// Lockstep is the path of the lockstep program; required.
	Lockstep string
	// Self is the path of the lockstep-lab program, which is run again as holder and hub; required.
	Self string
	// Servers run the control plane: 1, 3 or 5, each with an etcd of its own. Zero: 1.
	Servers int
	// Agents run pods. Zero: 2. Negative: none.
	Agents int
	// Sources of the cluster, each [NAME=]URL|FOLDER[#branch[:path]] as lockstep daemon's --source takes them. A repository
	// that a URL names on the hub is made.
	Sources []string
	// Config is a configuration file for the daemon, beside Sources. Empty: none.
	Config string
	// LogLevel of daemons and agents, as their --log-level takes it. Empty: info.
	LogLevel string
	// Eviction are the agents' thresholds, as their --eviction-hard takes them. Empty: those of a machine whose disk is large, and
	// may be well filled; with Disk, those of a small disk.
	Eviction string
	// Disk is the size of a file system of its own, in memory, that the data folder of each server and agent is, in bytes, so that it
	// can be full. Zero: they are on the machine's disk.
	Disk int64
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
	if o.LogLevel == "" {
		o.LogLevel = "info"
	}
	if o.Eviction == "" && o.Disk != 0 {
		o.Eviction = "memory.available<100Mi,nodefs.available<5%,imagefs.available<1Gi,pid.available<5%"
	}
	if o.Eviction == "" {
		o.Eviction = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi,pid.available<5%"
	}
	if o.Dir == "" || o.Lockstep == "" || o.Self == "" {
		return errors.New("cannot make a lab: Dir, Lockstep and Self are required")
	}
	for _, path := range []*string{&o.Dir, &o.Lockstep, &o.Self} {
		whole, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("cannot make a lab: %w", err)
		}
		*path = whole
	}
	switch {
	case o.Servers != 1 && o.Servers != 3 && o.Servers != 5:
		return fmt.Errorf("cannot make a lab with %d servers: a cluster has 1, 3 or 5", o.Servers)
	case o.Disk != 0 && o.Disk < minDisk:
		return fmt.Errorf("cannot make a lab with disks of %d bytes: etcd alone takes %d", o.Disk, minDisk)
	case o.Agents > 200:
		return fmt.Errorf("cannot make a lab with %d agents: its network has room for 200", o.Agents)
	}
	return nil
}

// minDisk is the room that a server takes which has hardly any data: etcd's two write-ahead logs of 64 MiB, the reserve, and as much
// again to work.
const minDisk = 512 << 20

// Lab is a running lab. Its methods may be called from several goroutines, and processes: what changes the lab holds a
// lock on its folder meanwhile, and begins with the state that is on disk.
type Lab struct {
	dir   string
	mu    sync.Mutex
	state state
}

// Up makes a lab and returns once every daemon answers /readyz and every agent's node is Ready. On an error it takes
// down what it made.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := makeDir(o); err != nil {
		return nil, err
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
	if err := l.makeSources(ctx); err != nil {
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
		if _, err := l.addHost(ctx, agentName(o, i), roleAgent, 31+i); err != nil {
			return nil, err
		}
	}
	if err := l.startHosts(ctx); err != nil {
		return nil, err
	}
	if err := l.forwardAPI(); err != nil {
		return nil, err
	}
	return l, l.waitReady(ctx)
}

// startHosts starts the services of all hosts. The servers after the first are waited for together: the second stands by until there
// is the third.
func (l *Lab) startHosts(ctx context.Context) error {
	var joining []*Host
	for _, h := range l.state.Hosts {
		if h.Role == roleServer && h != l.firstServer() {
			joining = append(joining, h)
			if err := l.spawn(ctx, h, Daemon); err != nil {
				return err
			}
			continue
		}
		if err := l.awaitAll(ctx, joining); err != nil {
			return err
		}
		joining = nil
		if err := l.startServices(ctx, h); err != nil {
			return err
		}
	}
	return l.awaitAll(ctx, joining)
}

// startAgain starts the services of all hosts that do not run: those of servers together, since none is ready without most of them.
func (l *Lab) startAgain(ctx context.Context) error {
	var servers, others []*Host
	for _, h := range l.state.Hosts {
		switch {
		case h.Role != roleServer:
			others = append(others, h)
		case !h.Services[Daemon].alive():
			servers = append(servers, h)
			if err := l.spawn(ctx, h, Daemon); err != nil {
				return err
			}
		}
	}
	if err := l.awaitAll(ctx, servers); err != nil {
		return err
	}
	for _, h := range others {
		if err := l.startServices(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) awaitAll(ctx context.Context, servers []*Host) error {
	for _, h := range servers {
		if err := l.await(ctx, h, Daemon); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes the lab's folder. It refuses one that holds a lab, or anything else, since Down removes all of it; and
// hosts of names that another lab uses, since the control groups of their pods have their names.
func makeDir(o Options) error {
	if _, err := os.Stat(filepath.Join(o.Dir, stateFile)); err == nil {
		return fmt.Errorf("cannot make a lab in %s: there is one already (lockstep-lab down ends it)", o.Dir)
	}
	if entries, err := os.ReadDir(o.Dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("cannot make a lab in %s: the folder is not empty (lockstep-lab down empties it if it was a lab)", o.Dir)
	}
	for i := range max(o.Agents, 0) {
		name := agentName(o, i)
		if pids := cgroupProcesses(name); len(pids) > 0 {
			return fmt.Errorf("cannot make a lab: there is a node %s on this machine, with %d processes (--prefix gives other names)",
				name, len(pids))
		}
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return fmt.Errorf("cannot make a lab: %w", err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, markerFile), []byte("lockstep-lab down removes this folder.\n"), 0o644); err != nil {
		return fmt.Errorf("cannot make a lab: %w", err)
	}
	return nil
}

// markerFile is the first file in a lab's folder, and the last that goes: Down removes no folder without it.
const markerFile = "LAB"

func agentName(o Options, i int) string { return fmt.Sprintf("%sagent%d", o.Prefix, i+1) }

// makeSources makes the repositories that sources on the hub name, and writes all sources, those on the hub with the hub's
// keys and forge, for the daemon.
func (l *Lab) makeSources(ctx context.Context) error {
	documents, sources, err := l.stated()
	if err != nil {
		return err
	}
	for _, s := range sources {
		if repository := l.hubRepository(s.Spec.URL); repository != "" {
			if _, err := l.createRepo(ctx, repository); err != nil {
				return err
			}
		}
	}
	return l.writeConfig(documents, sources)
}

func (l *Lab) createRepo(ctx context.Context, repository string) (folder string, err error) {
	folder, err = githost.New(reposDir(l.dir), githost.Options{}).Create(ctx, repository)
	if err != nil {
		return "", err
	}
	return folder, l.installHook(folder, repository)
}

// Open returns the lab in a folder.
func Open(dir string) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open a lab: %w", err)
	}
	l := &Lab{dir: dir}
	return l, l.load()
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

// Servers returns the hosts of the control plane.
func (l *Lab) Servers() []*Host {
	var out []*Host
	for _, h := range l.state.Hosts {
		if h.Role == roleServer {
			out = append(out, h)
		}
	}
	return out
}

// Server returns the first host whose control plane runs; the first of all where none does.
func (l *Lab) Server() *Host {
	for _, h := range l.Servers() {
		if h.Services[Daemon].alive() {
			return h
		}
	}
	return l.firstServer()
}

// firstServer is the one that the others have joined.
func (l *Lab) firstServer() *Host { return l.Servers()[0] }

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
