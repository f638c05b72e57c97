package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"lockstep/daemon"
	"lockstep/daemon/control"
	"lockstep/nodeagent"
	"lockstep/nodeagent/preflight"
)

func newUp() *cobra.Command {
	var server daemonFlags
	var node agentFlags
	var dirs dirFlags
	var logs logFlags
	c := &cobra.Command{
		Use: "up [FOLDER|GIT-URL]", Short: "Run a cluster on this machine: control plane and node in one process",
		Args: takes(0, 1),
		Long: `Run control plane and node agent in this process, follow a folder or a Git repository, and show
how the rollout goes. Stopping it leaves all pods running; "lockstep reset" removes them.`,
		Example: `  lockstep up ./manifests
  lockstep up https://git.example.com/acme/shop.git
  lockstep up https://git.example.com/acme/shop.git#main:deploy
  lockstep up --config sources.yaml    for sources that want credentials, or a forge's commit statuses`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needRoot("run a node"); err != nil {
				return err
			}
			if err := dirs.usable(); err != nil {
				return err
			}
			if err := alone(cmd.Context(), dirs); err != nil {
				return err
			}
			out := screenOf(cmd.OutOrStdout())
			log, err := logs.logger(cmd.Context(), out.beside(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			address, err := nodeAddress(node.nodeIP)
			if err != nil {
				return err
			}
			server.sources = append(server.sources, args...)
			d, err := server.options(dirs, address)
			if err != nil {
				return err
			}
			a, err := node.options(dirs, address)
			if err != nil {
				return err
			}
			err = nodeagent.Preflight(cmd.Context(), a,
				preflight.Port{Address: d.Listen, For: "the API is served there: stop what listens, or name another address with --listen"},
				preflight.Port{
					Address: d.StatusListen,
					For:     "the status page is served there: stop what listens, or name another address with --status-listen",
				})
			if err != nil {
				return err
			}
			a.Server = "https://" + netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), d.Listen.Port()).String()
			a.OwnServer = true
			d.Log, a.Log = log, log
			if err := up(cmd.Context(), out, dirs, d, a); err != nil {
				return err
			}
			out.line("stopped; the pods keep running until %s", dirs.command("reset"))
			return nil
		},
	}
	server.add(c)
	node.add(c)
	dirs.add(c)
	logs.add(c, "warn")
	return c
}

// up runs the daemon and the agent until ctx ends or one of them fails.
func up(ctx context.Context, out *screen, dirs dirFlags, d daemon.Options, a nodeagent.Options) error {
	door := control.Dial(d.RunDir)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return daemon.Run(ctx, d) })
	g.Go(func() error {
		var err error
		if a.Token, err = awaitToken(ctx, door, a.NodeName); err != nil {
			return nil //nolint:nilerr // only ctx ends the waiting, and why is the daemon's to tell
		}
		agent, err := nodeagent.New(a)
		if err != nil {
			return err
		}
		return agent.Run(ctx)
	})
	g.Go(func() error {
		p := newProgress(out)
		p.follow(ctx, door, func(r control.Report) { farewell(ctx, p, door, dirs, d, r) })
		return nil
	})
	return g.Wait()
}

// awaitToken returns a token for the node as soon as the daemon gives one: it is good for long enough to join from the same
// process.
func awaitToken(ctx context.Context, door *control.Client, node string) (string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if token, err := door.Token(ctx, control.TokenOptions{TTL: 10 * time.Minute, Node: node}); err == nil {
			return token, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}

// farewell says what to open and what to try.
func farewell(ctx context.Context, p *progress, door control.Backend, dirs dirFlags, d daemon.Options, r control.Report) {
	say := p.screen.line
	say("")
	p.opened(r)
	say("status   %s", cmp.Or(d.StatusURL, "http://"+d.StatusListen.String()))
	path, err := filepath.Abs(filepath.Join(d.DataDir, "viewer.kubeconfig"))
	var raw []byte
	if err == nil {
		raw, err = door.Kubeconfig(ctx, control.KubeconfigOptions{})
	}
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		say("kubectl  cannot write a kubeconfig: %v", err)
	} else {
		say("kubectl  kubectl --kubeconfig %s get deploy,rs,po,svc -A", quoted(path))
	}
	for _, s := range r.Sources {
		how := "push to "
		if s.Folder {
			how = "edit a file in "
		}
		p.once("change/"+s.Where, "change   "+how+s.Where) // sources may share a repository
	}
	if len(r.Sources) == 0 {
		say("change   nothing is followed; stop this, and start it with a folder or a Git URL")
	}
	say("stop     Ctrl-C leaves the pods running; %s removes everything", dirs.command("reset"))
	say("")
}

func newReset() *cobra.Command {
	var dirs dirFlags
	var name, containerd string
	c := &cobra.Command{Use: "reset", Short: "Remove every trace of Lockstep from this machine", Args: takes(0, 0),
		Long: `Remove everything Lockstep made on this machine: pods, rules, links, mounts, control groups,
namespaces, logs and all data, the cluster's certificates and history included. The daemon and
the agent must be stopped. What Git holds can be run again; nothing else comes back.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("reset"); err != nil {
				return err
			}
			attempt, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			if _, err := control.Dial(dirs.run).Report(attempt); err == nil {
				return errors.New("cannot reset: the daemon is still running; stop it first")
			}
			o := nodeagent.Options{DataDir: dirs.data, NodeName: name, Containerd: containerd}
			if cmd.Flags().Changed("run-dir") {
				o.RunDir = dirs.run
			}
			if err := nodeagent.Reset(cmd.Context(), o); err != nil {
				return fmt.Errorf("cannot reset: %w", err)
			}
			for _, dir := range []string{dirs.run, dirs.data} {
				if err := os.RemoveAll(dir); err != nil {
					return fmt.Errorf("cannot reset: %w", err)
				}
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing of Lockstep is left on this machine")
			return err
		}}
	dirs.add(c)
	c.Flags().StringVar(&name, "node-name", "", "`NAME` of the node (default: as it was last run)")
	c.Flags().StringVar(&containerd, "containerd", "", "`SOCKET` of containerd, or managed (default: as it was last run)")
	return c
}
