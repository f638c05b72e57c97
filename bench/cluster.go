package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"lockstep/daemon/control"
	"lockstep/kinds"
)

// cluster is a running `lockstep up`, everything as shipped.
type cluster struct {
	node    *node
	dir     string
	began   time.Time
	process *exec.Cmd
	log     string // file with what it prints
	ended   chan error
	door    *control.Client
	config  *rest.Config
	kube    *kubernetes.Clientset
}

func (c *cluster) dirs() []string {
	return []string{"--data-dir", filepath.Join(c.dir, "data"), "--run-dir", "/run/lockstep"}
}

// thresholds take a node for full that is: a disk that others have filled to a tenth is no matter of what is measured.
const thresholds = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi,pid.available<5%"

// launch starts a cluster in a folder of its own. It has neither waited for it nor reached it when it returns.
func (n *node) launch(args ...string) (*cluster, error) {
	dir, err := n.folder()
	if err != nil {
		return nil, err
	}
	c := &cluster{node: n, dir: dir, log: filepath.Join(dir, "log"), ended: make(chan error, 1), door: control.Dial("/run/lockstep")}
	log, err := os.Create(c.log)
	if err != nil {
		return nil, fmt.Errorf("cannot start lockstep up: %w", err)
	}
	defer log.Close()
	args = append(append([]string{
		"up", "--node-name", name, "--node-ip", address, "--images", n.imagesDir(), "--eviction-hard", thresholds,
	}, c.dirs()...), args...)
	c.process = exec.Command(n.lockstep, args...)
	c.process.Stdout, c.process.Stderr = log, log
	c.began = time.Now()
	if err := c.process.Start(); err != nil {
		return nil, fmt.Errorf("cannot start lockstep up: %w", err)
	}
	go func() { c.ended <- c.process.Wait() }()
	return c, nil
}

// down ends the cluster and removes all it made.
func (c *cluster) down() error {
	if err := c.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot stop lockstep up: %w", err)
	}
	select {
	case <-c.ended:
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("cannot stop lockstep up: it does not end"), c.process.Process.Kill())
	}
	reset := exec.Command(c.node.lockstep, append([]string{"reset"}, c.dirs()...)...)
	if out, err := reset.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot reset: %w: %s", err, out)
	}
	return os.RemoveAll(c.dir)
}

// until asks every few milliseconds, for two minutes at most.
func (c *cluster) until(ctx context.Context, what string, ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for %s: %w; lockstep up printed: %s", what, err, c.printed())
		case ended := <-c.ended:
			c.ended <- ended
			return fmt.Errorf("cannot wait for %s: lockstep up ended (%w): %s", what, ended, c.printed())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (c *cluster) printed() string {
	out, _ := os.ReadFile(c.log)
	return string(out[max(0, len(out)-2000):])
}

// connect returns once the API says that it is ready.
func (c *cluster) connect(ctx context.Context) error {
	var raw []byte
	err := c.until(ctx, "a kubeconfig", func(ctx context.Context) (err error) {
		raw, err = c.door.Kubeconfig(ctx, control.KubeconfigOptions{Server: "https://" + address + ":6443"})
		return err
	})
	if err != nil {
		return err
	}
	if c.config, err = clientcmd.RESTConfigFromKubeConfig(raw); err != nil {
		return fmt.Errorf("cannot read the kubeconfig: %w", err)
	}
	c.config.ContentType = "application/vnd.kubernetes.protobuf"
	c.config.QPS = -1
	if c.kube, err = kubernetes.NewForConfig(c.config); err != nil {
		return fmt.Errorf("cannot use the kubeconfig: %w", err)
	}
	return c.until(ctx, "/readyz", func(ctx context.Context) error {
		result := c.kube.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx)
		var code int
		if result.StatusCode(&code); code != http.StatusOK {
			return fmt.Errorf("it answers %d: %w", code, result.Error())
		}
		return nil
	})
}

// ready returns once the node is Ready in the API.
func (c *cluster) ready(ctx context.Context) error {
	return c.until(ctx, "the node", func(ctx context.Context) error {
		n, err := c.kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !kinds.NodeReady(n) {
			return errors.New("it is not Ready")
		}
		return nil
	})
}

// settled returns once all objects of the only source are in sync and healthy.
func (c *cluster) settled(ctx context.Context) error {
	return c.until(ctx, "the source", func(ctx context.Context) error {
		r, err := c.door.Report(ctx)
		if err != nil {
			return err
		}
		if len(r.Sources) != 1 || r.Sources[0].Status.State != "success" {
			return fmt.Errorf("it is not in sync: %+v", r.Sources)
		}
		return nil
	})
}

// start starts a cluster and waits for the node and for the source, if any.
func (n *node) start(ctx context.Context, args ...string) (*cluster, error) {
	c, err := n.launch(args...)
	if err != nil {
		return nil, err
	}
	err = c.connect(ctx)
	if err == nil {
		err = c.ready(ctx)
	}
	if err == nil && len(args) > 0 {
		err = c.settled(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.down())
	}
	return c, nil
}

// see returns the time at which a watch first shows what is waited for.
func see(ctx context.Context, w watch.Interface, done func(watch.Event) bool) (time.Time, error) {
	deadline := time.After(2 * time.Minute)
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return time.Time{}, errors.New("cannot watch: the watch ended")
			}
			if done(e) {
				return time.Now(), nil
			}
		case <-deadline:
			return time.Time{}, errors.New("cannot see the expected change: it did not come")
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}
