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
	ctx = namespaces.WithNamespace(ctx, o.Namespace)
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"baseline","plugins":[{"type":"ptp","ipMasq":false,"ipam":{"type":"host-local",`+
		`"dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`,
		filepath.Join(o.Dir, "addresses"), o.Subnet)
	net, err := cni.New(cni.WithPluginDir(o.BinDirs), cni.WithMinNetworkCount(2), cni.WithLoNetwork, cni.WithConfListBytes([]byte(conf)))
	if err != nil {
		return 0, nil, fmt.Errorf("cannot prepare network: %w", err)
	}
	image, err := o.Client.GetImage(ctx, o.Image)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot find image: %w", err)
	}
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	started := make([]*started, n)
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel(o.Parallel))
	for i := range started {
		g.Go(func() (err error) {
			started[i], err = start(gctx, o, net, image, fmt.Sprintf("baseline-%s-%d", run, i))
			return err
		})
	}
	err = g.Wait()
	took = time.Since(began)
	return took, func() error {
		ctx := namespaces.WithNamespace(context.Background(), o.Namespace)
		var g errgroup.Group
		g.SetLimit(parallel(o.Parallel))
		for _, s := range started {
			if s != nil {
				g.Go(func() error { return s.end(ctx, net) })
			}
		}
		return g.Wait()
	}, err
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

func start(ctx context.Context, o Options, net cni.CNI, image client.Image, id string) (*started, error) {
	s := &started{id: id, netns: filepath.Join(o.Dir, id)}
	if err := pin(s.netns); err != nil {
		return nil, err
	}
	if _, err := net.Setup(ctx, id, s.netns); err != nil {
		return s, fmt.Errorf("cannot add to network: %w", err)
	}
	var err error
	s.container, err = o.Client.NewContainer(ctx, id, client.WithImage(image), client.WithSnapshotter(o.Snapshotter),
		client.WithNewSnapshot(id, image),
		client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs(o.Command...),
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

func (s *started) end(ctx context.Context, net cni.CNI) error {
	var errs []error
	if s.task != nil {
		exit, err := s.task.Wait(ctx)
		errs = append(errs, err, s.task.Kill(ctx, syscall.SIGKILL))
		if err == nil {
			<-exit
		}
		_, err = s.task.Delete(ctx)
		errs = append(errs, err)
	}
	if s.container != nil {
		errs = append(errs, s.container.Delete(ctx, client.WithSnapshotCleanup))
	}
	errs = append(errs, net.Remove(ctx, s.id, s.netns), unix.Unmount(s.netns, unix.MNT_DETACH), os.Remove(s.netns))
	return errors.Join(errs...)
}
