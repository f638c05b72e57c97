package names

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const (
	// ttl is short, in seconds, because a service's endpoints change while it is being used; it
	// is what CoreDNS ships with.
	ttl = 5
	// aliasesMost bounds a chain of ExternalName services that lead to one another.
	aliasesMost = 8
	// specVersion is the version of the specification that the names follow.
	// (https://github.com/kubernetes/dns/blob/master/docs/specification.md)
	specVersion = "1.1.0"
	// leastRecord is what a record takes of a message, in bytes: a pointer to its name, its header, and an IPv4 address.
	leastRecord = 2 + 10 + 4
	// recordsMost bounds the records of an answer: what is left out would be cut off in any case.
	recordsMost = dns.MaxMsgSize / leastRecord
)

// Answer is what a zone says to a question.
type Answer struct {
	// Ours tells whether the zone is authoritative for the name. If it is not, nothing else is set
	// and the question belongs upstream.
	Ours    bool
	Rcode   int // dns.RcodeSuccess, also without any record, or dns.RcodeNameError
	Records []dns.RR
	Extra   []dns.RR // addresses of the targets in Records
	SOA     dns.RR   // set where there are no records: how long that may be remembered
	// Follow is the name outside the cluster at which the last alias in Records ends; the same
	// question about it belongs upstream.
	Follow string
}

// Answer decides the answer to a question of class IN. Names are compared without regard to case
// and given back as they were asked. Several addresses are rotated by seed, so that clients which
// take the first one spread over them.
func (z *Zone) Answer(q dns.Question, seed uint32) Answer {
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if a, ok := reverse(name); ok {
		return z.answerReverse(q, a, seed)
	}
	path, ok := z.cut(name)
	if !ok {
		return Answer{}
	}
	r := &response{zone: z, question: q, seed: seed, out: Answer{Ours: true, Rcode: dns.RcodeNameError}}
	r.resolve(q.Name, path)
	return r.finish()
}

// cut returns the name relative to the zone.
func (z *Zone) cut(name string) (string, bool) {
	if name == z.domain {
		return "", true
	}
	return strings.CutSuffix(name, "."+z.domain)
}

func (z *Zone) answerReverse(q dns.Question, a netip.Addr, seed uint32) Answer {
	names := z.names[a]
	r := &response{zone: z, question: q, seed: seed, out: Answer{Ours: true, Rcode: dns.RcodeNameError}}
	if len(names) == 0 {
		for _, n := range z.networks {
			if n.Contains(a) {
				return r.finish()
			}
		}
		return Answer{}
	}
	r.exists()
	if r.asks(dns.TypePTR) {
		for _, name := range names {
			r.add(&dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: dns.Fqdn(name)})
		}
	}
	return r.finish()
}

// response is an answer in the making.
type response struct {
	zone     *Zone
	question dns.Question
	seed     uint32
	out      Answer
	extra    map[extra]bool // what Extra has
}

type extra struct {
	target  string
	address netip.Addr
}

// resolve answers for a name, the question's or one that an alias led to; path is relative to the
// zone and in lower case. A name that has no records but names below it exists.
func (r *response) resolve(owner, path string) {
	labels := strings.Split(path, ".")
	last := labels[len(labels)-1]
	switch {
	case path == "":
		r.exists()
		r.resolveApex(owner)
	case path == "dns-version":
		r.exists()
		if r.asks(dns.TypeTXT) {
			r.add(&dns.TXT{Hdr: header(owner, dns.TypeTXT), Txt: []string{specVersion}})
		}
	case len(labels) == 1 && (last == "svc" || last == "pod"):
		r.exists()
	case last == "svc":
		r.resolveService(owner, labels[:len(labels)-1])
	case last == "pod":
		r.resolvePod(owner, labels[:len(labels)-1])
	}
}

func (r *response) resolveApex(owner string) {
	if r.asks(dns.TypeSOA) {
		r.add(r.zone.soa(owner))
	}
	if r.asks(dns.TypeNS) {
		r.add(&dns.NS{Hdr: header(owner, dns.TypeNS), Ns: r.zone.server()})
	}
}

// resolvePod answers 10-42-0-5.<namespace>.pod with the address in the name.
func (r *response) resolvePod(owner string, labels []string) {
	namespace := labels[len(labels)-1]
	if r.zone.known && !r.zone.namespaces[namespace] {
		return
	}
	switch len(labels) {
	case 1:
		if r.zone.namespaces[namespace] {
			r.exists()
		}
	case 2:
		if a, ok := undashed(labels[0]); ok {
			r.exists()
			r.addAddresses(owner, a)
		}
	}
}

func (r *response) resolveService(owner string, labels []string) {
	n := len(labels)
	if n == 1 {
		if r.zone.namespaces[labels[0]] {
			r.exists()
		}
		return
	}
	svc := r.zone.services[labels[n-2]+"."+labels[n-1]]
	if svc == nil {
		return
	}
	switch below := labels[:n-2]; {
	case svc.External != "":
		if len(below) == 0 {
			r.exists()
			r.follow(owner, svc.External)
		}
	case len(below) == 0:
		r.exists()
		r.addService(owner, svc)
		if r.question.Qtype == dns.TypeSRV {
			r.addServices(owner, svc, func(Port) bool { return true })
		}
	case len(below) == 1 && strings.HasPrefix(below[0], "_"):
		if svc.has(func(p Port) bool { return "_"+p.Protocol == below[0] }) {
			r.exists()
		}
	case len(below) == 1:
		r.addHost(owner, svc, below[0])
	case len(below) == 2:
		match := func(p Port) bool { return p.Name != "" && "_"+p.Name == below[0] && "_"+p.Protocol == below[1] }
		if svc.has(match) {
			r.exists()
			if r.asks(dns.TypeSRV) {
				r.addServices(owner, svc, match)
			}
		}
	}
}

