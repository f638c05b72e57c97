package rules

// Chains whose names do not depend on the input.
const (
	chainInput       = Prefix + "INPUT"
	chainForward     = Prefix + "FORWARD"
	chainOutput      = Prefix + "OUTPUT"
	chainRefuse      = Prefix + "REFUSE"
	chainRefusePorts = Prefix + "REFUSE-NODE"
	chainServices    = Prefix + "SERVICES"
	chainOffNetwork  = Prefix + "OFF-NETWORK"
	chainNode        = Prefix + "NODE"
	chainPostrouting = Prefix + "POSTROUTING"
	chainMasquerade  = Prefix + "MASQUERADE"
	chainHairpin     = Prefix + "HAIRPIN"
	chainEgress      = Prefix + "EGRESS"
)

// The mark of packets to be masqueraded is one bit that no well-known user of packet marks claims
// (kube-proxy 0x4000 and 0x8000, Cilium 0x0f00, Calico and Tailscale 0x00ff0000 and up).
const (
	setMark   = "-j MARK --set-xmark 0x2000/0x2000"
	clearMark = "-j MARK --set-xmark 0x0/0x2000"
	hasMark   = "-m mark --mark 0x2000/0x2000"
)

// DirectMark is the bit of the node's own connections to the API, which no service's rules apply to: what they learn from
// the API must not decide whether they reach it. It is as free as the other one.
const DirectMark = 0x1000

const isDirect = "-m mark --mark 0x1000/0x1000"

// masquerade picks its port at random: two CPUs that pick the next free one at once would lose a
// packet.
const masquerade = "-j MASQUERADE --random-fully"

// Compile is the rule set of an input. It is a pure function; a Compiler gives the same result
// faster when little has changed.
func Compile(in Input, family Family) *Ruleset { return NewCompiler(family).Compile(in) }

// Compiler makes rule sets of one family, of the parts that each fill their hooks. What the parts remember makes the next one
// faster. It is for one goroutine.
type Compiler struct {
	family Family
	parts  []part
}

// NewCompiler returns a Compiler that remembers nothing yet.
func NewCompiler(family Family) *Compiler {
	return &Compiler{family: family, parts: []part{ground{}, newServices(), hostPorts{}, hairpins{}}}
}

// Compile is the rule set of an input; what it returns is not changed by later calls.
func (c *Compiler) Compile(in Input) *Ruleset {
	s, b := settingOf(c.family, in), newBoard(in)
	for _, p := range c.parts {
		p.fill(b, s, in)
	}
	return b.ruleset()
}
