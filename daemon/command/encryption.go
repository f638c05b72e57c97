package command

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lockstep/daemon/control"
)

func newEncryption() *cobra.Command {
	c := &cobra.Command{Use: "encryption", Short: "Rotate the key that Secrets are sealed with in etcd, and see how far it is",
		Args: takes(0, 0), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(newEncryptionStatus(), newEncryptionRotate(), newEncryptionDiscard())
	return c
}

func newEncryptionStatus() *cobra.Command {
	var dirs dirFlags
	var output outputFlag
	c := &cobra.Command{Use: "status", Short: "Show with which keys values are sealed, and what cannot be read", Args: takes(0, 0),
		Long: `Show with which keys values are sealed in etcd, what is under way, and which values are there and
cannot be read. Exit code 0: all is well; 2: something cannot be read; 3: values are still to be
sealed, or a rotation is under way; 1: the daemon could not be asked.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			report, err := control.Dial(dirs.run).Report(cmd.Context())
			if err != nil {
				return err
			}
			e := report.Encryption
			err = output.print(cmd.OutOrStdout(), e, func() error {
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				printEncryption(func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", shown(args)...) }, e)
				return w.Flush()
			})
			switch {
			case err != nil:
				return err
			case len(e.Unreadable) > 0:
				return exitError{exitFailed}
			case e.Doing != "":
				return exitError{exitRolling}
			}
			return nil
		}}
	dirs.addClient(c)
	output.add(c.Flags())
	return c
}

func newEncryptionRotate() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "rotate", Short: "Replace the key that Secrets are sealed with", Args: takes(0, 0),
		Long: `Begin to replace the key that Secrets are sealed with in etcd: a new one goes to every server, then all
seal with it, then everything is sealed anew, then the old one is dropped. It goes on by itself, also
after a restart; "lockstep encryption status" says how far it is.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := control.Dial(dirs.run).Rotate(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "rotating to key %s; see %s\n"+
				"Back up the keys when it is done, and keep the backup before with the backups of etcd that are as old.\n",
				key, dirs.client("encryption status"))
			return err
		}}
	dirs.addClient(c)
	return c
}

func newEncryptionDiscard() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "discard NAME", Short: "Let go of a value that cannot be read", Args: takes(1, 1),
		Long: `Delete a value that is in etcd and cannot be read, by its name in "lockstep encryption status". What a
source states is made anew from it; what nothing states is lost.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return control.Dial(dirs.run).Discard(cmd.Context(), args[0])
		}}
	dirs.addClient(c)
	return c
}
