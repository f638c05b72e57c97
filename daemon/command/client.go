package command

import (
	"cmp"
	"errors"
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
	"lockstep/kinds/v1alpha1"
)

func newToken() *cobra.Command {
	token := &cobra.Command{Use: "token", Short: "Make tokens with which nodes join, and take tokens back",
		Long: `Make tokens with which nodes join; list and take back these and those of viewers and users,
which "lockstep kubeconfig --bearer" makes.`}
	group(token)
	var dirs dirFlags
	var opts control.TokenOptions
	create := &cobra.Command{Use: "create", Short: "Print a new join token, for lockstep agent --token", Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printToken(cmd, dirs, opts)
		}}
	dirs.addClient(create)
	create.Flags().DurationVar(&opts.TTL, "ttl", 24*time.Hour, "`DURATION` in which nodes can join with it")
	create.Flags().StringVar(&opts.Node, "node", "", "`NAME` under which alone a node can join with it (default: any that is free)")
	token.AddCommand(create, newTokenList(), newTokenDelete())
	return token
}

// printToken makes a token and prints it.
func printToken(cmd *cobra.Command, dirs dirFlags, opts control.TokenOptions) error {
	if opts.TTL <= 0 {
		return fmt.Errorf("cannot make a token that is good for %s", opts.TTL)
	}
	text, err := control.Dial(dirs.run).Token(cmd.Context(), opts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func newTokenList() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "list", Short: "List tokens, without their secrets", Args: takes(0, 0),
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
				use := strings.Join(t.Usages, ", ")
				if slices.Contains(t.Usages, pki.UsageUser) {
					use += " " + plain.Text(t.User)
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.ID, use,
					duration.HumanDuration(now.Sub(t.Created)), expires)
			}
			return w.Flush()
		}}
	dirs.addClient(c)
	return c
}

