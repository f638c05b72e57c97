package proxy

import (
	"context"
	"errors"
	"strings"

	"lockstep/proxy/rules"
)

// Cleanup removes every trace of a proxy from this network namespace: jumps and chains in each
// backend of each family that is installed, and the link. What is absent is fine, so it may be called twice. No
// proxy may run. Packet forwarding stays enabled, since others may have come to need it.
func Cleanup(ctx context.Context) error {
	var failed []error
	for _, family := range rules.Families() {
		found, err := installed(ctx, family)
		if err != nil && family == rules.IPv4 { // without its commands there were never rules of the other one
			failed = append(failed, err)
		}
		for _, b := range found {
			if b.use(ctx).ours { // so that no table is created just to look into it
				failed = append(failed, b.cleanup(ctx))
			}
		}
	}
	return errors.Join(append(failed, removeLink())...)
}

func (b *backend) cleanup(ctx context.Context) error {
	have, err := observe(ctx, b)
	if err != nil {
		return err
	}
	text := removal(have)
	if text == "" {
		return nil
	}
	return b.restore(ctx, text)
}

// removal deletes all that was observed. A chain that a foreign rule leads to stays, empty.
func removal(have observed) string {
	c := toward(have, nil, nil)
	c.jumps = nil
	var jumps strings.Builder
	for _, table := range rules.Tables() {
		var t strings.Builder
		for _, j := range rules.Jumps() {
			if j.From.Table == table {
				t.WriteString(strings.Repeat("-D "+j.From.Name+" "+j.Rule()+"\n", count(have.builtins[j.From], j.Rule())))
			}
		}
		if t.Len() > 0 {
			jumps.WriteString("*" + table + "\n" + t.String() + "COMMIT\n")
		}
	}
	chains, _ := c.text()
	return jumps.String() + chains
}
