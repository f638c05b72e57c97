package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"lockstep/proxy/rules"
)

// content is what iptables has without a kernel: it carries out what restore reads, all of a table or nothing.
type content map[rules.ChainID][]string

func newContent() content {
	k := content{}
	for _, j := range rules.Jumps() {
		k[j.From] = nil
	}
	return k
}

func (k content) restore(text string) error {
	_, err := k.transact(text)
	return err
}

// transact returns how many tables it carried out.
func (k content) transact(text string) (tables int, err error) {
	table, next := "", content(nil)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "COMMIT":
			clear(k)
			maps.Copy(k, next)
			tables++
		case line[0] == '*':
			table, next = line[1:], content{}
			for id, list := range k {
				next[id] = slices.Clone(list)
			}
		default:
			if err := next.carryOut(table, line); err != nil {
				return tables, err
			}
		}
	}
	return tables, nil
}

func (k content) carryOut(table, line string) error {
	words := strings.SplitN(line, " ", 3)
	id := rules.ChainID{Table: table}
	if len(words) > 1 {
		id.Name = strings.TrimPrefix(words[1], ":")
	}
	switch {
	case line[0] == ':':
		id.Name = words[0][1:]
		k[id] = nil
	case words[0] == "-A" && k.exists(id) && k.reaches(table, words[2]):
		k[id] = append(k[id], words[2])
	case words[0] == "-I" && k.exists(id) && k.reaches(table, words[2]):
		k[id] = slices.Insert(k[id], 0, strings.TrimPrefix(words[2], "1 "))
	case words[0] == "-D" && slices.Contains(k[id], words[2]):
		i := slices.Index(k[id], words[2])
		k[id] = slices.Delete(k[id], i, i+1)
	case words[0] == "-X" && k.exists(id) && len(k[id]) == 0 && !k.used(id):
		delete(k, id)
	default:
		return fmt.Errorf("cannot carry out: %s", line)
	}
	return nil
}

func (k content) exists(id rules.ChainID) bool { _, ok := k[id]; return ok }

func (k content) reaches(table, rule string) bool {
	to := target(rule)
	return !strings.HasPrefix(to, rules.Prefix) || k.exists(rules.ChainID{Table: table, Name: to})
}

func (k content) used(id rules.ChainID) bool {
	for other, list := range k {
		if other.Table == id.Table && slices.ContainsFunc(list, func(r string) bool { return target(r) == id.Name }) {
			return true
		}
	}
	return false
}

// save is what iptables-save would print.
func (k content) save(table string) string {
	var b strings.Builder
	b.WriteString("*" + table + "\n")
	for id := range k {
		if id.Table == table {
			b.WriteString(":" + id.Name + " - [0:0]\n")
		}
	}
	for id, list := range k {
		for _, r := range list {
			if id.Table == table {
				b.WriteString("-A " + id.Name + " " + r + "\n")
			}
		}
	}
	return b.String() + "COMMIT\n"
}

// observeFake reads content.
func observeFake(k content) observed {
	o := observed{chains: map[rules.ChainID][]string{}, builtins: map[rules.ChainID][]string{}, held: map[rules.ChainID]bool{}}
	for _, table := range rules.Tables() {
		o.parse(k.save(table))
	}
	return o
}

// ledger counts the transactions of all families of a fake namespace.
type ledger struct{ number uint32 }

// fake is the kernel of one family without one: it keeps what is written. It implements kernel and tables.
type fake struct {
	content
	ledger *ledger     // nil: transactions are not counted
	link   []string    // what the link lacks
	stale  int         // flows that are to be forgotten
	broken error       // what every call that can fail fails with; nil: none does
	writes int         // how often restore was called
	world  *sync.Mutex // held by whoever is at any of it while a proxy runs; nil: there is one goroutine
}

// enter returns how to leave.
func (f *fake) enter() func() {
	if f.world == nil {
		return func() {}
	}
	f.world.Lock()
	return f.world.Unlock
}

func (f *fake) String() string { return "fake" }

func (f *fake) open(context.Context) (tables, error) {
	defer f.enter()()
	return f, f.broken
}

func (f *fake) ensureLink(rules.Input) ([]string, error) {
	defer f.enter()()
	if f.broken != nil {
		return nil, f.broken
	}
	made := f.link
	f.link = nil
	return made, nil
}

func (f *fake) ensureSettings(in rules.Input) ([]string, error) { return f.ensureLink(in) }

func (f *fake) forget(rules.UDP) (int, error) {
	defer f.enter()()
	n := f.stale
	f.stale = 0
	return n, f.broken
}

func (f *fake) counts() bool { return f.ledger != nil }

func (f *fake) generation() (uint32, error) {
	defer f.enter()()
	if f.ledger == nil {
		return 0, nil
	}
	return f.ledger.number, f.broken
}

func (f *fake) restore(_ context.Context, text string) error {
	defer f.enter()()
	f.writes++
	if f.broken != nil {
		return f.broken
	}
	return f.others(text)
}

// others carries out what is not the proxy's.
func (f *fake) others(text string) error {
	tables, err := f.transact(text)
	if f.ledger != nil {
		f.ledger.number += uint32(tables)
	}
	return err
}

func (f *fake) save(_ context.Context, table string) (string, error) {
	defer f.enter()()
	if f.broken != nil {
		return "", f.broken
	}
	return f.content.save(table), nil
}

func (f *fake) has(_ context.Context, j rules.Jump) bool {
	defer f.enter()()
	return slices.Contains(f.content[j.From], j.Rule())
}

var errBroken = errors.New("broken")

var (
	_ kernel = (*fake)(nil)
	_ tables = (*fake)(nil)
	_ tables = (*backend)(nil)
)
