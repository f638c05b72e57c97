//go:build soak

package faults

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"lockstep/internal/sleep"
	"lockstep/lab"
	"lockstep/lab/faults/history"
)

// hazard is what may happen to a cluster of several machines.
type hazard struct {
	name string
	// strike breaks it, and returns once the damage is done.
	strike strike
	// hold is for how long it lasts in the table; zero: what is done is done.
	hold time.Duration
}

// strike returns the hosts that are hit, and what ends it; nil: it is over already.
type strike func(c *cluster) (hit []*lab.Host, mend func(context.Context) error, err error)

// shortHold is for how long most faults last in the table: longer than a node's or a server's silence is waited for.
const shortHold = 15 * time.Second

// hazards are all there are. Away is for how long a host of pods is off the network.
func hazards(away time.Duration) []hazard {
	out := []hazard{}
	for _, who := range []struct {
		name string
		of   func(c *cluster) *lab.Host
	}{
		{"the leader", func(c *cluster) *lab.Host { h, _ := c.leader(); return h }},
		{"a follower", func(c *cluster) *lab.Host { _, others := c.leader(); return others[c.random.IntN(len(others))] }},
	} {
		out = append(out,
			hazard{name: who.name + " killed", hold: shortHold, strike: killing(who.of, lab.Daemon)},
			hazard{name: who.name + " cut", hold: shortHold, strike: lasting(who.of, (*lab.Lab).Cut)},
			hazard{name: who.name + " slow", hold: shortHold, strike: lasting(who.of, makeSlow)},
			hazard{name: who.name + "'s disk full", hold: shortHold, strike: lasting(who.of, (*lab.Lab).FillDisk)},
			hazard{name: who.name + " wiped", strike: once(who.of, (*lab.Lab).Wipe)},
		)
	}
	agent := func(c *cluster) *lab.Host { return c.lab.Agents()[c.random.IntN(len(c.lab.Agents()))] }
	return append(out,
		hazard{name: "the leader cut from agents only", hold: shortHold, strike: partLeader},
		hazard{name: "two servers of three cut", hold: shortHold, strike: cutTwo},
		hazard{name: "an agent's clock off", hold: shortHold, strike: lasting(agent, putClockOff)},
		hazard{name: "an agent killed", hold: shortHold, strike: killing(agent, lab.Agent)},
		hazard{name: "an agent rebooted", strike: once(agent, (*lab.Lab).Reboot)},
		hazard{name: "an agent cut", hold: away, strike: lasting(agent, (*lab.Lab).Cut)},
		hazard{name: "an agent wiped", strike: once(func(c *cluster) *lab.Host { return c.lab.Agents()[2] }, (*lab.Lab).Wipe)},
		hazard{name: "the hub away", hold: shortHold, strike: lasting(theHub, (*lab.Lab).Cut)},
		hazard{name: "all rebooted", strike: func(c *cluster) ([]*lab.Host, func(context.Context) error, error) {
			return append(c.lab.Servers(), c.lab.Agents()...), nil, c.lab.RebootAll(c.ctx)
		}},
		hazard{name: "etcd lost everywhere", strike: func(c *cluster) ([]*lab.Host, func(context.Context) error, error) {
			return c.lab.Servers(), nil, c.lab.WipeAll(c.ctx)
		}},
	)
}

func theHub(c *cluster) *lab.Host {
	h, err := c.lab.Host(lab.Hub)
	if err != nil {
		c.t.Fatal(err)
	}
	return h
}

func putClockOff(l *lab.Lab, h *lab.Host) error { return l.Skew(h, time.Minute) }

func makeSlow(l *lab.Lab, h *lab.Host) error {
	_, err := l.Slow(h)
	return err
}

// killing kills a service of a host, and mending starts it again.
func killing(of func(*cluster) *lab.Host, service string) strike {
	return func(c *cluster) ([]*lab.Host, func(context.Context) error, error) {
		h := of(c)
		return []*lab.Host{h}, func(ctx context.Context) error { return c.lab.Start(ctx, h, service) }, c.lab.Kill(c.ctx, h, service)
	}
}

// lasting does something to a host that healing it ends.
func lasting(of func(*cluster) *lab.Host, do func(*lab.Lab, *lab.Host) error) strike {
	return func(c *cluster) ([]*lab.Host, func(context.Context) error, error) {
		h := of(c)
		return []*lab.Host{h}, func(context.Context) error { return c.lab.Heal(h) }, do(c.lab, h)
	}
}

