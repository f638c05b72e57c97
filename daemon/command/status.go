package command

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lockstep/daemon/control"
	"lockstep/kinds/v1alpha1"
)

// statusPeriod is how often --wait looks.
const statusPeriod = 200 * time.Millisecond

// The exit codes of status. 1 is for what could not be asked.
const (
	exitWell    = 0
	exitFailed  = 2
	exitRolling = 3
)

func newStatus() *cobra.Command {
	var dirs dirFlags
	var output outputFlag
	var wait time.Duration
	c := &cobra.Command{Use: "status", Short: "Show sources, revisions, objects and their health", Args: takes(0, 0),
		Long: `Show what the daemon on this machine follows: each source's newest revision and how it went, its
objects with their health and the line they are stated at, and the nodes.
Exit code 0: all is well; 2: a source, the cluster or a node is not; 3: a source is still rolling
out, or was not read yet; 1: the daemon could not be asked.`,
		Example: `  lockstep status
  lockstep status --wait 5m             wait until everything has rolled out, or has failed
  lockstep status -o json | jq '.sources[].status.state'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			report, err := settledReport(cmd.Context(), control.Dial(dirs.run), wait)
			if err != nil {
				return err
			}
			err = output.print(cmd.OutOrStdout(), report, func() error { return printReport(cmd.OutOrStdout(), report, dirs) })
			if code := standing(report); err == nil && code != exitWell {
				return exitError{code}
			}
			return err
		}}
	dirs.addClient(c)
	output.add(c.Flags())
	c.Flags().DurationVar(&wait, "wait", 0, "`DURATION` to wait at most until nothing is rolling out any more, and a daemon answers")
	return c
}

// settledReport returns the report as soon as nothing is rolling out, or the last one when wait is over.
func settledReport(ctx context.Context, b control.Backend, wait time.Duration) (control.Report, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		report, err := b.Report(ctx)
		if err == nil && standing(report) != exitRolling {
			return report, nil
		}
		select {
		case <-ctx.Done():
			return report, ctx.Err()
		case <-deadline.C:
			return report, err
		case <-time.After(statusPeriod):
		}
	}
}

// standing is the exit code that a report comes to.
func standing(r control.Report) int {
	code := exitWell
	if len(r.Encryption.Unreadable) > 0 {
		return exitFailed
	}
	if r.Rebuild != "" {
		code = exitRolling
	}
	for _, s := range r.Sources {
		switch {
		case s.Status.State == "pending", s.Status.State == "" && s.Status.FetchError == "":
			code = exitRolling
		case s.Status.State != "success", s.Status.FetchError != "", s.Status.Drift != "":
			return exitFailed
		}
	}
	if code == exitWell && len(r.Nodes) == 0 && r.Waiting > 0 {
		return exitFailed
	}
	if code == exitWell && slices.ContainsFunc(r.Servers, func(s control.ServerReport) bool { return s.Silence != "" }) {
		return exitFailed
	}
	if code == exitWell && (r.Ready != "" || r.Backup != "" ||
		slices.ContainsFunc(r.Nodes, func(n control.NodeReport) bool { return !n.Ready })) {
		return exitFailed
	}
	return code
}

func printReport(out io.Writer, r control.Report, dirs dirFlags) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", shown(args)...) }
	line("cluster %s, lockstep %s", r.Cluster, r.Version)
	if r.Ready != "" {
		line("not ready: %s", r.Ready)
	}
	if r.Rebuild != "" {
		line("%s", r.Rebuild)
	}
	if r.Backup != "" {
		line("%s", r.Backup)
	}
	for _, s := range r.Sources {
		line("")
		line("source %s (%s)", s.Name, s.Where)
		if s.Status.Seen == "" {
			line("  no revision yet")
		} else {
			line("  revision %s: %s: %s", short(s.Status.Seen), orNone(s.Status.State), s.Status.Message)
		}
		if s.Status.Accepted != s.Status.Seen && s.Status.Accepted != "" {
			line("  running  %s", short(s.Status.Accepted))
		}
		if s.Status.FetchError != "" {
			line("  %s", s.Status.FetchError)
		}
		if s.Status.Drift != "" {
			line("  drift    %s", s.Status.Drift)
		}
		if left := s.Status.UntoldLeftOut(); left != "" {
			line("  %s", left)
		}
		if s.Status.ForgeError != "" {
			line("  %s", s.Status.ForgeError)
		}
		for _, text := range s.Status.Warnings {
			line("  warning: %s", text)
		}
		for _, e := range more(s.Status) {
			line("  %s", e)
		}
		for _, o := range s.Objects {
			if o.Cause == "" {
				line("  %s\t%s\t%s", o.Object, o.State, o.File)
			} else {
				line("  %s\t%s\t%s\t%s", o.Object, o.State, o.File, o.Cause)
			}
		}
	}
	printServers(line, r)
	line("")
	for _, n := range r.Nodes {
		ready := "Ready"
		if !n.Ready {
			ready = "NotReady"
		}
		plural := "s"
		if n.Pods == 1 {
			plural = ""
		}
		if len(n.Troubles) == 0 {
			line("node %s\t%s\t%d pod%s", n.Name, ready, n.Pods, plural)
		} else {
			line("node %s\t%s\t%d pod%s\t%s", n.Name, ready, n.Pods, plural, strings.Join(n.Troubles, "; "))
		}
	}
	if len(r.Nodes) == 0 {
		line("%s", nodeless(r, dirs))
	}
	printLeft(line, r)
	if e := r.Encryption; e.Doing != "" || len(e.Unreadable) > 0 {
		line("")
		printEncryption(line, e)
	}
	return w.Flush()
}

// printServers tells of the servers where there are several.
func printServers(line func(format string, args ...any), r control.Report) {
	if len(r.Servers) < 2 {
		return
	}
	line("")
	for _, s := range r.Servers {
		line("server %s\t%s\t%s", s.Name, s.Role, s.Silence)
	}
	for _, s := range r.Servers {
		if s.Advice != "" {
			line("%s", s.Advice)
		}
	}
	if r.Standing != "" {
		line("%s", r.Standing)
	}
}

// printEncryption tells how values are sealed in etcd.
func printEncryption(line func(format string, args ...any), e control.EncryptionReport) {
	switch {
	case e.Config != "":
		line("encryption: with the keys of %s", e.Config)
	case e.Writes == "":
		line("encryption: nothing is sealed yet")
	default:
		line("encryption: Secrets are sealed with key %s", e.Writes)
	}
	if e.Doing != "" {
		line("  %s", e.Doing)
	}
	for _, key := range slices.Sorted(maps.Keys(e.Values)) {
		if key == "" {
			line("  %d values are not sealed", e.Values[key])
		} else {
			line("  %d values with key %s", e.Values[key], key)
		}
	}
	if !e.Rotated.IsZero() {
		line("  rotated at %s", e.Rotated.UTC().Format(time.RFC3339))
	}
	for _, name := range slices.Sorted(maps.Keys(e.Unreadable)) {
		line("  cannot be read: %s\t%s", name, e.Unreadable[name])
	}
}

// printLeft tells of the data that stay until somebody asks for their end.
func printLeft(line func(format string, args ...any), r control.Report) {
	if len(r.Left) == 0 {
		return
	}
	line("")
	line("left over: state one and remove it with the commit trailer \"Lockstep-Prune: allow\" to be rid of it")
	for _, l := range r.Left {
		where := ""
		if l.Node != "" {
			where = "on " + l.Node
		}
		line("  %s\t%s\t%s\t%s", l.Object, l.Size, where, l.Why)
	}
	if r.MoreLeft > 0 {
		line("  and %d more", r.MoreLeft)
	}
}

// nodeless says why there is no node, what waits for one, and what to do.
func nodeless(r control.Report, dirs dirFlags) string {
	text := "no node has joined yet"
	if r.Removed != nil {
		text = fmt.Sprintf("no node: %s was removed at %s", r.Removed.Name, r.Removed.At.UTC().Format(time.RFC3339))
	}
	switch r.Waiting {
	case 0:
	case 1:
		text += "; 1 pod waits for one"
	default:
		text += fmt.Sprintf("; %d pods wait for one", r.Waiting)
	}
	return text + "; " + dirs.client("token create") + " makes a token for one"
}

// short is a revision as people read it.
func short(revision string) string { return orNone(v1alpha1.ShortRevision(revision)) }

func orNone(s string) string {
	if s == "" {
		return "none yet"
	}
	return s
}
