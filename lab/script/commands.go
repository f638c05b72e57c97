package script

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// command is what a script has beside testscript's own commands (exec, cd, cp, cmp, stdout, …). It either acts, or asks;
// what asks may fail where a script says so (!), and be asked again and again (until).
type command struct {
	usage, does string
	act         func(*scenario, *testscript.TestScript, []string) error
	ask         asker
}

// asker returns what a command prints, also where it fails. Folder is the script's current one.
type asker func(c *scenario, ctx context.Context, folder string, args []string) (string, error)

// errUsage is returned for arguments that a command does not take.
var errUsage = errors.New("not these arguments")

// name is the command's first word.
func (d command) name() string { return strings.Fields(d.usage)[0] }

// scriptCommands are the commands as testscript takes them.
func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	out := map[string]func(*testscript.TestScript, bool, []string){}
	for _, d := range commands() {
		out[d.name()] = d.run
	}
	return out
}

func (d command) run(ts *testscript.TestScript, neg bool, args []string) {
	c := of(ts)
	if d.ask == nil {
		if neg {
			ts.Fatalf("%s cannot be expected to fail", d.name())
		}
		d.complain(ts, d.act(c, ts, args))
		return
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	out, err := d.ask(c, ctx, ts.MkAbs("."), args)
	_, _ = fmt.Fprint(ts.Stdout(), out)
	switch {
	case errors.Is(err, errUsage) || ctx.Err() != nil || err != nil && !neg:
		d.complain(ts, err)
	case err != nil:
		_, _ = fmt.Fprintln(ts.Stderr(), err)
	case neg:
		ts.Fatalf("it succeeds")
	}
}

func (d command) complain(ts *testscript.TestScript, err error) {
	if errors.Is(err, errUsage) {
		for _, other := range commands() {
			if other.name() == d.name() {
				ts.Logf("usage: %s", other.usage)
			}
		}
	}
	if err != nil {
		ts.Fatalf("%v", err)
	}
}

// asking returns the command that args begin with, which must be one that asks.
func asking(args []string) (asker, []string, error) {
	if len(args) == 0 {
		return nil, nil, errUsage
	}
	all := commands()
	i := slices.IndexFunc(all, func(d command) bool { return d.name() == args[0] && d.ask != nil })
	if i < 0 {
		return nil, nil, fmt.Errorf("%s is no command that prints something", args[0])
	}
	return all[i].ask, args[1:], nil
}

func (c *scenario) isAlone(_ *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	c.alone = true
	return nil
}

func (c *scenario) hasServers(_ *testscript.TestScript, args []string) error {
	if !slices.Equal(args, []string{"3"}) || !c.own {
		return errUsage
	}
	return nil
}

func (c *scenario) let(ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	ask, rest, err := asking(args[1:])
	if err != nil {
		return err
	}
	out, err := ask(c, c.t.Context(), ts.MkAbs("."), rest)
	ts.Setenv(args[0], strings.TrimSpace(out))
	return err
}

func (c *scenario) until(ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	if err != nil {
		return err
	}
	ask, rest, err := asking(args[1:])
	if err != nil {
		return err
	}
	return eventually(c.t.Context(), func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		defer cancel()
		out, err := ask(c, ctx, ts.MkAbs("."), rest)
		if pattern.MatchString(out) {
			return nil
		}
		return errors.Join(fmt.Errorf("it never printed %s, and last\n%s", args[0], out), err)
	})
}

func (c *scenario) includes(ts *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	have := strings.Split(ts.ReadFile("stdout"), "\n")
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if line = strings.TrimSuffix(line, "\n"); !slices.Contains(have, line) {
			return fmt.Errorf("%q is missing", line)
		}
	}
	return nil
}

func (c *scenario) image(_ *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	return c.stage.image(c.t.Context(), c.lab, args[0], args[1:])
}

func (c *scenario) program(_ *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	build := c.stage.options.Programs[args[0]]
	if build == nil {
		return fmt.Errorf("there is no program %s", args[0])
	}
	file, err := build()
	if err != nil {
		return err
	}
	return c.stage.pack(c.t.Context(), c.lab, args[1], file, []string{"/" + args[0]})
}

func (c *scenario) lap(*testscript.TestScript, []string) error {
	c.laps = append(c.laps, time.Since(c.pushed))
	return nil
}

func (c *scenario) checkLaps(ts *testscript.TestScript, args []string) error {
	if len(args) != 1 || len(c.laps) == 0 {
		return errUsage
	}
	limit, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	slices.Sort(c.laps)
	ts.Logf("%v", c.laps)
	if half := c.laps[len(c.laps)/2]; half > limit {
		return fmt.Errorf("half of %v took longer than %s", c.laps, limit)
	}
	return nil
}
