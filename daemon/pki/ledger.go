package pki

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	ledgerFile = "nodes.jsonl"
	// confirmEvery is how often the ledger says that it is in step with the store, and ledgerTrust how long before a new
	// store it may have said so last to be believed complete: a host that was off over night is, last week's backup is not.
	confirmEvery = time.Hour
	ledgerTrust  = 24 * time.Hour
	// newStore is how much younger than the authority a store is that was made anew: both are made in the same start.
	newStore = time.Hour
)

// known is what there is to know of the authority's certificates for nodes.
type known struct {
	Nodes   map[string]registration // by name
	Removed map[string]removed      // by key
	// Unproven is until when certificates may live whose names are not known; zero: all are.
	Unproven time.Time
}

func nothingKnown() known {
	return known{Nodes: map[string]registration{}, Removed: map[string]removed{}}
}

// entry is one line of the ledger, and says one thing.
type entry struct {
	Node     string        `json:"node,omitempty"` // with Is: a name and its key; without: a name that is free again
	Is       *registration `json:"is,omitempty"`
	Key      string        `json:"key,omitempty"` // with Removed: a key that holds no more; without: one that may be forgotten
	Removed  *removed      `json:"removed,omitempty"`
	InStep   time.Time     `json:"inStep,omitzero"`
	Unproven time.Time     `json:"unproven,omitzero"`
}

// Ledger is the authority's own record of which names its certificates bear and which keys hold no more, beside its key:
// it lives as long as the authority does, also where the store is lost. Its lines are added at the end, so that each
// costs the same however many nodes there are.
type Ledger struct {
	vault Vault

	mu     sync.Mutex
	known  known
	inStep time.Time
	begun  bool // there is a file
	torn   bool // the last line may be half written
}

// OpenLedger reads the ledger in the vault. Where there is none it is made with the first thing to write.
func OpenLedger(vault Vault) (*Ledger, error) {
	l := &Ledger{vault: vault, known: nothingKnown()}
	data, err := vault.Read(ledgerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the ledger of nodes: %w", err)
	}
	l.begun = true
	lines := bytes.SplitAfter(data, []byte("\n"))
	for i, line := range lines {
		if len(line) == 0 {
			continue
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			if i == len(lines)-1 { // a crash while it was written: nobody was told that it is there
				l.torn = true
				break
			}
			return nil, fmt.Errorf("cannot read line %d of the ledger of nodes: %w", i+1, err)
		}
		l.take(e)
	}
	if l.compact() != nil {
		l.torn = true // the disk is full, which keeps no server from starting: it is tried again before the next line
	}
	return l, nil
}

func (l *Ledger) take(e entry) {
	switch {
	case e.Is != nil:
		l.known.Nodes[e.Node] = *e.Is
	case e.Node != "":
		delete(l.known.Nodes, e.Node)
	}
	switch {
	case e.Removed != nil:
		l.known.Removed[e.Key] = *e.Removed
	case e.Key != "":
		delete(l.known.Removed, e.Key)
	}
	if !e.InStep.IsZero() {
		l.inStep = e.InStep
	}
	if !e.Unproven.IsZero() {
		l.known.Unproven = e.Unproven
	}
}

// compact writes the ledger anew, without what later lines have undone.
func (l *Ledger) compact() error {
	data, err := encode(append(differences(nothingKnown(), l.known), entry{InStep: l.inStep}))
	if err == nil {
		err = l.vault.Replace(ledgerFile, data)
	}
	if err != nil {
		return fmt.Errorf("cannot write the ledger of nodes: %w", err)
	}
	l.begun, l.torn = true, false
	return nil
}

// read returns a copy of what the ledger has, when it was in step with the store last, and whether there is one at all.
func (l *Ledger) read() (known, time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := known{Nodes: maps.Clone(l.known.Nodes), Removed: maps.Clone(l.known.Removed), Unproven: l.known.Unproven}
	return k, l.inStep, l.begun
}

// Knows says that the authority has given certificates to nodes, and which are not removed.
func (l *Ledger) Knows() bool {
	known, _, _ := l.read()
	return len(known.Nodes) > 0
}

// follow makes the ledger say what the store does, and that it does so now. The store is asked while nobody adds a line:
// what was noted ahead of it is in it by then.
func (l *Ledger) follow(store func() known, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries := differences(l.known, store())
	if len(entries) == 0 && now.Sub(l.inStep) < confirmEvery {
		return nil
	}
	return l.write(append(entries, entry{InStep: now.UTC()}))
}

// register notes a name unless it is known: no certificate is handed out before, also where the disk was full at first.
func (l *Ledger) register(node string, is registration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known.Nodes[node].Key == is.Key {
		return nil
	}
	return l.write([]entry{{Node: node, Is: &is}})
}

// note adds one thing ahead of the store's own telling of it.
func (l *Ledger) note(entries ...entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write(entries)
}

func (l *Ledger) write(entries []entry) error {
	data, err := encode(entries)
	if err != nil {
		return err
	}
	if !l.begun || l.torn {
		if err := l.compact(); err != nil {
			return err
		}
	}
	if err := l.vault.Append(ledgerFile, data); err != nil {
		l.torn = true
		return err
	}
	for _, e := range entries {
		l.take(e)
	}
	return nil
}

func encode(entries []entry) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	for _, e := range entries {
		if err := encoder.Encode(e); err != nil {
			return nil, fmt.Errorf("cannot encode the ledger of nodes: %w", err)
		}
	}
	return out.Bytes(), nil
}

// differences are the lines that lead from one state to another.
func differences(old, new known) []entry {
	var out []entry
	for _, node := range slices.Sorted(maps.Keys(old.Nodes)) {
		if _, stays := new.Nodes[node]; !stays {
			out = append(out, entry{Node: node})
		}
	}
	for _, node := range slices.Sorted(maps.Keys(new.Nodes)) {
		if is := new.Nodes[node]; old.Nodes[node] != is {
			out = append(out, entry{Node: node, Is: &is})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(old.Removed)) {
		if _, stays := new.Removed[key]; !stays {
			out = append(out, entry{Key: key})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(new.Removed)) {
		if is := new.Removed[key]; old.Removed[key] != is {
			out = append(out, entry{Key: key, Removed: &is})
		}
	}
	if !new.Unproven.Equal(old.Unproven) {
		out = append(out, entry{Unproven: new.Unproven})
	}
	return out
}
