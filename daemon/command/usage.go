package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lockstep/internal/near"
)

// misuse is the error for a command line that cannot be understood: why not, and in a second line what can.
func misuse(c *cobra.Command, why string, args ...any) error {
	line := c.UseLine()
	if c.HasAvailableSubCommands() {
		var names []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		line = c.CommandPath() + " " + strings.Join(names, "|") + " …"
	}
	return fmt.Errorf("cannot run %s: %s\nusage: %s (%s --help tells more)", c.CommandPath(),
		fmt.Sprintf(why, args...), line, c.CommandPath())
}

// meant is a suggestion for a name that is not known; empty where none is near.
func meant(before, name string, names []string) string {
	if found := near.Of(name, names); found != "" {
		return fmt.Sprintf(" (did you mean %s%s?)", before, found)
	}
	return ""
}

// takes wants at least so many arguments, and at most so many; most is -1 for any number.
func takes(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return misuse(c, "an argument is missing")
		case most == 0 && len(args) > 0:
			return misuse(c, "it takes no argument, got %q", args)
		case most >= 0 && len(args) > most:
			return misuse(c, "it takes at most %d argument, got %q", most, args)
		}
		return nil
	}
}

// group makes a command one that only has others: by itself it prints which, and it knows no other word.
func group(c *cobra.Command) {
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	c.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		return misuse(cmd, "there is no command %q%s", args[0], meant("", args[0], names))
	}
}

// flagError words what is wrong with a flag as everything else here. A command that is not known explains unknown flags.
func flagError(c *cobra.Command, err error) error {
	if words := c.Flags().Args(); c.HasAvailableSubCommands() && len(words) > 0 {
		return c.Args(c, words)
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return misuse(c, "there is no flag -%s", name)
		}
		return misuse(c, "there is no flag --%s%s", name, meant("--", name, names))
	}
	if lacks, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return misuse(c, "--%s needs a value", lacks.GetFlag().Name)
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		f := invalid.GetFlag()
		return misuse(c, "cannot use --%s %q: want %s", f.Name, invalid.GetValue(), wanted(f))
	}
	return misuse(c, "%v", err)
}

// wanted says what a flag's value looks like.
func wanted(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "duration":
		return "a duration such as 90s, 15m or 24h"
	case "bool":
		return "true or false"
	case "int64":
		return "a whole number"
	}
	return "a " + f.Value.Type()
}

// newHelp is cobra's help command, but that it refuses what it does not know.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "help [COMMAND]", Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 && c.HasAvailableSubCommands() {
				return c.Args(c, rest)
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		}}
}

// plainly words what cobra itself would say.
func plainly(root *cobra.Command) {
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp(root))
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		group(c)
		for _, shell := range c.Commands() {
			shell.Args = takes(0, 0)
		}
	}
	group(root)
}
