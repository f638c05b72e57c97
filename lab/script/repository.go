package script

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/v1alpha1"
	"lockstep/sync/forge/forgetest"
)

func (c *scenario) source(ts *testscript.TestScript, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	name := args[0]
	if !c.mine(name) {
		return fmt.Errorf("sources of this scenario are named %s, or %s-something: others run at the same time", c.name, c.name)
	}
	s := v1alpha1.Source{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Source"}}
	s.Name, s.Spec.Branch = name, "main"
	ssh := false
	for _, arg := range args[1:] {
		if interval, err := time.ParseDuration(arg); err == nil {
			s.Spec.Interval = metav1.Duration{Duration: interval}
		} else if pattern, ignore := strings.CutPrefix(arg, "ignore="); ignore {
			s.Spec.IgnoreKinds = append(s.Spec.IgnoreKinds, pattern)
		} else if ssh = arg == "ssh"; !ssh {
			return errUsage
		}
	}
	url, remote, err := c.lab.Repo(c.t.Context(), name, ssh)
	if err != nil {
		return err
	}
	s.Spec.URL = url
	folder := filepath.Join(c.work, name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, git := range [][]string{{"init", "-q", "-b", "main"}, {"remote", "add", "origin", remote}} {
		if _, err := c.git(folder, git...); err != nil {
			return err
		}
	}
	if err := c.lab.AddSource(c.t.Context(), s); err != nil {
		return err
	}
	c.sources = append(c.sources, name)
	return ts.Chdir(folder)
}

func (c *scenario) release(_ *testscript.TestScript, args []string) error {
	if len(args) != 1 || !slices.Contains(c.sources, args[0]) {
		return errUsage
	}
	c.sources = slices.DeleteFunc(c.sources, func(s string) bool { return s == args[0] })
	return c.lab.RemoveSource(c.t.Context(), args[0])
}

// person is who commits and pushes, for git.
var person = []string{
	"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.org",
	"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.org",
}

// git runs git as that person.
func (c *scenario) git(folder string, args ...string) (string, error) {
	cmd := exec.CommandContext(c.t.Context(), "git", args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), person...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %v: %w: %s", args, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// newLines makes \n in a script's argument new lines.
var newLines = strings.NewReplacer(`\n`, "\n")

func (c *scenario) edit(ts *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errUsage
	}
	text, old := ts.ReadFile(args[0]), newLines.Replace(args[1])
	if n := strings.Count(text, old); n != 1 {
		return fmt.Errorf("%s has %q %d times", args[0], old, n)
	}
	return os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, old, newLines.Replace(args[2]), 1)), 0o644)
}

// at returns the source whose clone a folder is, or lies in.
func (c *scenario) at(folder string) (string, error) {
	path, err := filepath.Rel(c.work, folder)
	source, _, _ := strings.Cut(path, "/")
	if err != nil || !slices.Contains(c.sources, source) {
		return "", errors.New("the current folder is of no source: see the command source")
	}
	return source, nil
}

func (c *scenario) push(ts *testscript.TestScript, args []string) error {
	flags := []string{"push", "-q", "origin", "HEAD:main"}
	if len(args) > 0 && args[0] == "-force" {
		flags, args = append(flags, "--force"), args[1:]
	}
	if len(args) == 0 {
		return errUsage
	}
	source, err := c.at(ts.MkAbs("."))
	if err != nil {
		return err
	}
	c.pushed = time.Now()
	id, err := c.commit(source, flags, args...)
	if err != nil {
		return err
	}
	ts.Setenv("COMMIT", id)
	ts.Setenv("SHORT", id[:12])
	return nil
}

// commit commits what is in the clone of a source, and pushes it.
func (c *scenario) commit(source string, push []string, message ...string) (id string, err error) {
	folder := filepath.Join(c.work, source)
	record := []string{"commit", "-q", "--allow-empty"}
	for _, paragraph := range message {
		record = append(record, "-m", paragraph)
	}
	for _, args := range [][]string{{"add", "-A"}, record, push, {"rev-parse", "HEAD"}} {
		if id, err = c.git(folder, args...); err != nil {
			return "", err
		}
	}
	c.commits = append(c.commits, commit{source, id, message[0]})
	return id, nil
}

// emptySource takes all objects of a source away.
func (c *scenario) emptySource(ctx context.Context, source string) error {
	if _, err := c.git(filepath.Join(c.work, source), "rm", "-q", "-r", "-f", "--ignore-unmatch", "."); err != nil {
		return err
	}
	push := []string{"push", "-q", "--force", "origin", "HEAD:main"}
	id, err := c.commit(source, push, "the end of the scenario", "Lockstep-Prune: allow")
	if err != nil {
		return err
	}
	return c.await(ctx, source, id, "lockstep/lab/"+source, "success", "0 objects in sync and healthy")
}

// which are the flags that say which statuses are meant.
type which struct {
	drift, links bool
	of           string
}

