// Package settings is what a cluster is made with and keeps for life: networks, domain and ports.
package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Ports are the first and the last of a range.
type Ports [2]int

// None says that no range is given.
func (r Ports) None() bool { return r == Ports{} }

// Refuses words, as Kubernetes does, why a service cannot have a node port outside the range; empty where it can.
func (r Ports) Refuses(port int32) string {
	if int(port) >= r[0] && int(port) <= r[1] {
		return ""
	}
	return "provided port is not in the valid range. The range of valid ports is " + r.String()
}

func (r Ports) String() string { return fmt.Sprintf("%d-%d", r[0], r[1]) }

// Settings of a cluster. Of what is given, the zero value of a field means that it is as the cluster has it.
type Settings struct {
	// PodCIDRs hold the pod ranges of all nodes, and ServiceCIDRs the addresses of services: each at most one of a family.
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	// Domain of the cluster's names, without a last dot.
	Domain string `json:"domain"`
	// NodePorts may be had by services of that type.
	NodePorts Ports `json:"nodePorts"`
}

// Default is what a cluster is made with where nothing else is given, and what every cluster has that was made before
// settings were stored: it never changes.
func Default() Settings {
	return Settings{
		PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		Domain:       "cluster.local",
		NodePorts:    Ports{30000, 32767}, // kube-apiserver's default for --service-node-port-range
	}
}

// Or is the settings with another's in place of what is not given.
func (s Settings) Or(other Settings) Settings {
	if len(s.PodCIDRs) == 0 {
		s.PodCIDRs = other.PodCIDRs
	}
	if len(s.ServiceCIDRs) == 0 {
		s.ServiceCIDRs = other.ServiceCIDRs
	}
	if s.Domain == "" {
		s.Domain = other.Domain
	}
	if s.NodePorts.None() {
		s.NodePorts = other.NodePorts
	}
	return s
}

// Equal says that nothing differs.
func (s Settings) Equal(other Settings) bool { return Differ("", s, "", other) == nil }

// Differ is an error that names the first setting that two who speak of one cluster have otherwise, both values, and who
// has which; nil where there is none.
func Differ(one string, s Settings, other string, t Settings) error {
	for _, f := range []struct {
		name    string
		is, was string
	}{
		{"the pod network", join(s.PodCIDRs), join(t.PodCIDRs)},
		{"the service network", join(s.ServiceCIDRs), join(t.ServiceCIDRs)},
		{"the domain", s.Domain, t.Domain},
		{"the range of node ports", s.NodePorts.String(), t.NodePorts.String()},
	} {
		if f.is != f.was {
			return fmt.Errorf("%s is %s %s and %s %s", f.name, f.is, one, f.was, other)
		}
	}
	return nil
}

func join(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

// Validate says what is wrong with the settings of a cluster.
func (s Settings) Validate() error {
	for _, list := range [][]netip.Prefix{s.PodCIDRs, s.ServiceCIDRs} {
		families := map[bool]bool{}
		for _, p := range list {
			if !p.IsValid() || families[p.Addr().Is4()] {
				return fmt.Errorf("cannot use network %v: there is one of its family already, or it is invalid", p)
			}
			if p != p.Masked() {
				return fmt.Errorf("cannot use network %v: want %v", p, p.Masked())
			}
			families[p.Addr().Is4()] = true
		}
		if len(list) == 0 {
			return errors.New("cannot do without a network for pods and one for services")
		}
	}
	for _, pods := range s.PodCIDRs {
		for _, services := range s.ServiceCIDRs {
			if pods.Overlaps(services) {
				return fmt.Errorf("cannot use pod network %v: it overlaps the service network %v", pods, services)
			}
		}
	}
	for _, services := range s.ServiceCIDRs {
		if bits := services.Addr().BitLen() - services.Bits(); bits < 4 {
			return fmt.Errorf("cannot use service network %v: it has no tenth address, which is the DNS's", services)
		}
	}
	if problems := validation.IsDNS1123Subdomain(s.Domain); len(problems) > 0 {
		return fmt.Errorf("cannot use domain %q: %s", s.Domain, strings.Join(problems, "; "))
	}
	if s.NodePorts[0] < 1 || s.NodePorts[1] > 65535 || s.NodePorts[0] > s.NodePorts[1] {
		return fmt.Errorf("cannot use node ports %s: not a range of ports", s.NodePorts)
	}
	return nil
}

// API are the service addresses of the API servers: the first of each network.
func (s Settings) API() []netip.Addr { return s.nth(1) }

// DNS are the service addresses at which names are answered: the tenth of each network.
func (s Settings) DNS() []netip.Addr { return s.nth(10) }

func (s Settings) nth(n int) []netip.Addr {
	var out []netip.Addr
	for _, network := range s.ServiceCIDRs {
		addr := network.Masked().Addr()
		for range n {
			addr = addr.Next()
		}
		out = append(out, addr)
	}
	return out
}

// Reserved are the addresses that only one service of the cluster's own may have, by its namespace/name.
func (s Settings) Reserved() map[netip.Addr]string {
	reserved := map[netip.Addr]string{}
	for _, addr := range s.API() {
		reserved[addr] = "default/kubernetes"
	}
	for _, addr := range s.DNS() {
		reserved[addr] = "kube-system/kube-dns"
	}
	return reserved
}

// Encode is the settings as they are stored and sent.
func (s Settings) Encode() json.RawMessage {
	data, err := json.Marshal(s)
	if err != nil {
		panic("settings: they must encode: " + err.Error()) // the type is this package's own
	}
	return data
}

// Decode reads what Encode wrote; nothing is Default.
func Decode(data []byte) (Settings, error) {
	if len(data) == 0 {
		return Default(), nil
	}
	var s Settings
	err := json.Unmarshal(data, &s)
	if err == nil {
		s = s.Or(Default()) // what a later release adds has been so before
		err = s.Validate()
	}
	if err != nil {
		return Settings{}, fmt.Errorf("cannot read the cluster's settings: %w", err)
	}
	return s, nil
}

// ParsePorts reads a range as Kubernetes' flags name it, "30000-32767"; nothing is the zero value.
func ParsePorts(text string) (Ports, error) {
	r, err := utilnet.ParsePortRange(text)
	if err != nil || text != "" && r.Size == 0 {
		return Ports{}, fmt.Errorf("cannot use ports %q: want FIRST-LAST", text)
	}
	if r.Size == 0 {
		return Ports{}, nil
	}
	return Ports{r.Base, r.Base + r.Size - 1}, nil
}

// ParseCIDRs reads networks as flags name them.
func ParseCIDRs(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || slices.Contains(out, p) {
			return nil, fmt.Errorf("cannot use network %q: want ADDRESS/BITS, each once", text)
		}
		out = append(out, p)
	}
	return out, nil
}
