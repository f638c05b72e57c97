package script

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lockstep/lab"
)

// fault does what lockstep-lab does by these words.
func (c *scenario) fault(ts *testscript.TestScript, args []string) error {
	if !c.alone {
		return errors.New("others use the lab, too: a scenario that breaks it begins with the line alone REASON")
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	switch {
	case slices.Equal(args, []string{"forge", "fail"}):
		return c.lab.FailForge(ctx)
	case slices.Equal(args, []string{"forge", "heal"}):
		return c.lab.HealForge(ctx)
	case slices.Equal(args, []string{"reboot", "--all"}):
		c.restarted = true
		return c.lab.RebootAll(ctx)
	case slices.Equal(args, []string{"wipe", "--all"}):
		c.restarted = true
		return c.lab.WipeAll(ctx)
	case len(args) == 2 && args[0] == "backup":
		return c.lab.Backup(ctx, ts.MkAbs(args[1]))
	case len(args) < 2:
		return errUsage
	}
	h, err := c.lab.Host(args[1])
	if err != nil {
		return err
	}
	c.restarted = c.restarted || h == c.lab.Server()
	switch service, alone, other := c.onService(args[0]), c.onHost(args[0]), c.onHostAnd(args[0]); {
	case service != nil && len(args) == 3:
		return service(ctx, h, args[2])
	case alone != nil && len(args) == 2:
		return alone(ctx, h)
	case other != nil && len(args) == 3:
		return other(h, args[2])
	}
	return errUsage
}

// onService returns the fault of that name of a host's service; nil: there is none.
func (c *scenario) onService(name string) func(context.Context, *lab.Host, string) error {
	return map[string]func(context.Context, *lab.Host, string) error{
		"kill": c.lab.Kill, "stop": c.lab.Stop, "start": c.lab.Start,
	}[name]
}

// onHost returns the fault of that name of a host; nil: there is none.
func (c *scenario) onHost(name string) func(context.Context, *lab.Host) error {
	return map[string]func(context.Context, *lab.Host) error{
		"cut":  func(_ context.Context, h *lab.Host) error { return c.lab.Cut(h) },
		"heal": func(_ context.Context, h *lab.Host) error { return c.lab.Heal(h) },
		"slow": func(_ context.Context, h *lab.Host) error {
			by, err := c.lab.Slow(h)
			c.t.Log(by)
			return err
		},
		"disk-full": func(_ context.Context, h *lab.Host) error { return c.lab.FillDisk(h) },
		"reboot":    c.lab.Reboot,
		"wipe":      c.lab.Wipe,
	}[name]
}

// onHostAnd returns the fault of that name of a host and something else; nil: there is none.
func (c *scenario) onHostAnd(name string) func(*lab.Host, string) error {
	return map[string]func(*lab.Host, string) error{
		"partition": func(h *lab.Host, name string) error {
			other, err := c.lab.Host(name)
			if err != nil {
				return err
			}
			return c.lab.Partition(h, other)
		},
		"skew": func(h *lab.Host, text string) error {
			by, err := time.ParseDuration(text)
			if err != nil {
				return err
			}
			return c.lab.Skew(h, by)
		},
	}[name]
}
