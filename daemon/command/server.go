package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lockstep/daemon/control"
	"lockstep/daemon/etcd"
	"lockstep/internal/plain"
)

func newServer() *cobra.Command {
	server := &cobra.Command{Use: "server", Short: "Add servers to the cluster, list them, and take them out",
		Long: `A cluster has one server, three or five. A second one stands by until there is a third, since of two
servers either could stop the cluster. On a new machine, with the token of "lockstep server token":

  lockstep daemon --join https://SERVER:6443 --token TOKEN`}
	group(server)
	server.AddCommand(newServerToken(), newServerList(), newServerRemove(), newServerReset())
	return server
}

func newServerToken() *cobra.Command {
	var dirs dirFlags
	opts := control.TokenOptions{Server: true}
	c := &cobra.Command{Use: "token", Short: "Print a new token with which one server joins, for lockstep daemon --join", Args: takes(0, 0),
		Long: `Print a new token with which one server joins. Whoever has it gets the cluster's keys: keep it like
them. It is good for one server, the first that comes with it, and lockstep token delete takes it back.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printToken(cmd, dirs, opts)
		}}
	dirs.addClient(c)
	c.Flags().DurationVar(&opts.TTL, "ttl", time.Hour, "`DURATION` in which a server can join with it")
	c.Flags().StringVar(&opts.ServerName, "name", "", "`NAME` under which alone a server can join with it (default: any that is free)")
	return c
}

func newServerList() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "list", Short: "List the servers, and what to do about those that are gone", Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := control.Dial(dirs.run).Report(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "NAME\tROLE\tADDRESS\tPEER\tSTATE")
			for _, s := range report.Servers {
				state := "runs"
				if s.Silence != "" {
					state = s.Silence
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", plain.Text(s.Name), s.Role, orNothing(s.Address), orNothing(s.Peer), state)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return tellServers(cmd, report)
		}}
	dirs.addClient(c)
	return c
}

// tellServers says what to do.
func tellServers(cmd *cobra.Command, r control.Report) error {
	for _, s := range r.Servers {
		if s.Advice != "" {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), plain.Text(s.Advice))
		}
	}
	if r.Standing != "" {
		_, _ = fmt.Fprintln(cmd.OutOrStdout(), plain.Text(r.Standing))
	}
	return nil
}

func orNothing(text string) string {
	if text == "" {
		return "-"
	}
	return plain.Text(text)
}

func newServerRemove() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "remove NAME", Short: "Take a server out of the cluster", Args: takes(1, 1),
		Long: `Take a server out of the cluster, one that is gone or one that runs, which ends then. Its name is free:
a server whose data are lost is removed first and joins anew, under the same name if you like. The
others go on meanwhile. What it knows it keeps: remove its data, and rotate the cluster's keys where
its machine is in other hands.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := control.Dial(dirs.run).RemoveServer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), plain.Text(text))
			return err
		}}
	dirs.addClient(c)
	return c
}

func newServerReset() *cobra.Command {
	var dirs dirFlags
	var sure bool
	c := &cobra.Command{Use: "reset-quorum", Short: "Have this server go on alone after most servers were lost for good", Args: takes(0, 0),
		Long: `Have this server go on as the only one of its cluster, with the data that it has, after most of the
servers were lost for good. What only the others had is lost: Git has what was pushed, and this
server takes it from there.

The other servers must not come back: stop them, and remove their data, before this. If two of three
only cannot be reached, they go on as the cluster without this one, and there are two clusters then
that both change nodes. Afterwards servers join as new ones do.

The daemon of this server may run, in which case it starts again, or be started after this.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("reset the quorum"); err != nil {
				return err
			}
			if !sure {
				return errors.New("cannot reset the quorum: say --others-are-gone once all other servers are stopped and their data are " +
					"removed, else there will be two clusters")
			}
			if report, err := control.Dial(dirs.run).Report(cmd.Context()); err == nil && report.Ready == "" {
				return errors.New("cannot reset the quorum: it is there, this server works; " +
					"lockstep server remove takes single servers out")
			}
			if err := etcd.AskReset(filepath.Join(dirs.data, "etcd")); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "this server goes on alone: its daemon starts again by itself within seconds, "+
				"or is to be started; have the others join anew")
			return err
		}}
	dirs.add(c)
	c.Flags().BoolVar(&sure, "others-are-gone", false, "all other servers are stopped, and their data are removed")
	return c
}
