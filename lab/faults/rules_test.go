package faults

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/lab"
)

// foreignMark is in every rule that others made elsewhere, intruderMark in those that are put into our chains.
const (
	foreignMark  = "203.0.113.7"
	intruderMark = "203.0.113.9"
)

// rule is one line of iptables-save.
type rule struct{ table, line string }

func (r rule) chain() string { return strings.Fields(r.line)[1] }

// rest is the line without its command.
func (r rule) rest() string { return strings.TrimPrefix(r.line, "-A ") }

func (w *world) rules(h *lab.Host) []rule {
	w.t.Helper()
	text, err := h.Run(w.ctx, "iptables-save")
	if err != nil {
		w.t.Fatal(err)
	}
	var out []rule
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, "-A "):
			out = append(out, rule{table, line})
		}
	}
	return out
}

func (w *world) iptables(h *lab.Host, r rule, command string) {
	w.t.Helper()
	if _, err := h.Run(w.ctx, "sh", "-c", "iptables -w -t "+r.table+" "+command); err != nil {
		w.t.Fatal(err)
	}
}

// addForeign makes rules that are not ours, before and behind our jumps and in a table that iptables does not know.
func (w *world) addForeign(h *lab.Host) {
	w.t.Helper()
	script := fmt.Sprintf(`set -e
iptables -w -t nat -N OTHERS 2>/dev/null || true
iptables -w -t nat -F OTHERS
iptables -w -t nat -A OTHERS -s %[1]s/32 -p tcp -m tcp --dport 80 -j RETURN
iptables -w -t nat -A OTHERS -s %[1]s/32 -j ACCEPT
for chain in PREROUTING OUTPUT POSTROUTING; do iptables -w -t nat -A $chain -s %[1]s/32 -j OTHERS; done
for chain in INPUT FORWARD OUTPUT; do iptables -w -A $chain -s %[1]s/32 -j DROP; done
nft add table inet others
nft add chain inet others theirs
nft add rule inet others theirs ip saddr %[1]s accept`, foreignMark)
	if _, err := h.Run(w.ctx, "sh", "-c", script); err != nil {
		w.t.Fatal(err)
	}
}

// foreign is everything of others on the host, in order.
func (w *world) foreign(h *lab.Host) string {
	w.t.Helper()
	var out strings.Builder
	for _, r := range w.rules(h) {
		if strings.Contains(r.line, foreignMark) {
			fmt.Fprintln(&out, r.table, r.line)
		}
	}
	text, err := h.Run(w.ctx, "nft", "list", "table", "inet", "others")
	if err != nil {
		w.t.Fatal(err)
	}
	return out.String() + text
}

// ours are our rules, jumps included, but for those that a rollout changes: the service's that is rolled out, those for
// addresses of pods that may go, and those that divide a node's range, which depend on how many pods there are.
func (w *world) ours(h *lab.Host) []rule {
	w.t.Helper()
	var stay []netip.Addr
	for _, p := range w.pods("web") {
		stay = append(stay, netip.MustParseAddr(p.Status.PodIP))
	}
	found := w.rules(h)
	changing := []string{namespace + "/roll:"}
	for _, r := range found {
		if strings.Contains(r.line, namespace+"/roll:") {
			fields := strings.Fields(r.line)
			changing = append(changing, fields[len(fields)-1])
		}
	}
	return slices.DeleteFunc(found, func(r rule) bool {
		return !strings.Contains(r.line, "LOCKSTEP-") ||
			slices.ContainsFunc(changing, func(c string) bool { return strings.Contains(r.line, c) }) ||
			slices.ContainsFunc(podNetworks(r.line), func(p netip.Prefix) bool {
				return !p.IsSingleIP() || !slices.Contains(stay, p.Addr())
			})
	})
}

var podAddress = regexp.MustCompile(`\b10\.42\.\d+\.\d+(/\d+)?`)

