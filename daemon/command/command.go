// Package command is the command line of lockstep.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"lockstep/daemon/version"
	"lockstep/internal/plain"
)

// Run runs lockstep with its arguments until it is done or ctx ends.
func Run(ctx context.Context, args []string) error {
	root := newRoot()
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// exitError carries an exit code for an outcome that is not an error, or was told already.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// Tell prints an error that was not told yet, and returns the exit code: 0 for nil, the code of an outcome with one of its
// own, and 1 for every other error.
func Tell(out io.Writer, err error) int {
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	}
	_, _ = fmt.Fprintln(out, "lockstep:", plain.Page(err.Error()))
	return 1
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lockstep",
		Short: "A container orchestrator whose only write API is Git",
		Long: `Lockstep runs Kubernetes manifests from Git repositories or a folder. To change the
cluster, push: there is no other way. To read it, use kubectl, the status page or
"lockstep status".`,
		Example: `  lockstep up ./manifests                                          run a folder on this machine
  lockstep up https://git.example.com/acme/shop.git#main:deploy    or what a branch holds below a path
  lockstep validate ./manifests                                    check manifests before a push
  lockstep status                                                  see how it went`,
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("lockstep {{.Version}}\n")
	root.AddCommand(newUp(), newDaemon(), newAgent(), newValidate(), newPlan(), newStatus(), newDrift(), newKubeconfig(), newToken(),
		newNode(), newServer(), newCA(), newEncryption(), newBackup(), newRestore(), newReset(), newVersion())
	plainly(root)
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "lockstep", version.Version)
			return err
		}}
}

// logFlags say how to log.
type logFlags struct{ level, format string }

func (f *logFlags) add(cmd *cobra.Command, level string) {
	cmd.Flags().StringVar(&f.level, "log-level", level, "least `LEVEL` to log: debug, info, warn, error")
	cmd.Flags().StringVar(&f.format, "log-format", "text", "`FORM` of the log on standard error: text or json")
}

// logger writes to w; ctx is that of all who log.
func (f *logFlags) logger(ctx context.Context, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, fmt.Errorf("cannot use --log-level %q: want debug, info, warn or error", f.level)
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: logged}
	var handler slog.Handler
	switch f.format {
	case "text":
		handler = slog.NewTextHandler(w, options)
	case "json":
		handler = slog.NewJSONHandler(w, options)
	default:
		return nil, fmt.Errorf("cannot use --log-format %q: want text or json", f.format)
	}
	log := slog.New(untilEnd{handler, ctx})
	// What Kubernetes' libraries log is about their own working; what matters of it is in our own log.
	klog.SetSlogLogger(slog.New(asDebug{log.Handler()}))
	grpclog.SetLoggerV2(grpcLog{log})
	return log, nil
}

const defaultData, defaultRun = "/var/lib/lockstep", "/run/lockstep"

// dirFlags say where things lie.
type dirFlags struct{ data, run string }

func (f *dirFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.data, "data-dir", defaultData, "`FOLDER` for what must survive a reboot")
	cmd.Flags().StringVar(&f.run, "run-dir", defaultRun, "`FOLDER` for what a reboot may remove: sockets, namespaces, mounts")
}

// addClient is for commands that only ask the daemon. They take the data folder too, so that one set of flags fits every
// command of a machine, and do not use it.
func (f *dirFlags) addClient(cmd *cobra.Command) {
	f.add(cmd)
	_ = cmd.Flags().MarkHidden("data-dir")
	cmd.Flags().Lookup("run-dir").Usage = "`FOLDER` of the daemon's socket"
}
