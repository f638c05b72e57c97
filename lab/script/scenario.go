package script

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/lab"
)

// scenario is what one script is about while it runs: everything in it that has a name has the script's, or one that begins
// with it and a dash.
type scenario struct {
	t     testing.TB
	stage *Stage
	lab   *lab.Lab // of its own: what another scenario does to the lab is not seen half done
	name  string
	work  string // folder of the script
	alone bool
	own   bool // its lab is its own, and goes with it
	// restarted: the daemon was, and knows the scenario's sources as its own.
	restarted bool

	sources  []string // followed now, in the order in which they were added
	commits  []commit // pushed, the oldest first
	pushed   time.Time
	laps     []time.Duration
	requests *requests // being made; nil: none
}

// commit is one that the scenario has pushed to the repository of a source.
type commit struct{ source, id, subject string }

// key finds the scenario among a script's values.
type key struct{}

// setup makes the scenario of a script.
func (s *Stage) setup(env *testscript.Env) error {
	l, err := lab.Open(s.dir)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
	c := &scenario{t: env.T().(runner).T, stage: s, lab: l, name: name, work: env.WorkDir}
	env.Values[key{}] = c
	env.Vars = append(env.Vars, person...)
	env.Setenv("LOCKSTEP", s.lockstep())
	env.Setenv("CORPUS", os.Getenv("LOCKSTEP_CORPUS"))
	for _, h := range l.Hosts() {
		variable := strings.ToUpper(strings.TrimPrefix(h.Name, s.options.Prefix))
		env.Setenv(variable, h.Name)
		env.Setenv(variable+"_ADDR", h.Addr)
		env.Setenv(variable+"_DATA", h.DataDir())
	}
	env.Defer(c.end)
	return nil
}

// of returns the scenario of a script.
func of(ts *testscript.TestScript) *scenario { return ts.Value(key{}).(*scenario) }

// mine says whether a name is the scenario's.
func (c *scenario) mine(name string) bool {
	return name == c.name || strings.HasPrefix(name, c.name+"-")
}

// within says whether a namespace is the scenario's: one that is alone has default, too.
func (c *scenario) within(namespace string) bool {
	return c.mine(namespace) || c.alone && namespace == metav1.NamespaceDefault
}

// end leaves the stage as the scenario found it: nothing is broken, its sources have no objects and are gone, and so are
// its namespaces.
func (c *scenario) end() {
	if c.requests != nil {
		c.requests.end()
	}
	if c.t.Failed() {
		c.report()
	}
	if c.own {
		return
	}
	if err := c.clear(); err != nil {
		c.t.Errorf("cannot end the scenario: %v", err)
	}
}

func (c *scenario) clear() error {
	ctx := c.t.Context()
	if c.alone {
		mending, cancel := context.WithTimeout(ctx, 2*patience)
		defer cancel()
		if err := c.lab.Mend(mending); err != nil {
			return err
		}
	}
	for _, source := range c.sources {
		if err := c.emptySource(ctx, source); err != nil {
			return err
		}
		if err := c.lab.RemoveSource(ctx, source); err != nil {
			return err
		}
	}
	if c.restarted {
		if err := errors.Join(c.lab.Stop(ctx, c.lab.Server(), lab.Daemon), c.lab.Start(ctx, c.lab.Server(), lab.Daemon)); err != nil {
			return err
		}
	}
	return eventually(ctx, func() error {
		left, err := c.namespaces(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("these namespaces are left: %s", strings.Join(left, ", "))
		}
		if err != nil {
			return err
		}
		out, err := c.kubectl(ctx, "", []string{"get", "sources", "-o", "jsonpath={.items[*].metadata.name}"})
		if slices.ContainsFunc(strings.Fields(out), c.mine) {
			err = fmt.Errorf("of these sources some are left: %s", out)
		}
		return err
	})
}

// namespaces are those of the scenario that there are.
func (c *scenario) namespaces(ctx context.Context) ([]string, error) {
	list, err := c.stage.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range list.Items {
		if c.mine(n.Name) {
			out = append(out, n.Name)
		}
	}
	return out, nil
}

// pods are the scenario's that have a label, without those that are on their way out, by name.
func (c *scenario) pods(ctx context.Context, selector string) ([]corev1.Pod, error) {
	list, err := c.stage.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !c.within(p.Namespace) || p.DeletionTimestamp != nil }), nil
}

// report logs what helps to find out why a scenario failed.
func (c *scenario) report() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 30*time.Second)
	defer cancel()
	for _, commit := range c.commits {
		got, err := c.verdicts(ctx, commit.source, commit.id, "lockstep/lab/"+commit.source)
		c.t.Logf("%s %.12s %s: %s %v", commit.source, commit.id, commit.subject, strings.Join(got, " | "), err)
	}
	status, _ := c.lockstep(ctx, "", []string{"status"}) // what is wrong is in it
	c.t.Logf("lockstep status:\n%s", status)
	namespaces, err := c.namespaces(ctx)
	if err != nil {
		c.t.Log(err)
	}
	for _, namespace := range namespaces {
		for _, args := range []string{"get deploy,rs,pods,svc,endpointslices -o wide", "get events --sort-by .metadata.creationTimestamp"} {
			out, _ := c.kubectl(ctx, "", append(strings.Fields(args), "-n", namespace)) // the same
			c.t.Logf("kubectl %s -n %s:\n%s", args, namespace, out)
		}
	}
	if err := c.reportLogs(); err != nil {
		c.t.Log(err)
	}
}

// reportLogs copies what the cluster's services have logged to a folder that outlives the lab, and shows the ends.
func (c *scenario) reportLogs() error {
	dir, err := os.MkdirTemp("", "lockstep-scenario-"+c.name+"-")
	if err != nil {
		return err
	}
	for _, h := range c.lab.Hosts() {
		for _, service := range []string{lab.Daemon, lab.Agent, lab.Containerd} {
			raw, err := os.ReadFile(h.LogFile(service))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			kept := filepath.Join(dir, h.Name+"-"+service+".log")
			if err := errors.Join(err, os.WriteFile(kept, raw, 0o600)); err != nil {
				return err
			}
			if service != lab.Containerd { // long, and rarely of help
				c.t.Logf("%s ends with\n%s", kept, raw[max(0, len(raw)-3000):])
			}
		}
	}
	return nil
}
