package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"lockstep/daemon/control"
	"lockstep/daemon/pki"
	"lockstep/internal/plain"
)

func newCA() *cobra.Command {
	ca := &cobra.Command{Use: "ca", Short: "Replace the cluster's CA"}
	group(ca)
	ca.AddCommand(newCARotate(), newCAStatus())
	return ca
}

func newCARotate() *cobra.Command {
	var dirs dirFlags
	var drop bool
	c := &cobra.Command{Use: "rotate", Short: "Replace the cluster's CA while it runs", Args: takes(0, 0),
		Long: `Replace the cluster's CA while it runs. A new one is made, which all servers trust beside the old one; then
it signs, and servers and nodes make their certificates anew; the old one is trusted until nothing that is known
uses it any more. It goes on by itself, also after a restart: "lockstep ca status" says how far it is, and who
keeps it. Kubeconfigs hold a certificate of the old CA until they are made anew; --drop-old does not wait for
them, nor for nodes, which join anew with a token then.

Nothing restarts in pods. The key of service accounts' tokens is another one, and stays.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := control.Dial(dirs.run).RotateCA(cmd.Context(), drop); err != nil {
				return err
			}
			text := "the CA is being replaced"
			if drop {
				text = "the old CA is trusted no more"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s says how far it is\n", text, dirs.client("ca status"))
			return err
		}}
	dirs.addClient(c)
	c.Flags().BoolVar(&drop, "drop-old", false, "trust the old CA no more, although nodes or users have certificates of it")
	return c
}

func newCAStatus() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "status", Short: "Say how far the replacement of the cluster's CA is", Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := control.Dial(dirs.run).CA(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			_, _ = fmt.Fprintf(out, "CA %s, until %s\n", r.Pin, r.Until.Format(time.DateOnly))
			switch r.Phase {
			case "", pki.PhaseDone:
				_, err = fmt.Fprintln(out, "it is not being replaced")
			case pki.PhaseTrust:
				_, err = fmt.Fprintln(out, "a new CA is trusted beside it, and does not sign yet")
			case pki.PhaseSign:
				_, err = fmt.Fprintln(out, "it is new; the CA before is trusted beside it")
			}
			for _, w := range r.Waits {
				_, err = fmt.Fprintln(out, plain.Text("  "+w))
			}
			return err
		}}
	dirs.addClient(c)
	return c
}
