package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"lockstep/internal/settings"
	"lockstep/sync/manifest/validate"
)

func newValidate() *cobra.Command {
	var o validate.Options
	var nodePorts string
	c := &cobra.Command{Use: "validate PATH…", Short: "Check manifests, without a cluster", Args: takes(1, -1),
		Long: `Check files and folders as one source would be checked, offline. Every error is printed, one a
line, as file:line:column; the exit code is then 1. Meant for pre-commit hooks and CI.
The path - is standard input.`,
		Example: `  lockstep validate ./manifests
  helm template shop | lockstep validate -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.NodePorts, err = settings.ParsePorts(nodePorts); err != nil {
				return fmt.Errorf("cannot use --service-node-port-range: %w", err)
			}
			o.In = cmd.InOrStdin()
			err = validate.Run(cmd.Context(), args, o, cmd.OutOrStdout())
			if errors.Is(err, validate.ErrInvalid) {
				return exitError{1}
			}
			return err
		}}
	c.Flags().StringSliceVar(&o.IgnoreKinds, "ignore-kinds", nil,
		"`KINDS` to skip, as Kind, Kind.group, *.group or *, like a source's ignoreKinds")
	c.Flags().StringVar(&nodePorts, "service-node-port-range", "",
		"`FIRST-LAST` node port of the cluster that they are for (default: 30000-32767)")
	return c
}
