// Package script runs scenarios in a lab: text files whose lines push, break things, and look at what becomes of it.
package script

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	waiting "lockstep/internal/eventually"
	"lockstep/kinds/v1alpha1"
	"lockstep/lab"
	"lockstep/lab/image"
)

// Options says what a stage is made of; all are required but Programs.
type Options struct {
	// Dir is a folder for the lab and what belongs to it.
	Dir string
	// Bin has the programs lockstep and lockstep-lab, and Standin is the one that containers run.
	Bin, Standin string
	// Prefix goes before the hosts' names.
	Prefix string
	// Servers run the control plane. Zero: 1.
	Servers int
	// Programs are others that containers run, by name: each is a file, which is made when a scenario first asks for it.
	Programs map[string]func() (file string, err error)
}

// Stage is the lab that scenarios share: one server and two agents, with nothing but a pod on each to ask from.
type Stage struct {
	options    Options
	dir        string // the lab's
	kubeconfig string // a viewer's
	client     *kubernetes.Clientset
}

// images are those that every scenario may use, each with the arguments of the stand-in. The last one takes them from the pod.
var images = map[string][]string{
	"example.org/web:v1":    {"serve", "web-v1", "8080"},
	"example.org/web:v2":    {"serve", "web-v2", "8080"},
	"example.org/standin:1": nil,
}

// Up makes a stage. What it made before an error is Down's to end.
func Up(ctx context.Context, o Options) (*Stage, error) {
	s := &Stage{options: o, dir: filepath.Join(o.Dir, "lab"), kubeconfig: filepath.Join(o.Dir, "kubeconfig")}
	l, err := lab.Up(ctx, lab.Options{Dir: s.dir, Lockstep: s.lockstep(), Self: filepath.Join(o.Bin, "lockstep-lab"), Prefix: o.Prefix,
		Servers: o.Servers})
	if err != nil {
		return nil, err
	}
	raw, err := l.Kubeconfig(ctx, true)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.kubeconfig, raw, 0o600); err != nil {
		return nil, fmt.Errorf("cannot keep a kubeconfig: %w", err)
	}
	if s.client, err = l.Client(ctx); err != nil {
		return nil, err
	}
	for name, args := range images {
		if err := s.image(ctx, l, name, args); err != nil {
			return nil, err
		}
	}
	return s, s.placeAskers(ctx, l)
}

// placeAskers has a pod on each node, in a namespace of its own, from which services are asked.
func (s *Stage) placeAskers(ctx context.Context, l *lab.Lab) error {
	folder := filepath.Join(s.options.Dir, askers)
	text := "{apiVersion: v1, kind: Namespace, metadata: {name: " + askers + "}}\n"
	for _, h := range l.Agents() {
		text += fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec: {nodeName: %[1]s, containers: [{name: asker, image: "example.org/standin:1", args: [wait]}]}
`, h.Name, askers)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return fmt.Errorf("cannot make the stage: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "askers.yaml"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("cannot make the stage: %w", err)
	}
	source := v1alpha1.Source{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Source"}}
	source.Name, source.Spec.Folder = askers, folder
	if err := l.AddSource(ctx, source); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		for _, h := range l.Agents() {
			if _, err := s.asker(ctx, h); err != nil {
				return err
			}
		}
		return nil
	})
}

// askers is the source and the namespace of the stage's own pods; each has its node's name.
const askers = "askers"

// asker is the pod of a node from which services are asked, once it runs.
func (s *Stage) asker(ctx context.Context, h *lab.Host) (*corev1.Pod, error) {
	p, err := s.client.CoreV1().Pods(askers).Get(ctx, h.Name, metav1.GetOptions{})
	if err == nil && !running(*p) {
		err = fmt.Errorf("pod %s is %s", p.Name, p.Status.Phase)
	}
	return p, err
}

// Down ends the stage that was made in a folder, whatever there is of it.
func Down(ctx context.Context, dir string) error { return lab.Remove(ctx, filepath.Join(dir, "lab")) }

func (s *Stage) lockstep() string { return filepath.Join(s.options.Bin, "lockstep") }

// image puts an image of the stand-in into the lab's registry.
func (s *Stage) image(ctx context.Context, l *lab.Lab, name string, args []string) error {
	return s.pack(ctx, l, name, s.options.Standin, append([]string{"/standin"}, args...))
}

// pack puts an image of a program into the lab's registry. The program is in it by the entry point's first word.
func (s *Stage) pack(ctx context.Context, l *lab.Lab, name, file string, entrypoint []string) error {
	tar := filepath.Join(s.options.Dir, strings.NewReplacer("/", "_", ":", "_").Replace(name)+".tar")
	if err := image.SaveProgram(tar, name, file, entrypoint...); err != nil {
		return err
	}
	return l.Images(ctx, tar)
}

// Run runs the scenarios of a folder, each a test that has its file's name. First come those that are alone, one after the
// other, and the lab is mended after each; then all others, several at a time. A scenario that wants several servers has a lab of its
// own.
func (s *Stage) Run(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in %s: %v", dir, err)
	}
	var alone, shared, several []string
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case severalLine.Match(raw):
			several = append(several, file)
		case aloneLine.Match(raw):
			alone = append(alone, file)
		default:
			shared = append(shared, file)
		}
	}
	s.run(runner{T: t}, alone, s.setup)
	s.run(runner{T: t}, several, s.setupSeveral)
	s.run(runner{T: t, parallel: true}, shared, s.setup)
}

// setupSeveral makes a lab of three servers for a script, which ends with it.
func (s *Stage) setupSeveral(env *testscript.Env) error {
	t := env.T().(runner).T
	o := s.options
	o.Dir, o.Prefix, o.Servers = filepath.Join(o.Dir, "several"), "several-", 3
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(Down(ctx, o.Dir), os.RemoveAll(o.Dir)); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	own, err := Up(ctx, o)
	if err != nil {
		return err
	}
	if err := own.setup(env); err != nil {
		return err
	}
	c := env.Values[key{}].(*scenario)
	c.alone, c.own = true, true
	return nil
}

func (s *Stage) run(r runner, files []string, setup func(*testscript.Env) error) {
	if len(files) == 0 {
		return
	}
	p := testscript.Params{
		Files: files, Setup: setup, Cmds: scriptCommands(), RequireUniqueNames: true,
		WorkdirRoot: r.TempDir(), // which goes with the test, also where only some of the scripts run
	}
	p.Deadline, _ = r.Deadline()
	testscript.RunT(r, p)
}

// aloneLine is how a scenario says that it is not to run beside others.
var aloneLine = regexp.MustCompile(`(?m)^alone `)

// severalLine is how a scenario says that its cluster is to have three servers.
var severalLine = regexp.MustCompile(`(?m)^servers 3$`)

// runner is a test that runs scripts.
type runner struct {
	*testing.T
	parallel bool
}

// Run implements testscript.T.
func (r runner) Run(name string, f func(testscript.T)) {
	r.T.Run(name, func(t *testing.T) { f(runner{t, r.parallel}) })
}

// Parallel implements testscript.T.
func (r runner) Parallel() {
	if r.parallel {
		r.T.Parallel()
	}
}

// Verbose implements testscript.T.
func (runner) Verbose() bool { return testing.Verbose() }

// patience is how long anything may take that should take a few seconds: other tests share the machine.
const patience = 90 * time.Second

// eventually returns once check returns nil, or its last error once that takes too long.
func eventually(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := waiting.Do(ctx, check); err != nil {
		return fmt.Errorf("not within %s: %w", patience, err)
	}
	return nil
}
