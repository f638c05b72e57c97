package nodeagent

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"lockstep/nodeagent/dns"
	"lockstep/nodeagent/preflight"
)

// Preflight returns one error that names everything this machine lacks to run the node, and how to get it. Others are
// the addresses that the process will listen at beside the node's own. A disk that is full keeps no node down that ran
// before: its pods go on.
func Preflight(ctx context.Context, o Options, others ...preflight.Port) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	p := preflight.Options{Managed: o.Containerd == Managed, Snapshotter: o.Snapshotter, CNIBinDirs: o.CNIBinDirs, CNIConfDir: o.CNIConfDir,
		Dirs: []string{o.RunDir}, Ports: others}
	if _, err := os.Stat(filepath.Join(o.agentDir(), whereaboutsFile)); errors.Is(err, fs.ErrNotExist) {
		p.DataDir, p.Dirs = o.DataDir, append(p.Dirs, o.DataDir)
	}
	// One that has run containers for this node is waited for: it may be on its way up, as we are.
	if last, err := LastContainerd(o.DataDir); o.Containerd != Managed && (err != nil || last != o.Containerd) {
		p.Containerd = o.Containerd
	}
	for _, a := range o.cluster.DNS() {
		if dns.Answers(ctx, o.RunDir) {
			break // our own process, which goes on while no agent runs
		}
		p.Ports = append(p.Ports, preflight.Port{Address: netip.AddrPortFrom(a, dnsPort), Datagrams: true,
			For: "pods ask for names there: have the DNS server of this machine listen at its own addresses, not at all of them"})
	}
	return preflight.Error(preflight.Find(ctx, p))
}