// podNetworks are the addresses of pods, and the parts of nodes' ranges, that a rule is about.
func podNetworks(line string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range podAddress.FindAllString(line, -1) {
		if !strings.Contains(text, "/") {
			text += "/32"
		}
		if p := netip.MustParsePrefix(text); p.Bits() > 24 {
			out = append(out, p)
		}
	}
	return out
}

// ownChain matches the chains that have the rules for single pods of a node: they are named by what the addresses of all its
// pods have in common.
var ownChain = regexp.MustCompile(`\bLOCKSTEP-SELF-[0-9A-F]+-\d+`)

// back says whether the rules are there, each as often as before.
func (w *world) back(h *lab.Host, want []rule) (bool, string) {
	have := map[rule]int{}
	same := func(r rule) rule { return rule{r.table, ownChain.ReplaceAllString(r.line, "LOCKSTEP-SELF")} }
	for _, r := range w.rules(h) {
		have[same(r)]++
	}
	for _, r := range want {
		if r := same(r); have[r] > 0 {
			have[r]--
		} else {
			return false, fmt.Sprintf("%s: %s is missing", r.table, r.line)
		}
	}
	return true, ""
}

// answers says whether the web service answers on the host by its address.
func (w *world) answers(h *lab.Host) (bool, string) {
	service, err := w.client.CoreV1().Services(namespace).Get(w.ctx, "web", metav1.GetOptions{})
	if err != nil {
		return false, err.Error()
	}
	response, err := onHost(h).Get("http://" + service.Spec.ClusterIP)
	if err != nil {
		return false, err.Error()
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK, response.Status
}

func (w *world) flushRules(h *lab.Host) func() (bool, string) {
	want := w.ours(h)
	how := []string{
		"nft flush ruleset",
		// At once: between two commands the agent may have put rules back, and then the chains are in use.
		`for t in nat filter; do printf '*%s\nCOMMIT\n' $t | iptables-restore -w; done`,
		"for t in nat filter; do iptables -w -t $t -F; done",
	}[w.random.IntN(3)]
	if out, err := h.Run(w.ctx, "sh", "-c", how); err != nil {
		w.t.Fatal(err, out)
	}
	foreign := false
	return func() (bool, string) {
		if !foreign { // the flush took theirs, too
			_, _ = h.Run(w.ctx, "nft", "delete", "table", "inet", "others")
			w.addForeign(h)
			foreign = true
		}
		if ok, why := w.back(h, want); !ok {
			return false, why
		}
		return w.answers(h)
	}
}

func (w *world) removeRule(h *lab.Host) func() (bool, string) {
	want := w.ours(h)
	r := want[w.random.IntN(len(want))]
	w.iptables(h, r, "-D "+r.rest())
	return func() (bool, string) { return w.back(h, want) }
}

func (w *world) insertRule(h *lab.Host) func() (bool, string) {
	want := slices.DeleteFunc(w.ours(h), func(r rule) bool { return !strings.HasPrefix(r.chain(), "LOCKSTEP-") })
	r := want[w.random.IntN(len(want))]
	w.iptables(h, r, "-I "+r.chain()+" 1 -s "+intruderMark+"/32 -j RETURN")
	return func() (bool, string) {
		if slices.ContainsFunc(w.rules(h), func(r rule) bool { return strings.Contains(r.line, intruderMark) }) {
			return false, "the rule is still there"
		}
		return w.back(h, want)
	}
}

func (w *world) moveJump(h *lab.Host) func() (bool, string) {
	jumps := slices.DeleteFunc(w.ours(h), func(r rule) bool { return strings.HasPrefix(r.chain(), "LOCKSTEP-") })
	r := jumps[w.random.IntN(len(jumps))]
	w.iptables(h, r, "-D "+r.rest()+" && iptables -w -t "+r.table+" -A "+r.rest())
	return func() (bool, string) {
		var chain []string
		for _, have := range w.rules(h) {
			if have.table == r.table && have.chain() == r.chain() {
				chain = append(chain, have.line)
			}
		}
		first := slices.Index(chain, r.line) == 0 && !slices.Contains(chain[1:], r.line)
		return first, r.chain() + " of " + r.table + " has: " + strings.Join(chain, "; ")
	}
}
