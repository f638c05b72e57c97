package names

import "net/netip"

// Data is what the names of a cluster depend on, and no more; texts are in lower case.
type Data struct {
	// Domain of the cluster, such as "cluster.local", without a last dot.
	Domain   string    `json:"domain"`
	Services []Service `json:"services,omitempty"`
	// Namespaces that exist. Known says that these are all; else pods' names are answered in any namespace.
	Namespaces []string `json:"namespaces,omitempty"`
	Known      bool     `json:"known,omitempty"`
	// Networks of the cluster's services and pods. The name of an address in them is never asked for upstream.
	Networks []netip.Prefix `json:"networks,omitempty"`
}

// Service is what has a name.
type Service struct {
	Name      string       `json:"name"` // <service>.<namespace>
	Addresses []netip.Addr `json:"addresses,omitempty"`
	External  string       `json:"external,omitempty"` // the target of an ExternalName service, without the last dot
	Headless  bool         `json:"headless,omitempty"`
	Ports     []Port       `json:"ports,omitempty"`
	Hosts     []Host       `json:"hosts,omitempty"` // of a headless service, sorted
}

// Port is one port of a service or endpoint.
type Port struct {
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"`
	Number   uint16 `json:"number"`
}

// Host is an endpoint of a headless service.
type Host struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	Ports   []Port     `json:"ports,omitempty"`
}

// Zone is data indexed by name. It is immutable.
type Zone struct {
	domain     string
	services   map[string]*Service
	namespaces map[string]bool
	known      bool // namespaces is complete
	names      map[netip.Addr][]string
	networks   []netip.Prefix
}

// NewZone indexes data, which it keeps.
func NewZone(d Data) *Zone {
	z := &Zone{domain: d.Domain, services: make(map[string]*Service, len(d.Services)), namespaces: make(map[string]bool, len(d.Namespaces)),
		known: d.Known, names: make(map[netip.Addr][]string, len(d.Services)), networks: d.Networks}
	for _, n := range d.Namespaces {
		z.namespaces[n] = true
	}
	for i := range d.Services {
		s := &d.Services[i]
		z.services[s.Name] = s
		for _, a := range s.Addresses {
			z.names[a] = append(z.names[a], s.Name+".svc."+z.domain)
		}
		for _, h := range s.Hosts {
			z.names[h.Address] = append(z.names[h.Address], h.Name+"."+s.Name+".svc."+z.domain)
		}
	}
	return z
}
