package command

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"lockstep/daemon/config"
	"lockstep/daemon/control"
	"lockstep/daemon/pki"
	"lockstep/internal/plain"
)

func newToken() *cobra.Command {
	token := &cobra.Command{Use: "token", Short: "Make tokens with which nodes join, and take tokens back", Args: cobra.NoArgs,
		Long: `Make tokens with which nodes join; list and take back these and those of viewers, which
"lockstep kubeconfig --bearer" makes.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var dirs dirFlags
	var opts control.TokenOptions
	create := &cobra.Command{Use: "create", Short: "Print a new join token, for lockstep agent --token", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.TTL <= 0 {
				return fmt.Errorf("cannot make a token that is good for %s", opts.TTL)
			}
			text, err := control.Dial(dirs.run).Token(cmd.Context(), opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		}}
	dirs.addClient(create)
	create.Flags().DurationVar(&opts.TTL, "ttl", 24*time.Hour, "`DURATION` in which nodes can join with it")
	create.Flags().StringVar(&opts.Node, "node", "", "`NAME` under which alone a node can join with it (default: any that is free)")
	token.AddCommand(create, newTokenList(), newTokenDelete())
	return token
}

func newTokenList() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "list", Short: "List tokens, without their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tokens, err := control.Dial(dirs.run).Tokens(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "ID\tFOR\tAGE\tEXPIRES")
			now := time.Now()
			for _, t := range tokens {
				expires := "never"
				switch left := t.Expires.Sub(now); {
				case t.Expires.IsZero():
				case left > 0:
					expires = "in " + duration.HumanDuration(left)
				default:
					expires = "has expired"
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.ID, strings.Join(t.Usages, ", "), duration.HumanDuration(now.Sub(t.Created)), expires)
			}
			return w.Flush()
		}}
	dirs.addClient(c)
	return c
}

func newTokenDelete() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "delete ID", Short: "Take a token back", Args: cobra.ExactArgs(1),
		Long: `Take a token back. Nobody joins or reads with it from then on; nodes that have joined with it
stay, since they have certificates. IDs are in "lockstep token list"; a kubeconfig's token is
ID.SECRET, a join token CA.ID.SECRET.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return control.Dial(dirs.run).DeleteToken(cmd.Context(), args[0])
		}}
	dirs.addClient(c)
	return c
}

func newNode() *cobra.Command {
	node := &cobra.Command{Use: "node", Short: "Take nodes out of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var dirs dirFlags
	remove := &cobra.Command{Use: "remove NAME", Short: "Take a node out of the cluster, with its certificate", Args: cobra.ExactArgs(1),
		Long: `Take a node out of the cluster. From then on no server takes its certificate or renews it, its
connections are closed, its pods are replaced elsewhere, and its name is free for another
machine. The machine itself is not asked: what runs on it goes on until "lockstep reset" there,
after which it may join anew with a token.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return control.Dial(dirs.run).RemoveNode(cmd.Context(), args[0])
		}}
	dirs.addClient(remove)
	node.AddCommand(remove)
	return node
}

func newKubeconfig() *cobra.Command {
	var dirs dirFlags
	var out string
	var opts control.KubeconfigOptions
	c := &cobra.Command{Use: "kubeconfig", Short: "Write a viewer's kubeconfig", Args: cobra.NoArgs,
		Long: `Write a kubeconfig that reads everything but Secrets, with a new client certificate, or with a
new bearer token (--bearer) for programs and proxies that take no certificate.

Keep the file like a password. A token can be taken back ("lockstep token delete"), a certificate
holds until it expires.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.TTL <= 0 {
				return fmt.Errorf("cannot make a kubeconfig that is good for %s", opts.TTL)
			}
			raw, err := control.Dial(dirs.run).Kubeconfig(cmd.Context(), opts)
			if err != nil {
				return err
			}
			if out == "" || out == "-" {
				_, err = cmd.OutOrStdout().Write(raw)
				return err
			}
			if err := os.WriteFile(out, raw, 0o600); err != nil {
				return fmt.Errorf("cannot write the kubeconfig: %w", err)
			}
			return nil
		}}
	dirs.addClient(c)
	c.Flags().StringVarP(&out, "output", "o", "", "`FILE` to write (default: standard output)")
	c.Flags().StringVar(&opts.Server, "server", "", "`URL` of the API (default: the address the daemon advertises)")
	c.Flags().BoolVar(&opts.Bearer, "bearer", false, "a bearer token instead of a client certificate")
	c.Flags().DurationVar(&opts.TTL, "ttl", pki.ViewerLifetime, "`DURATION` it is good for")
	return c
}

func newPlan() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "plan SOURCE", Short: "Show what applying a source would change",
		Long: `Show, as a diff, what applying a source to the cluster of the daemon on this machine would
change. SOURCE is the name of one of its sources, or [NAME=]URL|FOLDER[#branch[:path]]; with the
name of a source in front, that source's objects are compared with another folder or branch.
Exit code 0: nothing would change; 2: something would; 1: the plan could not be made.`,
		Example: `  lockstep plan shop                    what the next look at source shop would change
  lockstep plan shop=./checkout         what a push of this folder to source shop would change
  lockstep plan 'shop=https://git.example.com/acme/shop.git#next'    and of that branch`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := control.Dial(dirs.run)
			report, err := client.Report(cmd.Context())
			if err != nil {
				return err
			}
			var names []string
			for _, s := range report.Sources {
				names = append(names, s.Name)
			}
			source, err := config.Resolve(args[0], func(name string) bool { return slices.Contains(names, name) })
			if err != nil {
				return fmt.Errorf("%w; the sources of this cluster: %s", err, cmp.Or(strings.Join(names, ", "), "none"))
			}
			result, err := client.Plan(cmd.Context(), source)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprint(cmd.OutOrStdout(), plain.Page(result.Text)); err != nil {
				return err
			}
			if result.Changes {
				return exitError{2}
			}
			return nil
		}}
	dirs.addClient(c)
	return c
}

func newStatus() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "status", Short: "Show sources, revisions, objects and their health", Args: cobra.NoArgs,
		Long: "Show what the daemon on this machine follows: each source's newest revision and how it went, its\n" +
			"objects with their health and the line they are stated at, and the nodes.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := control.Dial(dirs.run).Report(cmd.Context())
			if err != nil {
				return err
			}
			return printReport(cmd.OutOrStdout(), report)
		}}
	dirs.addClient(c)
	return c
}

func printReport(out io.Writer, r control.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", shown(args)...) }
	line("cluster %s, lockstep %s", r.Cluster, r.Version)
	if r.Ready != "" {
		line("not ready: %s", r.Ready)
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
		if s.Status.ForgeError != "" {
			line("  %s", s.Status.ForgeError)
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
		row := fmt.Sprintf("node %s\t%s\t%d pod%s", n.Name, ready, n.Pods, plural)
		if n.Silence != "" {
			row += "\t" + n.Silence
		}
		line("%s", row)
	}
	if len(r.Nodes) == 0 {
		line("no node has joined yet; lockstep token create makes a token for one")
	}
	return w.Flush()
}

// short is a revision as people name it: the first digits of its hash.
func short(revision string) string {
	revision = strings.TrimPrefix(revision, "sha256:") // a folder's
	if len(revision) > 12 {
		return revision[:12]
	}
	return orNone(revision)
}

func orNone(s string) string {
	if s == "" {
		return "none yet"
	}
	return s
}
