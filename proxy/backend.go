package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"lockstep/proxy/rules"
)

// backend is one of the two implementations of iptables. They have rules of their own in one
// kernel, so all of ours must be in one of them.
type backend struct {
	name      string // "nft" or "legacy"
	restoring string // path of iptables-…-restore
	saving    string // path of iptables-…-save
}

const (
	// commandTimeout ends a command that hangs. Loading 10,000 services takes 3 s on a slow core.
	commandTimeout = 60 * time.Second
	// lockSeconds is how long the legacy commands wait for each other's lock; well above what
	// another program holds it for, and below commandTimeout.
	lockSeconds = "30"
)

func (b *backend) nft() bool { return b.name == "nft" }

// String names the backend and the command that writes.
func (b *backend) String() string { return b.name + " (" + b.restoring + ")" }

// counts implements tables.
func (b *backend) counts() bool { return b.nft() }

// generation implements tables.
func (b *backend) generation() (uint32, error) {
	if !b.nft() {
		return 0, nil
	}
	return generation()
}

// restore implements tables.
func (b *backend) restore(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.restoring, "--noflush", "-w", lockSeconds)
	cmd.Stdin = strings.NewReader(text)
	return run(ctx, cmd)
}

// save implements tables.
func (b *backend) save(ctx context.Context, table string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, b.saving, "-t", table)
	cmd.Stdout = &out
	if err := run(ctx, cmd); err != nil {
		return "", err
	}
	return out.String(), nil
}

// has implements tables.
func (b *backend) has(ctx context.Context, j rules.Jump) bool {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	tool := strings.TrimSuffix(b.restoring, "-restore")
	return run(ctx, exec.CommandContext(ctx, tool, "-w", lockSeconds, "-t", j.From.Table, "-C", j.From.Name, "-j", j.To)) == nil
}

// run reports a command's failure with the first line that it wrote about it.
func run(ctx context.Context, cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	detail := ""
	for line := range strings.Lines(stderr.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			detail = ": " + line
			break
		}
	}
	return fmt.Errorf("cannot run %s: %w%s", cmd.Path, err, detail)
}

// installed finds the backends that this machine has, nft first. Where the commands carry no
// backend in their name, the version says which one they are.
func installed(ctx context.Context, family rules.Family) ([]*backend, error) {
	command := "iptables"
	if family == rules.IPv6 {
		command = "ip6tables"
	}
	var found []*backend
	for _, name := range []string{"nft", "legacy"} {
		restoring, err1 := exec.LookPath(command + "-" + name + "-restore")
		saving, err2 := exec.LookPath(command + "-" + name + "-save")
		if err1 == nil && err2 == nil {
			found = append(found, &backend{name, restoring, saving})
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	restoring, err1 := exec.LookPath(command + "-restore")
	saving, err2 := exec.LookPath(command + "-save")
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("cannot find %s: %w", command, err)
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var version bytes.Buffer
	cmd := exec.CommandContext(ctx, restoring, "--version")
	cmd.Stdout = &version
	if err := run(ctx, cmd); err != nil {
		return nil, err
	}
	name := "legacy"
	if strings.Contains(version.String(), "nf_tables") {
		name = "nft"
	}
	return []*backend{{name, restoring, saving}}, nil
}

// Backend says which implementation of iptables a proxy uses here, "nft" or "legacy", and the path
// of its restore command.
func Backend(ctx context.Context) (name, restore string, err error) {
	b, err := detect(ctx, rules.IPv4)
	if err != nil {
		return "", "", err
	}
	return b.name, b.restoring, nil
}

// use is what a backend is seen to be used for.
type use struct {
	ours  bool // has chains of ours
	hints bool // has the chains by which the kubelet shows its choice
	rules int
}

// detect picks the backend: the one that has our chains already, else the one that the kubelet
// hints at, else the one with more rules, else nft. (The order of kubernetes-sigs/iptables-wrappers,
// with our own chains before it so that a restart never changes the choice.)
func detect(ctx context.Context, family rules.Family) (*backend, error) {
	found, err := installed(ctx, family)
	if err != nil {
		return nil, err
	}
	uses := make([]use, len(found))
	for i, b := range found {
		if len(found) > 1 {
			uses[i] = b.use(ctx)
		}
	}
	return found[choose(uses)], nil
}

func choose(uses []use) int {
	best := 0
	for i := 1; i < len(uses); i++ {
		if uses[i].over(uses[best]) {
			best = i
		}
	}
	return best
}

func (u use) over(other use) bool {
	if u.ours != other.ours {
		return u.ours
	}
	if u.hints != other.hints {
		return u.hints
	}
	return u.rules > other.rules
}

// use looks at all tables without creating any. What cannot be read counts as unused.
func (b *backend) use(ctx context.Context) use {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, b.saving)
	cmd.Stdout = &out
	if run(ctx, cmd) != nil {
		return use{}
	}
	var u use
	for line := range strings.Lines(out.String()) {
		switch {
		case strings.HasPrefix(line, ":"+rules.Prefix):
			u.ours = true
		case strings.HasPrefix(line, ":KUBE-IPTABLES-HINT "), strings.HasPrefix(line, ":KUBE-KUBELET-CANARY "):
			u.hints = true
		case strings.HasPrefix(line, "-A "):
			u.rules++
		}
	}
	return u
}
