package command

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lockstep/daemon/control"
	"lockstep/kinds/drift"
)

func newDrift() *cobra.Command {
	var dirs dirFlags
	var output outputFlag
	var source, node string
	c := &cobra.Command{Use: "drift", Short: "Show what differed though nobody pushed, and whether it was repaired", Args: takes(0, 0),
		Long: `Show what differed from what was asked for though nobody pushed, the newest first: objects that were
changed or deleted in the store, what nodes found on themselves (containers killed or paused, limits,
addresses, routes, rules, mounts and files changed, containers that nobody asked for), and health that
was lost; each with where, since when, the evidence, whether it was repaired, and the commit and line
of the manifest that it belongs to.
Of each source and each node the newest 64 are kept.
Exit code 0: all that is listed is repaired; 2: something is not; 1: the daemon could not be asked.`,
		Example: `  lockstep drift
  lockstep drift --node worker1
  lockstep drift --source shop -o json | jq '.findings[] | select(.repaired == null)'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			report, err := control.Dial(dirs.run).Drift(cmd.Context(), source, node)
			if err != nil {
				return err
			}
			err = output.print(cmd.OutOrStdout(), report, func() error { return printDrift(cmd.OutOrStdout(), report) })
			if err == nil && !repaired(report.Findings) {
				return exitError{exitFailed}
			}
			return err
		}}
	dirs.addClient(c)
	output.add(c.Flags())
	c.Flags().StringVar(&source, "source", "", "only what belongs to the source of this `NAME`")
	c.Flags().StringVar(&node, "node", "", "only what was found on the node of this `NAME`")
	return c
}

func repaired(findings []drift.Finding) bool {
	for _, f := range findings {
		if f.Repaired.IsZero() {
			return false
		}
	}
	return true
}

func printDrift(out io.Writer, r control.DriftReport) error {
	line := func(format string, args ...any) error {
		_, err := fmt.Fprintf(out, format+"\n", shown(args)...)
		return err
	}
	if len(r.Findings) == 0 {
		return line("no drift was found")
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		if err := line("%s  %s", f.Noticed.UTC().Format(time.RFC3339), f.Line()); err != nil {
			return err
		}
		for _, text := range details(f) {
			if err := line("  %s", text); err != nil {
				return err
			}
		}
	}
	if r.Dropped > 0 {
		return line("and %d before, which are kept no longer", r.Dropped)
	}
	return nil
}

// details are the lines below a finding.
func details(f *drift.Finding) []string {
	var out []string
	if f.Source != "" {
		out = append(out, fmt.Sprintf("from      %s of source %s, commit %s", f.File, f.Source, short(f.Commit)))
	}
	if !f.Since.IsZero() {
		out = append(out, "since     "+f.Since.UTC().Format(time.RFC3339)+" at the earliest")
	}
	how := f.Outcome()
	if !f.Repaired.IsZero() {
		how += " " + f.Repaired.UTC().Format(time.RFC3339)
	}
	if f.How != "" {
		how += ": " + f.How
	}
	out = append(out, "outcome   "+how)
	for _, e := range f.Evidence {
		out = append(out, "evidence  "+e)
	}
	return out
}
