package command

import (
	"errors"

	"github.com/spf13/cobra"

	"lockstep/sync/manifest/validate"
)

func newValidate() *cobra.Command {
	var o validate.Options
	c := &cobra.Command{Use: "validate PATH…", Short: "Check manifests, without a cluster", Args: takes(1, -1),
		Long: `Check files and folders as one source would be checked, offline. Every error is printed, one a
line, as file:line:column; the exit code is then 1. Meant for pre-commit hooks and CI.
The path - is standard input.`,
		Example: `  lockstep validate ./manifests
  helm template shop | lockstep validate -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.In = cmd.InOrStdin()
			err := validate.Run(cmd.Context(), args, o, cmd.OutOrStdout())
			if errors.Is(err, validate.ErrInvalid) {
				return exitError{1}
			}
			return err
		}}
	c.Flags().StringSliceVar(&o.IgnoreKinds, "ignore-kinds", nil, "`KINDS` to skip, as Kind or Kind.group, like a source's ignoreKinds")
	return c
}
