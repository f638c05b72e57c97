package proxy

import (
	"context"
	"fmt"

	"lockstep/proxy/rules"
)

// tables are one family's iptables in one network namespace.
type tables interface {
	fmt.Stringer
	// counts says whether every transaction is counted, whoever makes it. Else only reading tells what others did.
	counts() bool
	// generation is the number of the last transaction of any family; 0 where they are not counted.
	generation() (uint32, error)
	// restore carries out what iptables-restore reads, table by table in the text's order, each as one transaction. A chain
	// that is declared is created or emptied, and nothing else is flushed. On an error the table that has it, and those after
	// it, are as they were.
	restore(ctx context.Context, text string) error
	// save is a table as iptables-save prints it; without lines that matter where there is no such table.
	save(ctx context.Context, table string) (string, error)
	// has tells whether a jump exists, also in a table that save cannot print.
	has(ctx context.Context, j rules.Jump) bool
}

// kernel is all that a keeper writes of its family.
type kernel interface {
	// open chooses the tables, the same ones again for as long as they have chains of ours.
	open(ctx context.Context) (tables, error)
	// ensureLink makes the link of the service networks as the input wants it, with its addresses, routes and settings. It
	// returns a line for each that it had to make; none if all was there.
	ensureLink(in rules.Input) (made []string, err error)
	// ensureSettings is the part of it of which the kernel does not tell that it changed.
	ensureSettings(in rules.Input) (made []string, err error)
	// forget deletes the remembered flows that do not agree with udp, and returns their number.
	forget(udp rules.UDP) (int, error)
}

// host is the kernel of this network namespace.
type host struct{ family rules.Family }

func (h host) open(ctx context.Context) (tables, error) {
	b, err := detect(ctx, h.family)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (h host) ensureLink(in rules.Input) ([]string, error) { return ensureLink(in, h.family) }

func (h host) ensureSettings(in rules.Input) ([]string, error) { return ensureSettings(in, h.family) }

func (h host) forget(udp rules.UDP) (int, error) {
	local, err := localAddresses(h.family)
	if err != nil {
		return 0, err
	}
	return forget(udp, local, h.family)
}