// once does something to a host that is over when it is done.
func once(of func(*cluster) *lab.Host, do func(*lab.Lab, context.Context, *lab.Host) error) strike {
	return func(c *cluster) ([]*lab.Host, func(context.Context) error, error) {
		h := of(c)
		return []*lab.Host{h}, nil, do(c.lab, c.ctx, h)
	}
}

func partLeader(c *cluster) ([]*lab.Host, func(context.Context) error, error) {
	leader, _ := c.leader()
	for _, h := range c.lab.Agents() {
		if err := c.lab.Partition(leader, h); err != nil {
			return nil, nil, err
		}
	}
	return []*lab.Host{leader}, func(context.Context) error { return c.lab.Heal(leader) }, nil
}

func cutTwo(c *cluster) ([]*lab.Host, func(context.Context) error, error) {
	leader, others := c.leader()
	hit := []*lab.Host{leader, others[c.random.IntN(len(others))]}
	for _, h := range hit {
		if err := c.lab.Cut(h); err != nil {
			return nil, nil, err
		}
	}
	return hit, func(context.Context) error {
		for _, h := range hit {
			if err := c.lab.Heal(h); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// outcome is what one hazard came to.
type outcome struct {
	name, hit string
	held      time.Duration
	// applied is how long after the strike a push was applied that was made after it; zero: not before the end of the hazard.
	applied time.Duration
	// repaired is how long all took to be well again, from the end of the hazard, or from its strike where that was its end.
	repaired time.Duration
	reads    tally // of the API
	here     tally // of the service, from hosts that were hit
	there    tally // from all others
	lost     []string
}

// tally sums up calls.
type tally struct {
	calls, failed, again int
	longest              time.Duration // of the outages
}

func tallied(calls []history.Call) (t tally) {
	for _, c := range calls {
		t.calls++
		switch {
		case !c.OK:
			t.failed++
		case c.Tries > 0:
			t.again++
		}
	}
	for _, o := range history.Outages(calls) {
		t.longest = max(t.longest, o.Lasted)
	}
	return t
}

func (t tally) String() string {
	text := fmt.Sprintf("%d of %d failed", t.failed, t.calls)
	if t.failed > 0 {
		text += fmt.Sprintf(", for %.1f s", t.longest.Seconds())
	}
	if t.again > 0 {
		text += fmt.Sprintf(", %d at another server", t.again)
	}
	return text
}

// slowRepair is from when on the log says what a repair has waited for.
const slowRepair = 5 * time.Second

// suffer has one hazard happen, for as long as it is to last, and waits until all is well.
func (c *cluster) suffer(h hazard, hold time.Duration) outcome {
	c.t.Helper()
	c.mu.Lock()
	calls, reads := len(c.calls), len(c.reads)
	c.mu.Unlock()
	began := time.Now()
	hit, mend, err := h.strike(c)
	if err != nil {
		c.t.Fatalf("%s: %v", h.name, err)
	}
	c.stand()
	struck, pushed := time.Now(), c.acked()
	out := outcome{name: h.name, hit: c.names(hit)}
	if mend != nil {
		out.held = hold
		ctx, cancel := context.WithDeadline(c.ctx, struck.Add(hold))
		for ctx.Err() == nil {
			if out.applied == 0 && c.highest() > pushed {
				out.applied = time.Since(began)
			}
			sleep.For(ctx, 50*time.Millisecond)
		}
		cancel()
		began = time.Now()
		if err := mend(c.ctx); err != nil {
			c.t.Fatalf("%s, and then: %v", h.name, err)
		}
		c.stand()
	}
	last, err := c.well(c.acked(), 2*patience)
	if err != nil {
		c.t.Fatalf("%s: %v", h.name, err)
	}
	out.repaired = time.Since(began)
	if out.repaired > slowRepair {
		c.t.Logf("%s: after %.1f s the last thing that was not well: %.300v", h.name, out.repaired.Seconds(), last)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out.reads = tallied(c.reads[reads:])
	here := func(call history.Call) bool {
		return slices.ContainsFunc(hit, func(h *lab.Host) bool { return h.Name == call.From })
	}
	out.here = tallied(slices.DeleteFunc(slices.Clone(c.calls[calls:]), func(call history.Call) bool { return !here(call) }))
	out.there = tallied(slices.DeleteFunc(slices.Clone(c.calls[calls:]), here))
	out.lost = c.lasting()
	return out
}

func (c *cluster) highest() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

func (c *cluster) names(hosts []*lab.Host) string {
	var out []string
	for _, h := range hosts {
		out = append(out, h.Name[strings.LastIndexByte(h.Name, '-')+1:])
	}
	return strings.Join(out, ", ")
}

func (o outcome) String() string {
	applied := "not while it lasted"
	switch {
	case o.held == 0:
		applied = "–"
	case o.applied > 0:
		applied = fmt.Sprintf("%.1f s", o.applied.Seconds())
	}
	here := "–"
	if o.here.calls > 0 {
		here = o.here.String()
	}
	lost := "nothing"
	if len(o.lost) > 0 {
		lost = strings.Join(o.lost, "; ")
	}
	return fmt.Sprintf("%s | %s | %.0f s | %s | %.1f s | %s | %s | %s | %s", o.name, o.hit, o.held.Seconds(), applied, o.repaired.Seconds(),
		o.reads, o.there, here, lost)
}

const header = "fault | on | held | next push applied | all well after | reads of the API | calls of the service | " +
	"from hosts that were hit | lost"

// TestSurvival breaks a cluster of three servers and three agents in all ways there are (LOCKSTEP_TABLE=1), and then at random, for as
// long as LOCKSTEP_SOAK says, and looks whether what was promised was kept.
func TestSurvival(t *testing.T) {
	seed := uint64(number(t, "LOCKSTEP_SEED", int(time.Now().UnixNano()%1_000_000)))
	soak, away := duration(t, "LOCKSTEP_SOAK", 45*time.Second), duration(t, "LOCKSTEP_AWAY", time.Minute)
	t.Logf("seed %d (LOCKSTEP_SEED), %s of random faults (LOCKSTEP_SOAK)", seed, soak)
	c := newCluster(t, seed)
	end := c.begin()
	defer end()
	all := hazards(away)
	if os.Getenv("LOCKSTEP_TABLE") != "" {
		t.Log(header)
		for _, h := range all {
			t.Log(c.suffer(h, h.hold))
		}
	}
	outcomes := map[string][]outcome{}
	began := time.Now()
	for n := 1; time.Since(began) < soak; n++ {
		h := all[c.random.IntN(len(all))]
		hold := time.Duration(1000+c.random.IntN(9000)) * time.Millisecond
		o := c.suffer(h, hold)
		outcomes[h.name] = append(outcomes[h.name], o)
		t.Logf("%s %3d | %s", time.Since(began).Round(time.Second), n, o)
	}
	end()
	log := c.finish()
	t.Log("\n" + summary(outcomes))
	t.Logf("%d pushes, %d reads, %d calls, %d runs of pods, %d writes to volumes", len(log.Pushes), len(log.Reads), len(c.calls),
		len(log.Runs), len(log.Writes))
	for _, violation := range log.Violations() {
		t.Error(violation)
	}
	if len(log.Pushes) == 0 || len(log.Reads) == 0 || len(log.Runs) == 0 || len(log.Writes) == 0 || len(log.Things) == 0 {
		t.Error("a client has seen nothing")
	}
}

func duration(t *testing.T, variable string, otherwise time.Duration) time.Duration {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		t.Fatalf("%s=%s is no duration", variable, text)
	}
	return d
}

// summary is a table of how soon all was well after each hazard.
func summary(outcomes map[string][]outcome) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "fault\ttimes\tall well after: median\tlongest\tfailed reads\tfailed calls")
	for _, name := range slices.Sorted(maps.Keys(outcomes)) {
		var took []time.Duration
		reads, calls := 0, 0
		for _, o := range outcomes[name] {
			took = append(took, o.repaired)
			reads, calls = reads+o.reads.failed, calls+o.there.failed
		}
		slices.Sort(took)
		_, _ = fmt.Fprintf(w, "%s\t%d\t%.1f s\t%.1f s\t%d\t%d\n", name, len(took), took[len(took)/2].Seconds(),
			took[len(took)-1].Seconds(), reads, calls)
	}
	_ = w.Flush()
	return text.String()
}
