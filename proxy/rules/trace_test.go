package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// kernel interprets the subset of iptables that Ruleset.Text uses, for the first packet of a
// connection.
type kernel struct {
	tables map[string]map[string][]string
	local  []netip.Prefix // addresses of the node
}

// parseKernel loads a text as iptables-restore would.
func parseKernel(text string, local []netip.Prefix) (*kernel, error) {
	k := &kernel{tables: map[string]map[string][]string{}, local: local}
	var table map[string][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line == "COMMIT":
		case line[0] == '*':
			if table = k.tables[line[1:]]; table == nil {
				table = map[string][]string{}
				for _, j := range Jumps() {
					if j.From.Table == line[1:] {
						table[j.From.Name] = nil
					}
				}
				k.tables[line[1:]] = table
			}
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			if len(name) > 28 {
				return nil, fmt.Errorf("chain name is too long: %s", name)
			}
			table[name] = nil
		default:
			words := strings.SplitN(line, " ", 3)
			name := words[1]
			list, ok := table[name]
			if !ok {
				return nil, fmt.Errorf("no such chain: %s", line)
			}
			switch words[0] {
			case "-A":
				table[name] = append(list, words[2])
			case "-I":
				table[name] = slices.Insert(list, 0, strings.TrimPrefix(words[2], "1 "))
			default:
				return nil, fmt.Errorf("unknown command: %s", line)
			}
		}
	}
	return k, nil
}

// packet is the state of one packet on one of its possible ways.
type packet struct {
	src, dst   netip.Addr
	proto      string
	port       uint16
	fromNode   bool
	mark       bool
	direct     bool // it is the node's own connection to the API
	dnat       bool
	masquerade bool
	remember   map[string]bool // names of recent lists that have the source
	p          float64         // probability of this way
	steps      int             // rules compared
}

