// Package command is the command line of lockstep-lab.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"lockstep/lab"
	"lockstep/lab/image"
)

// Run runs lockstep-lab with its arguments. The hidden arguments with which the program runs itself come first.
func Run(ctx context.Context, args []string) error {
	if run := lab.Hidden(args); run != nil {
		return run()
	}
	root := &cobra.Command{
		Use:           "lockstep-lab",
		Short:         "A Lockstep cluster of several hosts on this machine, with faults on demand",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var dir string
	root.PersistentFlags().StringVar(&dir, "dir", lab.DefaultDir, "folder of the lab")
	open := func() (*lab.Lab, error) { return lab.Open(dir) }
	root.AddCommand(
		up(&dir), down(&dir), status(open), kubeconfig(open), execute(open), repo(open), images(open), pack(open),
		forge(open),
		onService(open, "kill", "End a service at once (SIGKILL)", (*lab.Lab).Kill),
		onService(open, "start", "Start a service that was killed", (*lab.Lab).Start),
		onHost(open, "cut", "Take a host off the network", func(_ context.Context, l *lab.Lab, h *lab.Host) error { return l.Cut(h) }),
		onHost(open, "heal", "Put a host back on the network, at full speed, with room on its disk and the right time",
			func(_ context.Context, l *lab.Lab, h *lab.Host) error { return l.Heal(h) }),
		onHost(open, "disk-full", "Leave no room on a host's disk",
			func(_ context.Context, l *lab.Lab, h *lab.Host) error { return l.FillDisk(h) }),
		onAll(onHost(open, "reboot", "End everything on a host but its disk, and start it again", rebootHost), open, (*lab.Lab).RebootAll),
		onAll(onHost(open, "wipe", "Have a server or agent lose its data, and start it again", wipeHost), open, (*lab.Lab).WipeAll),
		partition(open), slow(open), skew(open), backup(open),
	)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// ExitCode is the exit code of a command that Run ran on a host, and 1 for every other error.
func ExitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 1
}

func up(dir *string) *cobra.Command {
	var o lab.Options
	var disk string
	c := &cobra.Command{Use: "up", Short: "Make a lab and wait until its nodes are Ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("cannot find this program: %w", err)
			}
			o.Dir, o.Self = *dir, self
			if o.Lockstep == "" {
				o.Lockstep = filepath.Join(filepath.Dir(self), "lockstep")
			}
			if disk != "" {
				size, err := resource.ParseQuantity(disk)
				if err != nil {
					return fmt.Errorf("cannot make a lab with disks of %q: %w", disk, err)
				}
				o.Disk = size.Value()
			}
			l, err := lab.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), l)
		}}
	c.Flags().IntVar(&o.Servers, "servers", 1, "hosts that run the control plane")
	c.Flags().IntVar(&o.Agents, "agents", 2, "hosts that run pods")
	c.Flags().StringArrayVar(&o.Sources, "source", nil, "[NAME=]URL|FOLDER[#branch[:path]] to run; may be given several times")
	c.Flags().StringVar(&o.Config, "config", "", "configuration file of the daemon")
	c.Flags().StringVar(&o.Lockstep, "lockstep", "", "the lockstep program (default: beside this one)")
	c.Flags().StringVar(&disk, "disk", "", "size of the disk, in memory, of each server and agent, as 1Gi (default: the machine's)")
	c.Flags().StringVar(&o.Prefix, "prefix", "", "goes before the hosts' names, so that several labs can run at a time")
	return c
}

func down(dir *string) *cobra.Command {
	return &cobra.Command{Use: "down", Short: "End the lab and remove all of it, also after a crash", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return lab.Remove(cmd.Context(), *dir) }}
}

func status(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "List hosts, services and addresses", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), l)
		}}
}

func printStatus(out io.Writer, l *lab.Lab) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "HOST\tROLE\tADDRESS\tFAULTS\tSERVICES")
	for _, h := range l.Hosts() {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", h.Name, h.Role, h.Addr, l.Suffers(h), h.ServiceSummary())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nAPI server    https://%s (lockstep-lab kubeconfig)\nstatus page   http://%s\n",
		l.Forwarded("api"), l.Forwarded("status"))
	return err
}

func kubeconfig(open func() (*lab.Lab, error)) *cobra.Command {
	var inside bool
	c := &cobra.Command{Use: "kubeconfig", Short: "Print a viewer's kubeconfig", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			raw, err := l.Kubeconfig(cmd.Context(), !inside)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		}}
	c.Flags().BoolVar(&inside, "inside", false, "with the server's address on the lab's network, for use on its hosts")
	return c
}

func execute(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{Use: "exec HOST -- CMD…", Short: "Run a command on a host, in the current folder", Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, h, err := openHost(open, args[0])
			if err != nil {
				return err
			}
			run := h.CommandIn(cmd.Context(), folder(), args[1], args[2:]...)
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
			return run.Run()
		}}
}

// folder is the current folder where hosts have it too: they have the machine's files, but a /run of their own.
func folder() string {
	dir, err := os.Getwd()
	if err != nil || strings.HasPrefix(dir+"/", "/run/") {
		return "/"
	}
	return dir
}