// parse reads the flags, for the script's current folder, and returns the source, the context and what is left.
func (w *which) parse(c *scenario, folder string, args []string) (source, context string, rest []string, err error) {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&w.drift, "drift", false, "")
	f.BoolVar(&w.links, "links", false, "")
	f.StringVar(&w.of, "of", "", "")
	if f.Parse(args) != nil {
		return "", "", nil, errUsage
	}
	if source, err = c.at(folder); err != nil {
		return "", "", nil, err
	}
	if w.of == "" {
		for _, pushed := range c.commits {
			if pushed.source == source {
				w.of = pushed.id
			}
		}
	}
	if w.of == "" {
		return "", "", nil, errors.New("nothing was pushed yet")
	}
	context = "lockstep/lab/" + source
	if w.drift {
		context += "/drift"
	}
	return source, context, f.Args(), nil
}

func (c *scenario) verdict(ts *testscript.TestScript, args []string) error {
	var w which
	source, context, rest, err := w.parse(c, ts.MkAbs("."), args)
	if err != nil {
		return err
	}
	if len(rest) == 0 || len(rest) > 2 {
		return errUsage
	}
	text := "/./"
	if len(rest) == 2 {
		text = rest[1]
	}
	return c.await(c.t.Context(), source, w.of, context, rest[0], text)
}

// await waits until the newest status of a commit in a context is one.
func (c *scenario) await(ctx context.Context, source, id, context, state, text string) error {
	fits := func(got string) bool { return got == text }
	if len(text) > 1 && strings.HasPrefix(text, "/") && strings.HasSuffix(text, "/") {
		pattern, err := regexp.Compile(text[1 : len(text)-1])
		if err != nil {
			return err
		}
		fits = pattern.MatchString
	}
	return eventually(ctx, func() error {
		got, err := c.verdicts(ctx, source, id, context)
		if err != nil {
			return err
		}
		if len(got) > 0 {
			if is, said, _ := strings.Cut(got[len(got)-1], ": "); is == state && fits(said) {
				return nil
			}
		}
		return fmt.Errorf("commit %s of %s has %q, want at last %q", id, source, got, state+": "+text)
	})
}

// statuses are what the forge has received for a commit in a context, the oldest first.
func (c *scenario) statuses(ctx context.Context, source, id, context string) ([]forgetest.Status, error) {
	all, err := c.lab.Statuses(ctx, "lab/"+source, id)
	return slices.DeleteFunc(all, func(s forgetest.Status) bool { return s.Context != context }), err
}

// verdicts are the same as texts, "state: text" each.
func (c *scenario) verdicts(ctx context.Context, source, id, context string) ([]string, error) {
	all, err := c.statuses(ctx, source, id, context)
	var out []string
	for _, s := range all {
		out = append(out, s.State+": "+s.Description)
	}
	return out, err
}

func (c *scenario) printVerdicts(ctx context.Context, folder string, args []string) (string, error) {
	var w which
	source, name, rest, err := w.parse(c, folder, args)
	if err != nil {
		return "", err
	}
	if len(rest) > 0 {
		return "", errUsage
	}
	if w.links {
		all, err := c.lab.Statuses(ctx, "lab/"+source, w.of)
		var out strings.Builder
		for _, s := range all {
			_, _ = fmt.Fprintf(&out, "%s %s: %s %s\n", s.Context, s.State, s.Description, s.TargetURL)
		}
		return out.String(), err
	}
	got, err := c.verdicts(ctx, source, w.of, name)
	if len(got) == 0 {
		return "", err
	}
	return strings.Join(got, "\n") + "\n", err
}

func (c *scenario) rollout(ts *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	var w which
	source, name, _, err := w.parse(c, ts.MkAbs("."), nil)
	if err != nil {
		return err
	}
	ctx, healthy := c.t.Context(), args[0]+" objects in sync and healthy"
	if args[0] == "1" {
		healthy = "1 object in sync and healthy"
	}
	if err := c.await(ctx, source, w.of, name, "success", healthy); err != nil {
		return err
	}
	got, err := c.verdicts(ctx, source, w.of, name)
	if err != nil {
		return err
	}
	ts.Logf("%s", strings.Join(got, "\n"))
	form := regexp.MustCompile(`^pending: rolling out \d+ of ` + args[0])
	for _, s := range got[:len(got)-1] {
		if !form.MatchString(s) {
			return fmt.Errorf("a rollout has the status %q", s)
		}
	}
	if len(got) < 2 {
		return fmt.Errorf("commit %s was never pending: %q", w.of, got)
	}
	return eventually(ctx, func() error {
		out, err := c.lockstep(ctx, "", []string{"status"}) // its code is of all sources and nodes
		if want := fmt.Sprintf("revision %s: success: %s", w.of[:12], healthy); !strings.Contains(out, want) {
			return errors.Join(fmt.Errorf("lockstep status does not say %q: %s", want, out), err)
		}
		_, err = c.lockstep(ctx, "", []string{"plan", source})
		return err
	})
}

func (c *scenario) webhook(ctx context.Context, folder string, args []string) (string, error) {
	source, err := c.at(folder)
	if err != nil {
		return "", err
	}
	switch {
	case len(args) == 0:
		code, err := c.lab.Webhook(ctx, "lab/"+source)
		return fmt.Sprintln(code), err
	case len(args) == 1 && args[0] == "unsigned":
		return c.unsigned(ctx)
	}
	return "", errUsage
}