// has tells whether a port of the service, or of an endpoint of a headless one, matches.
func (e *Service) has(match func(Port) bool) bool {
	for _, p := range e.Ports {
		if match(p) {
			return true
		}
	}
	for _, h := range e.Hosts {
		for _, p := range h.Ports {
			if match(p) {
				return true
			}
		}
	}
	return false
}

// follow answers with an alias, and what it leads to if that is a name of ours.
func (r *response) follow(owner, target string) {
	target += "."
	alias := &dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: target}
	if slices.ContainsFunc(r.out.Records, func(rr dns.RR) bool { return dns.IsDuplicate(rr, alias) }) {
		return // a circle
	}
	r.add(alias)
	if r.question.Qtype == dns.TypeCNAME || len(r.out.Records) > aliasesMost {
		return
	}
	path, ours := r.zone.cut(strings.TrimSuffix(target, "."))
	if !ours {
		r.out.Follow = target
		return
	}
	r.out.Rcode = dns.RcodeNameError
	r.resolve(target, path)
}

func (r *response) addService(owner string, svc *Service) {
	if !svc.Headless {
		r.addAddresses(owner, svc.Addresses...)
		return
	}
	var addresses []netip.Addr
	for _, h := range svc.Hosts {
		if n := len(addresses); n == 0 || addresses[n-1] != h.Address {
			addresses = append(addresses, h.Address)
		}
	}
	r.addAddresses(owner, addresses...)
}

// addHost answers for one endpoint of a headless service.
func (r *response) addHost(owner string, svc *Service, name string) {
	for _, h := range svc.Hosts {
		if h.Name == name {
			r.exists()
			r.addAddresses(owner, h.Address)
		}
	}
}

// addServices answers SRV: the service itself, or each endpoint of a headless one.
func (r *response) addServices(owner string, svc *Service, match func(Port) bool) {
	suffix := svc.Name + ".svc." + r.zone.domain + "."
	add := func(target string, p Port, addresses ...netip.Addr) (more bool) {
		if len(r.out.Records) >= recordsMost {
			return false
		}
		r.add(&dns.SRV{Hdr: header(owner, dns.TypeSRV), Priority: 0, Weight: 100, Port: p.Number, Target: target})
		for _, a := range addresses {
			r.addExtra(target, a)
		}
		return true
	}
	if svc.Headless {
		for _, h := range svc.Hosts {
			for _, p := range h.Ports {
				if match(p) && !add(h.Name+"."+suffix, p, h.Address) {
					return
				}
			}
		}
		return
	}
	for _, p := range svc.Ports {
		if match(p) && !add(suffix, p, svc.Addresses...) {
			return
		}
	}
}

func (r *response) addAddresses(owner string, addresses ...netip.Addr) {
	var list []netip.Addr
	for _, a := range addresses {
		if r.asks(kindOf(a)) {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return
	}
	first := int(r.seed % uint32(len(list)))
	for i := range min(len(list), recordsMost) {
		r.add(addressRecord(owner, list[(first+i)%len(list)]))
	}
}

// addExtra adds an address once: several ports have one target.
func (r *response) addExtra(target string, a netip.Addr) {
	key := extra{target, a}
	if r.extra[key] {
		return
	}
	if r.extra == nil {
		r.extra = map[extra]bool{}
	}
	r.extra[key] = true
	r.out.Extra = append(r.out.Extra, addressRecord(target, a))
}

func (r *response) exists() { r.out.Rcode = dns.RcodeSuccess }

func (r *response) asks(kind uint16) bool {
	return r.question.Qtype == kind || r.question.Qtype == dns.TypeANY
}

func (r *response) add(records ...dns.RR) { r.out.Records = append(r.out.Records, records...) }

// finish says for how long it may be remembered that there is nothing.
func (r *response) finish() Answer {
	empty := true
	for _, record := range r.out.Records {
		empty = empty && record.Header().Rrtype == dns.TypeCNAME && r.question.Qtype != dns.TypeCNAME
	}
	if empty && r.out.Follow == "" {
		r.out.SOA = r.zone.soa(r.zone.domain + ".")
	}
	return r.out
}

// server is the name of the zone's servers: the DNS service, whose address each node answers.
func (z *Zone) server() string { return "kube-dns.kube-system.svc." + z.domain + "." }

// soa has no serial that counts: nobody transfers the zone.
func (z *Zone) soa(owner string) dns.RR {
	return &dns.SOA{
		Hdr: header(owner, dns.TypeSOA), Ns: z.server(), Mbox: "hostmaster." + z.domain + ".",
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

func header(owner string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func kindOf(a netip.Addr) uint16 {
	if a.Is4() {
		return dns.TypeA
	}
	return dns.TypeAAAA
}

func addressRecord(owner string, a netip.Addr) dns.RR {
	if a.Is4() {
		return &dns.A{Hdr: header(owner, dns.TypeA), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: a.AsSlice()}
}

// reverse reads a name such as 5.0.42.10.in-addr.arpa, or its form of 32 digits in ip6.arpa.
func reverse(name string) (netip.Addr, bool) {
	if text, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(text, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil
	}
	text, ok := strings.CutSuffix(name, ".ip6.arpa")
	labels := strings.Split(text, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, label := range labels {
		digit, err := strconv.ParseUint(label, 16, 4)
		if err != nil || len(label) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

// Dashed is the label that stands for an address: 10-42-0-5.
func Dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// undashed reads such a label.
func undashed(label string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
		return a, true
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return a, err == nil
}
