// Package baseline starts containers with nothing but the client libraries: the bound that the agent's speed is measured against.
package baseline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/go-cni"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"lockstep/internal/thread"
)

// Options say what is started. All fields are required but Parallel.
type Options struct {
	Client *client.Client
	// Namespace of containerd; not the agent's, which would remove the containers.
	Namespace   string
	Image       string // on the node, and unpacked
	Snapshotter string
	Command     []string
	// Dir takes pinned network namespaces, CNI state and logs.
	Dir     string
	BinDirs []string
	// Subnet is the range of pod addresses, for example 10.66.0.0/24.
	Subnet string
	// Parallel is how many are started at a time; 0 means twice the number of CPUs.
	Parallel int
}

// Start starts n containers, each in a network namespace of its own that has
// been added to a ptp network, its output going to a file. It returns how long
// that took and what ends and removes them all.
func Start(ctx context.Context, o Options, n int) (took time.Duration, end func() error, err error) {
	r, err := prepare(ctx, o)
	if err != nil {
		return 0, nil, err
	}
	started := make([]*started, n)
	took, err = r.each(ctx, n, func(ctx context.Context, i int, id string) (err error) {
		started[i], err = r.start(ctx, id)
		return err
	})
	return took, func() error {
		_, err := r.each(context.Background(), n, func(ctx context.Context, i int, _ string) error {
			if started[i] == nil {
				return nil
			}
			return errors.Join(started[i].kill(ctx), r.remove(ctx, started[i]))
		})
		return err
	}, err
}

// Run starts n containers as Start does, waits for each until it has ended by itself, and removes it. It returns how long all
// that took.
func Run(ctx context.Context, o Options, n int) (time.Duration, error) {
	r, err := prepare(ctx, o)
	if err != nil {
		return 0, err
	}
	return r.each(ctx, n, func(ctx context.Context, _ int, id string) error {
		s, err := r.start(ctx, id)
		if s != nil && s.task != nil {
			err = errors.Join(err, s.wait(ctx))
		}
		return errors.Join(err, r.remove(ctx, s))
	})
}

// runner is what all containers of a call share.
type runner struct {
	Options
	net   cni.CNI
	image client.Image
	run   string // part of all names
}

func prepare(ctx context.Context, o Options) (*runner, error) {
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"baseline","plugins":[{"type":"ptp","ipMasq":false,"ipam":{"type":"host-local",`+
		`"dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`,
		filepath.Join(o.Dir, "addresses"), o.Subnet)
	net, err := cni.New(cni.WithPluginDir(o.BinDirs), cni.WithMinNetworkCount(2), cni.WithLoNetwork, cni.WithConfListBytes([]byte(conf)))
	if err != nil {
		return nil, fmt.Errorf("cannot prepare network: %w", err)
	}
	image, err := o.Client.GetImage(namespaces.WithNamespace(ctx, o.Namespace), o.Image)
	if err != nil {
		return nil, fmt.Errorf("cannot find image: %w", err)
	}
	return &runner{o, net, image, strconv.FormatInt(time.Now().UnixNano(), 36)}, nil
}

// each calls f for n containers, as many at a time as the options say, and returns how long that took.
func (r *runner) each(ctx context.Context, n int, f func(ctx context.Context, i int, id string) error) (time.Duration, error) {
	began := time.Now()
	g, ctx := errgroup.WithContext(namespaces.WithNamespace(ctx, r.Namespace))
	g.SetLimit(parallel(r.Parallel))
	for i := range n {
		g.Go(func() error { return f(ctx, i, fmt.Sprintf("baseline-%s-%d", r.run, i)) })
	}
	err := g.Wait()
	return time.Since(began), err
}

func parallel(n int) int {
	if n > 0 {
		return n
	}
	return 2 * runtime.NumCPU()
}

type started struct {
	id, netns string
	container client.Container
	task      client.Task
}

func (r *runner) start(ctx context.Context, id string) (*started, error) {
	s := &started{id: id, netns: filepath.Join(r.Dir, id)}
	if err := pin(s.netns); err != nil {
		return nil, err
	}
	if _, err := r.net.Setup(ctx, id, s.netns); err != nil {
		return s, fmt.Errorf("cannot add to network: %w", err)
	}
	var err error
	s.container, err = r.Client.NewContainer(ctx, id, client.WithImage(r.image), client.WithSnapshotter(r.Snapshotter),
		client.WithNewSnapshot(id, r.image),
		client.WithNewSpec(oci.WithImageConfig(r.image), oci.WithProcessArgs(r.Command...),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.netns})))
	if err != nil {
		return s, fmt.Errorf("cannot create container: %w", err)
	}
	if s.task, err = s.container.NewTask(ctx, cio.LogFile(s.netns+".log")); err != nil {
		return s, fmt.Errorf("cannot create task: %w", err)
	}
	if err := s.task.Start(ctx); err != nil {
		return s, fmt.Errorf("cannot start task: %w", err)
	}
	return s, nil
}

// pin makes a network namespace that stays at a path.
func pin(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return thread.Own(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
}

// kill ends what a container runs.
func (s *started) kill(ctx context.Context) error {
	if s.task == nil {
		return nil
	}
	return errors.Join(s.task.Kill(ctx, syscall.SIGKILL), s.wait(ctx))
}

// wait returns once what a container runs has ended.
func (s *started) wait(ctx context.Context) error {
	exit, err := s.task.Wait(ctx)
	if err != nil {
		return err
	}
	return (<-exit).Error()
}

// remove removes a container that has ended, as far as it was made.
func (r *runner) remove(ctx context.Context, s *started) error {
	if s == nil {
		return nil
	}
	var errs []error
	if s.task != nil {
		_, err := s.task.Delete(ctx)
		errs = append(errs, err)
	}
	if s.container != nil {
		errs = append(errs, s.container.Delete(ctx, client.WithSnapshotCleanup))
	}
	errs = append(errs, r.net.Remove(ctx, s.id, s.netns), unix.Unmount(s.netns, unix.MNT_DETACH), os.Remove(s.netns))
	return errors.Join(errs...)
}