func forge(open func() (*lab.Lab, error)) *cobra.Command {
	c := &cobra.Command{Use: "forge", Short: "Look at the commit statuses of the lab's forge, or make it fail"}
	change := func(use, short string, f func(*lab.Lab, context.Context) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return f(l, cmd.Context())
		}}
	}
	c.AddCommand(
		change("fail", "Answer every request with 503", (*lab.Lab).FailForge),
		change("heal", "Answer again", (*lab.Lab).HealForge),
		&cobra.Command{
			Use: "statuses REPOSITORY COMMIT", Short: "Print the statuses of a commit, the oldest first",
			Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				l, err := open()
				if err != nil {
					return err
				}
				statuses, err := l.Statuses(cmd.Context(), "lab/"+args[0], args[1])
				for _, s := range statuses {
					_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s  %-7s  %s  %s\n", s.Created.Format("15:04:05"), s.State,
						s.Context, s.Description)
				}
				return err
			},
		})
	return c
}

func repo(open func() (*lab.Lab, error)) *cobra.Command {
	var ssh bool
	c := &cobra.Command{Use: "repo NAME", Short: "Make a bare repository, served to the lab", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			url, folder, err := l.Repo(cmd.Context(), args[0], ssh)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "url    %s\nfolder %s\n", url, folder)
			return err
		}}
	c.Flags().BoolVar(&ssh, "ssh", false, "serve it over SSH instead of HTTP")
	return c
}

func images(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{Use: "images TAR…", Short: "Put images into the lab's registry", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return l.Images(cmd.Context(), args...)
		}}
}

func pack(open func() (*lab.Lab, error)) *cobra.Command {
	c := &cobra.Command{Use: "pack [--dir DIR] NAME PROGRAM [ARG…]", Short: "Put a static program into the lab's registry, as an image",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "lockstep-lab-")
			if err != nil {
				return err
			}
			defer func() { _ = os.RemoveAll(dir) }()
			tar, inside := filepath.Join(dir, "image.tar"), "/bin/"+filepath.Base(args[1])
			if err := image.SaveProgram(tar, args[0], args[1], append([]string{inside}, args[2:]...)...); err != nil {
				return err
			}
			return l.Images(cmd.Context(), tar)
		}}
	c.Flags().SetInterspersed(false) // what follows is the program's
	return c
}

func onService(open func() (*lab.Lab, error), verb, short string,
	f func(*lab.Lab, context.Context, *lab.Host, string) error) *cobra.Command {
	return &cobra.Command{Use: verb + " HOST daemon|agent|containerd", Short: short, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, h, err := openHost(open, args[0])
			if err != nil {
				return err
			}
			return f(l, cmd.Context(), h, args[1])
		}}
}

func onHost(open func() (*lab.Lab, error), verb, short string, f func(context.Context, *lab.Lab, *lab.Host) error) *cobra.Command {
	return &cobra.Command{Use: verb + " HOST", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, h, err := openHost(open, args[0])
			if err != nil {
				return err
			}
			return f(cmd.Context(), l, h)
		}}
}

func rebootHost(ctx context.Context, l *lab.Lab, h *lab.Host) error { return l.Reboot(ctx, h) }

func wipeHost(ctx context.Context, l *lab.Lab, h *lab.Host) error { return l.Wipe(ctx, h) }

// onAll is a command on a host that takes --all instead of a host.
func onAll(c *cobra.Command, open func() (*lab.Lab, error), f func(*lab.Lab, context.Context) error) *cobra.Command {
	all, one := false, c.RunE
	c.Flags().BoolVar(&all, "all", false, "all of them at a time: servers and agents of a reboot, servers of a wipe")
	c.Use = strings.Replace(c.Use, "HOST", "HOST|--all", 1)
	c.Args = func(cmd *cobra.Command, args []string) error {
		if all {
			return cobra.NoArgs(cmd, args)
		}
		return cobra.ExactArgs(1)(cmd, args)
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !all {
			return one(cmd, args)
		}
		l, err := open()
		if err != nil {
			return err
		}
		return f(l, cmd.Context())
	}
	return c
}

func partition(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{Use: "partition HOST HOST", Short: "Have two hosts not reach each other", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			l, a, err := openHost(open, args[0])
			if err != nil {
				return err
			}
			b, err := l.Host(args[1])
			if err != nil {
				return err
			}
			return l.Partition(a, b)
		}}
}

func slow(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{Use: "slow HOST", Short: "Make a host's link slow and lossy, and say by what", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, h, err := openHost(open, args[0])
			if err != nil {
				return err
			}
			by, err := l.Slow(h)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), by)
			return err
		}}
}

func skew(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{Use: "skew HOST [DURATION]", Short: "Put the clock of a host's services ahead (default 1m0s), or back (-- -1m)",
		Args: cobra.RangeArgs(1, 2), RunE: func(_ *cobra.Command, args []string) error {
			by := time.Minute
			l, h, err := openHost(open, args[0])
			if err == nil && len(args) == 2 {
				if by, err = time.ParseDuration(args[1]); err != nil {
					err = fmt.Errorf("cannot put the clock of %s off: %w", h.Name, err)
				}
			}
			if err != nil {
				return err
			}
			return l.Skew(h, by)
		}}
}

func backup(open func() (*lab.Lab, error)) *cobra.Command {
	keys := false
	c := &cobra.Command{Use: "backup FILE", Short: "Have a server write a backup into a file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			var flags []string
			if keys {
				flags = append(flags, "--keys")
			}
			return l.Backup(cmd.Context(), args[0], flags...)
		}}
	c.Flags().BoolVar(&keys, "keys", false, "of the cluster's keys, and no data")
	return c
}

func openHost(open func() (*lab.Lab, error), name string) (*lab.Lab, *lab.Host, error) {
	l, err := open()
	if err != nil {
		return nil, nil, err
	}
	h, err := l.Host(name)
	return l, h, err
}
