package reading

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/internal/eventually"
	"lockstep/internal/kubectl"
	"lockstep/lab"
	"lockstep/lab/image"
	"lockstep/lab/programs"
)

const (
	// patience is how long anything may take on a busy machine.
	patience = 60 * time.Second
	// one and other are the names of the nodes; n1 and n2 in the table of rights.
	one, other = "rd-agent1", "rd-agent2"
)

// world is the lab that all tests of the package read.
type world struct {
	lab        *lab.Lab
	config     *rest.Config // a viewer's
	client     *kubernetes.Clientset
	home       string // of kubectl, with its kubeconfig
	work, bare string // the source's repository
	lockstep   string
}

var cluster *world

func TestMain(m *testing.M) {
	kubectl.Main()
	programs.Main(m, "the tests of a lab", func(dir string) (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		cluster, err = begin(ctx, dir)
		return err
	}, end)
}

func end(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return lab.Remove(ctx, filepath.Join(dir, "lab"))
}

// begin makes a lab with a source whose objects are those of the table of rights, and some that talk.
func begin(ctx context.Context, dir string) (*world, error) {
	w := &world{home: filepath.Join(dir, "home"), work: filepath.Join(dir, "work")}
	bin, err := programs.Find(dir, map[string]string{"talker": "lockstep/lab/reading/talker"})
	if err != nil {
		return nil, err
	}
	w.lockstep = filepath.Join(bin, "lockstep")
	url := fmt.Sprintf("http://%s:%d/lab/main.git", lab.HubAddr, lab.GitPort)
	if w.lab, err = lab.Up(ctx, lab.Options{
		Dir: filepath.Join(dir, "lab"), Lockstep: w.lockstep, Self: filepath.Join(bin, "lockstep-lab"),
		Prefix: "rd-", Sources: []string{"main=" + url + "#main"},
	}); err != nil {
		return nil, err
	}
	if err := w.images(ctx, dir); err != nil {
		return nil, err
	}
	if _, w.bare, err = w.lab.Repo(ctx, "main", false); err != nil {
		return nil, err
	}
	if err := w.push(ctx, objects(2)); err != nil {
		return nil, err
	}
	kubeconfig, err := w.lab.Kubeconfig(ctx, true)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(w.home, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(w.home, "config"), kubeconfig, 0o600); err != nil {
		return nil, err
	}
	if w.config, err = clientcmd.RESTConfigFromKubeConfig(kubeconfig); err != nil {
		return nil, err
	}
	w.config.QPS = -1
	w.client, err = kubernetes.NewForConfig(w.config)
	return w, err
}

func (w *world) images(ctx context.Context, dir string) error {
	tar := filepath.Join(dir, "talker.tar")
	if err := image.SaveProgram(tar, "lab.example/talker:1", filepath.Join(dir, "talker"), "/talker"); err != nil {
		return err
	}
	return w.lab.Images(ctx, tar)
}

// push makes files the whole content of the source's repository.
func (w *world) push(ctx context.Context, files map[string]string) error {
	if err := os.MkdirAll(w.work, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(w.work, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, args := range []string{"init -q -b main", "add -A", "commit -q -m change", "push -q " + w.bare + " HEAD:main"} {
		cmd := exec.CommandContext(ctx, "git", strings.Fields(args)...)
		cmd.Dir = w.work
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot push: git %s: %w: %s", args, err, out)
		}
	}
	return nil
}

// command is kubectl as the viewer.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	c := kubectl.Command(ctx, filepath.Join(w.home, "config"), w.home, args...)
	c.Env = append(c.Env, "KUBE_EDITOR=sed -i s/replicas:/replicas:\\ 7#/")
	return c
}

// kubectl returns what kubectl printed on both outputs, and whether it succeeded.
func (w *world) kubectl(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := w.command(ctx, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("kubectl %v: %v: %s", args, err, out.String())
	}
	return out.String(), err == nil
}

// until returns once check returns nil.
func until(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := eventually.Do(ctx, check)
	if err == nil {
		return
	}
	for _, h := range cluster.lab.Hosts() {
		for _, service := range []string{lab.Daemon, lab.Agent} {
			if raw, err := os.ReadFile(h.LogFile(service)); err == nil {
				t.Logf("%s on %s:\n%s", service, h.Name, raw[max(0, len(raw)-8000):])
			}
		}
	}
	t.Fatalf("not within %s: %s: %v", patience, what, err)
}