func newTokenDelete() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "delete ID", Short: "Take a token back", Args: takes(1, 1),
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
	node := &cobra.Command{Use: "node", Short: "Take nodes out of the cluster"}
	group(node)
	var dirs dirFlags
	var leave bool
	remove := &cobra.Command{Use: "remove NAME", Short: "Take a node out of the cluster, with its certificate", Args: takes(1, 1),
		Long: `Take a node out of the cluster. From then on no server takes its certificate or renews it, its
connections are closed, its pods are replaced elsewhere, and its name is free for another
machine. The machine itself is not asked: what runs on it goes on until "lockstep reset" there,
after which it may join anew with a token.

Data of claims that are on its machine alone stay there, and are of use only to a machine that
joins under this name and still has them: their claims are listed, and --leave-data is wanted.
"lockstep reset" deletes them.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client := control.Dial(dirs.run)
			volumes, err := client.NodeVolumes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := tellVolumes(cmd.OutOrStdout(), args[0], volumes); err != nil {
				return err
			}
			if len(volumes) > 0 && !leave {
				return fmt.Errorf("cannot remove node %s: data of claims are on its machine alone (%d); copy them first, "+
					"or leave them there with --leave-data", args[0], len(volumes))
			}
			if err := client.RemoveNode(cmd.Context(), args[0]); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			_, _ = fmt.Fprintln(out, plain.Text(fmt.Sprintf("node %s is removed: no server takes its certificate, and its name is free; "+
				"what runs on its machine goes on until lockstep reset there, which deletes the data of claims, too", args[0])))
			if report, err := client.Report(cmd.Context()); err == nil && len(report.Nodes) == 0 {
				_, _ = fmt.Fprintln(out, nodeless(report, dirs))
			}
			return nil
		}}
	dirs.addClient(remove)
	remove.Flags().BoolVar(&leave, "leave-data", false, "also where data of claims are on its machine alone, which stay there")
	node.AddCommand(remove)
	return node
}

// tellVolumes lists what can be reached on a node only; nothing where that is nothing.
func tellVolumes(out io.Writer, node string, volumes []control.VolumeReport) error {
	if len(volumes) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintf(w, "on the machine of node %s alone:\nCLAIM\tVOLUME\tPATH\n", plain.Text(node))
	for _, v := range volumes {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", plain.Text(v.Claim), plain.Text(v.Name), plain.Text(v.Path))
	}
	return w.Flush()
}

func newKubeconfig() *cobra.Command {
	var dirs dirFlags
	var out string
	var opts control.KubeconfigOptions
	c := &cobra.Command{Use: "kubeconfig", Short: "Write a viewer's or a user's kubeconfig", Args: takes(0, 0),
		Long: `Write a kubeconfig with a new client certificate, or with a new bearer token (--bearer) for
programs and proxies that take no certificate. It is a viewer's, who reads everything but Secrets,
or a user's (--user, --group), who reads what RoleBindings and ClusterRoleBindings grant to this
name and these groups, Secrets too where a role says so. Nobody writes.

Keep the file like a password. A token can be taken back ("lockstep token delete"), a certificate
holds until it expires: a user's rights end when no binding names them any more.`,
		Example: `  lockstep kubeconfig -o viewer.kubeconfig
  lockstep kubeconfig --user jane --group dev -o jane.kubeconfig`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.TTL <= 0 {
				return fmt.Errorf("cannot make a kubeconfig that is good for %s", opts.TTL)
			}
			if opts.User == "" && len(opts.Groups) > 0 {
				return errors.New("cannot make a kubeconfig for --group alone: --user says who is in it")
			}
			if err := wantURL("server", opts.Server, "a URL as https://HOST:6443", "https"); err != nil {
				return err
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
	c.Flags().StringVar(&opts.User, "user", "", "`NAME` that bindings name (default: a viewer)")
	c.Flags().StringArrayVar(&opts.Groups, "group", nil, "`NAME` of a group that the user is in; may be given several times")
	c.Flags().StringVar(&opts.Server, "server", "", "`URL` of the API (default: the address the daemon advertises)")
	c.Flags().BoolVar(&opts.Bearer, "bearer", false, "a bearer token instead of a client certificate")
	c.Flags().DurationVar(&opts.TTL, "ttl", pki.ViewerLifetime, "`DURATION` it is good for")
	return c
}

func newPlan() *cobra.Command {
	var dirs dirFlags
	c := &cobra.Command{Use: "plan [SOURCE]", Short: "Show what applying a source would change",
		Long: `Show, as a diff, what applying a source to the cluster of the daemon on this machine would
change. SOURCE is the name of one of its sources, or [NAME=]URL|FOLDER[#branch[:path]]; with the
name of a source in front, that source's objects are compared with another folder or branch.
Without SOURCE all sources of the cluster are planned, one after the other.
Exit code 0: nothing would change; 2: something would; 1: a plan could not be made.`,
		Example: `  lockstep plan                         what the next look at each source would change
  lockstep plan shop                    and that at source shop
  lockstep plan shop=./checkout         what a push of this folder to source shop would change
  lockstep plan 'shop=https://git.example.com/acme/shop.git#next'    and of that branch`,
		Args: takes(0, 1),
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
			if len(args) == 0 {
				return planAll(cmd, client, names)
			}
			source, err := config.Resolve(args[0], func(name string) bool { return slices.Contains(names, name) })
			if err != nil {
				return fmt.Errorf("%w; the sources of this cluster: %s", err, cmp.Or(strings.Join(names, ", "), "none"))
			}
			return planned(plan(cmd, client, source))
		}}
	dirs.addClient(c)
	return c
}

// planAll plans each source, also after one that cannot be planned.
func planAll(cmd *cobra.Command, client *control.Client, names []string) error {
	var errs []error
	changes := false
	for i, name := range names {
		if i > 0 {
			_, _ = fmt.Fprintln(cmd.OutOrStdout())
		}
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "source %s\n", name)
		source, err := config.Resolve(name, func(string) bool { return true })
		if err == nil {
			var one bool
			one, err = plan(cmd, client, source)
			changes = changes || one
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("source %s: %w", name, err))
		}
	}
	if len(names) == 0 {
		_, _ = fmt.Fprintln(cmd.OutOrStdout(), "nothing is followed: there is no source to plan")
	}
	return planned(changes, errors.Join(errs...))
}

// plan prints one source's plan, and says whether it would change anything.
func plan(cmd *cobra.Command, client *control.Client, source v1alpha1.Source) (bool, error) {
	result, err := client.Plan(cmd.Context(), source)
	if err != nil {
		return false, err
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), plain.Page(result.Text))
	return result.Changes, err
}

func planned(changes bool, err error) error {
	if err == nil && changes {
		return exitError{2}
	}
	return err
}