func (k *kernel) isLocal(a netip.Addr) bool {
	return slices.ContainsFunc(k.local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// way is one outcome.
type way struct {
	packet
	verdict string // "accept", "reject", "drop"
}

func (w way) String() string {
	s := w.verdict
	if w.verdict == "accept" {
		s = netip.AddrPortFrom(w.dst, w.port).String()
		if w.masquerade {
			s += " masqueraded"
		}
	}
	return s
}

// trace follows a packet through the hooks to all its outcomes.
func (k *kernel) trace(p packet) ([]way, error) {
	p.p = 1
	before, through := "PREROUTING", func(p packet) string {
		if k.isLocal(p.dst) {
			return "INPUT"
		}
		return "FORWARD"
	}
	if p.fromNode {
		before, through = "OUTPUT", func(packet) string { return "OUTPUT" }
	}
	var out []way
	ways, err := k.walk(NAT, before, p)
	for _, w := range ways {
		if err == nil {
			w, err2 := k.after(w.packet, through(w.packet))
			out, err = append(out, w...), err2
		}
	}
	return out, err
}

// after is the part behind the translation.
func (k *kernel) after(p packet, hook string) ([]way, error) {
	ways, err := k.walk(Filter, hook, p)
	if err != nil || hook == "INPUT" {
		return ways, err
	}
	var out []way
	for _, w := range ways {
		if w.verdict != "accept" {
			out = append(out, w)
			continue
		}
		more, err := k.walk(NAT, "POSTROUTING", w.packet)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// walk runs a built-in chain, whose policy is to accept.
func (k *kernel) walk(table, chain string, p packet) ([]way, error) {
	ways, rest, err := k.chain(table, chain, []packet{p}, 0)
	for _, p := range rest {
		ways = append(ways, way{p, "accept"})
	}
	return ways, err
}

// chain runs packets through a chain; rest are those that fall out of its end.
func (k *kernel) chain(table, name string, in []packet, depth int) (done []way, rest []packet, err error) {
	list, ok := k.tables[table][name]
	if !ok || depth > 40 {
		return nil, nil, fmt.Errorf("cannot jump to %s %s", table, name)
	}
	for _, text := range list {
		r, err := parseRule(text)
		if err != nil {
			return nil, nil, err
		}
		var next []packet
		for _, p := range in {
			p.steps++
			hit, missed := k.match(r, p)
			if missed.p > 0 {
				next = append(next, missed)
			}
			if hit.p == 0 {
				continue
			}
			switch r.target {
			case "ACCEPT":
				done = append(done, way{hit, "accept"})
			case "DROP":
				done = append(done, way{hit, "drop"})
			case "REJECT":
				done = append(done, way{hit, "reject"})
			case "RETURN":
				rest = append(rest, hit)
			case "MARK":
				hit.mark = r.options["--set-xmark"] == "0x2000/0x2000"
				next = append(next, hit)
			case "MASQUERADE":
				hit.masquerade = true
				done = append(done, way{hit, "accept"})
			case "DNAT":
				to, err := netip.ParseAddrPort(r.options["--to-destination"])
				if err != nil {
					return nil, nil, err
				}
				hit.dst, hit.port, hit.dnat = to.Addr(), to.Port(), true
				done = append(done, way{hit, "accept"})
			default:
				d, fell, err := k.chain(table, r.target, []packet{hit}, depth+1)
				if err != nil {
					return nil, nil, err
				}
				done, next = append(done, d...), append(next, fell...)
			}
		}
		in = next
	}
	return done, append(rest, in...), nil
}

// rule is a parsed rule: options in order, with "!" kept before a negated option's name.
type rule struct {
	options map[string]string
	order   []string
	target  string
}

func parseRule(text string) (rule, error) {
	r := rule{options: map[string]string{}}
	flags := []string{"--set", "--update", "--reap", "--rsource", "--random-fully"}
	words := strings.Fields(text)
	not := ""
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "!":
			not = "! "
		case slices.Contains(flags, w):
			r.options[w] = ""
			r.order = append(r.order, w)
		case i+1 == len(words):
			return r, fmt.Errorf("option without value: %s", text)
		case w == "-j":
			r.target = words[i+1]
			i++
		case w == "-m":
			i++
		default:
			r.options[not+w] = words[i+1]
			r.order = append(r.order, not+w)
			not = ""
			i++
		}
	}
	return r, nil
}

// match splits a packet into the part that matches and the part that does not.
func (k *kernel) match(r rule, p packet) (hit, missed packet) {
	hit, missed = p, p
	missed.p = 0
	none := func() (packet, packet) { hit.p = 0; return hit, p }
	for _, option := range r.order {
		name, not := strings.CutPrefix(option, "! ")
		value, ok := r.options[option], false
		switch name {
		case "-s", "-d":
			a := p.src
			if name == "-d" {
				a = p.dst
			}
			ok = netip.MustParsePrefix(value).Contains(a)
		case "-p":
			ok = value == p.proto
		case "-o":
			ok = p.fromNode && k.isLocal(p.dst)
		case "--dport":
			first, last, isRange := strings.Cut(value, ":")
			from, _ := strconv.Atoi(first)
			to := from
			if isRange {
				to, _ = strconv.Atoi(last)
			}
			ok = from <= int(p.port) && int(p.port) <= to
		case "--dst-type":
			ok = k.isLocal(p.dst)
		case "--src-type":
			ok = k.isLocal(p.src)
		case "--mark":
			ok = p.mark
			if value == fmt.Sprintf("%#x/%#[1]x", DirectMark) {
				ok = p.direct
			}
		case "--ctstate":
			states := strings.Split(value, ",")
			ok = slices.Contains(states, "NEW") || p.dnat && slices.Contains(states, "DNAT")
		case "--update":
			ok = p.remember[r.options["--name"]]
		case "--set":
			ok = true
			hit.remember = maps.Clone(p.remember)
			if hit.remember == nil {
				hit.remember = map[string]bool{}
			}
			hit.remember[r.options["--name"]] = true
		case "--probability":
			probability, _ := strconv.ParseFloat(value, 64)
			missed.p = p.p * (1 - probability)
			hit.p *= probability
			ok = true
		case "--mode", "--comment", "--seconds", "--reap", "--name", "--mask", "--rsource", "--set-xmark", "--reject-with",
			"--to-destination", "--random-fully":
			ok = true
		default:
			panic("the tracer does not know " + option)
		}
		if ok == not {
			return none()
		}
	}
	return hit, missed
}
