package nodeagent

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/sleep"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/servers"
	"lockstep/nodeagent/tunnel"
)

// serversPause is the least time between two looks at the list of servers: the cluster's other slices change all the time.
const serversPause = 500 * time.Millisecond

func (a *Agent) newServers() *servers.Servers {
	var seeds []string
	for _, s := range append([]string{a.opts.Server}, a.opts.MoreServers...) {
		seeds = append(seeds, strings.TrimSuffix(s, "/"))
	}
	return servers.New(servers.Options{
		Node: a.opts.NodeName, Seeds: seeds, Own: a.opts.OwnServer, File: filepath.Join(a.opts.agentDir(), "servers"), Log: a.log,
	})
}

// moving has all connections go to another server together.
type moving struct {
	*register.Link
	line *tunnel.Line
}

var _ servers.Prober = moving{}

// Moved implements servers.Prober.
func (m moving) Moved(from, to string) {
	m.Link.Moved(from, to)
	m.line.Hang()
}

// Reset implements servers.Prober.
func (m moving) Reset() {
	m.Link.Reset()
	m.line.Hang()
}

// serverAddress is that of the server in use, host:port.
func (a *Agent) serverAddress() string { return addressOf(a.servers.Current()) }

func addressOf(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// serverAddresses are those of all servers that are known by addresses, for the rules that must not lead the node's own connections
// elsewhere.
func (a *Agent) serverAddresses() []netip.AddrPort {
	var out []netip.AddrPort
	for _, server := range a.servers.Known() {
		if at, err := netip.ParseAddrPort(addressOf(server)); err == nil { // a name is known by its endpoints, and by the mark
			out = append(out, at)
		}
	}
	return out
}

// learnServers follows which servers the cluster has, until ctx ends.
func (a *Agent) learnServers(ctx context.Context) error {
	wake := a.cluster.Subscribe()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
		if s := a.cluster.Snapshot(); s != nil && s.Complete {
			if err := a.servers.Learn(serversIn(s.Slices)); err != nil {
				a.log.Warn("cannot learn the cluster's servers", "error", err)
			}
		}
		sleep.For(ctx, serversPause)
	}
}

// serversIn are the API servers by the endpoints of default/kubernetes.
func serversIn(all []*discoveryv1.EndpointSlice) []string {
	var out []string
	for _, s := range all {
		if s.Namespace != metav1.NamespaceDefault || s.Labels[discoveryv1.LabelServiceName] != "kubernetes" {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != "https" || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
				continue
			}
			for _, e := range s.Endpoints {
				if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					out = append(out, "https://"+net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
