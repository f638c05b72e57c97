// Package runtime makes, ends and observes a node's containers in containerd.
package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
)

// Namespace is the containerd namespace of everything we make.
const Namespace = "lockstep"

// Labels of containers; the first four are Kubernetes' own.
const (
	LabelPodName      = "io.kubernetes.pod.name"
	LabelPodNamespace = "io.kubernetes.pod.namespace"
	LabelPodUID       = "io.kubernetes.pod.uid"
	LabelContainer    = "io.kubernetes.container.name"
	LabelNode         = "lockstep.dev/node"
	LabelAttempt      = "lockstep.dev/attempt"
	LabelSandbox      = "lockstep.dev/sandbox"
	LabelHash         = "lockstep.dev/hash"
	LabelCrashes      = "lockstep.dev/crashes"
	LabelImageID      = "lockstep.dev/image-id"
)

const (
	runtimeName = "io.containerd.runc.v2"
	// callTimeout bounds one call that only reads or writes metadata: they
	// take milliseconds, and a containerd under load may need seconds.
	callTimeout = 30 * time.Second
	// answerTimeout is how long a containerd that is there may take to say so.
	answerTimeout = 5 * time.Second
	// createTimeout bounds what starts processes and mounts.
	createTimeout = 2 * time.Minute
	// killTimeout is what killing commands may take at the end: milliseconds,
	// seconds on a busy machine. closeTimeout is for what only frees memory.
	killTimeout  = 10 * time.Second
	closeTimeout = time.Second
)

// Options configures the connection to containerd.
type Options struct {
	Address     string // of the unix socket
	Node        string
	Snapshotter string // default overlayfs
	RunDir      string // for the FIFOs of exec
	State       string // containerd's state folder where it is known; else it is found
	Runc        string // program that runs containers; runc, as containerd finds it, if empty
	Log         *slog.Logger
}

// Runtime is a connection to containerd that comes back by itself.
type Runtime struct {
	opts   Options
	client *client.Client
	losses *losses
	seen   atomic.Pointer[string] // where a bundle of a container was

	life    context.Context // until Close
	end     context.CancelFunc
	killing sync.WaitGroup // of commands whose time is over
	behind  sync.WaitGroup // what else goes on behind those who asked for it
}

// losses counts how often the connection has ended.
type losses struct{ atomic.Int64 }

func (*losses) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*losses) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*losses) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (l *losses) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ended := s.(*stats.ConnEnd); ended {
		l.Add(1)
	}
}

// Interruption begins to watch the connection. What it returns tells whether
// containerd has gone away since, for good or for a while: what failed
// meanwhile may have failed for that alone.
func (r *Runtime) Interruption() (happened func(context.Context) bool) {
	before := r.losses.Load()
	return func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		// An answer comes over a connection that was made after the loss was counted.
		_, err := r.Version(ctx)
		return err != nil || r.losses.Load() != before
	}
}

// Open connects; it does not wait for containerd to answer.
func Open(opts Options) (*Runtime, error) {
	if opts.Snapshotter == "" {
		opts.Snapshotter = "overlayfs"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	// containerd comes back within a second of a restart: a short maximum keeps
	// the agent from noticing late.
	reconnect := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	l := &losses{}
	c, err := client.New(opts.Address, client.WithDefaultNamespace(Namespace), client.WithTimeout(0),
		client.WithExtraDialOpts([]grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithStatsHandler(l),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}),
		}))
	if err != nil {
		return nil, fmt.Errorf("cannot open containerd at %s: %w", opts.Address, err)
	}
	r := &Runtime{opts: opts, client: c, losses: l}
	r.life, r.end = context.WithCancel(context.Background())
	return r, nil
}

// Client is the connection, for others that talk to the same containerd.
func (r *Runtime) Client() *client.Client { return r.client }

// Snapshotter names the snapshotter that root file systems are made with.
func (r *Runtime) Snapshotter() string { return r.opts.Snapshotter }

// Dir is where containerd's snapshotter keeps layers; empty if containerd
// does not say, or says it of another mount namespace.
func (r *Runtime) Dir(ctx context.Context) string {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	res, err := r.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return ""
	}
	for _, p := range res.Plugins {
		if dir := p.Exports["root"]; p.ID == r.opts.Snapshotter && dir != "" {
			if _, err := os.Stat(dir); err == nil {
				return dir
			}
		}
	}
	return ""
}

// Usage measures what a container has written to its own layer.
func (r *Runtime) Usage(ctx context.Context, id string) (bytes, inodes uint64, err error) {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	u, err := r.client.SnapshotService(r.opts.Snapshotter).Usage(ctx, id)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot measure layer of container %s: %w", short(id), err)
	}
	return uint64(u.Size), uint64(u.Inodes), nil
}

// Close ends the connection; containers are not touched. Commands that are
// being killed get their time, so that none outlives those who waited for it.
func (r *Runtime) Close() error {
	for _, of := range []struct {
		work *sync.WaitGroup
		time time.Duration
	}{{&r.killing, killTimeout}, {&r.behind, closeTimeout}} {
		timer := time.AfterFunc(of.time, r.end)
		of.work.Wait()
		timer.Stop()
	}
	r.end()
	return r.client.Close()
}

// Version asks containerd for its version; an error says that it does not answer.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	v, err := r.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot ask containerd for its version: %w", err)
	}
	return v.Version, nil
}

func call(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(namespaces.WithNamespace(ctx, Namespace), d)
}

// State is where a container's first process stands.
type State int

const (
	// Absent: the container has no process and no result of one.
	Absent State = iota
	Created
	Running
	Stopped
	// Unknown: its shim did not answer in time. Of one whose shim is gone
	// containerd says that it has ended.
	Unknown
)

// Identity says which instance of which pod's container something is.
type Identity struct {
	PodUID, PodNamespace, PodName string
	Name                          string
	Attempt                       int
}

// ID is the instance's containerd ID: the same instance always has the same.
func (i Identity) ID() string {
	sum := sha256.Sum256([]byte(i.PodUID + "/" + i.Name + "/" + strconv.Itoa(i.Attempt)))
	return hex.EncodeToString(sum[:])
}

// Container is one container of our namespace as containerd has it.
type Container struct {
	ID string
	Identity
	// Foreign says that nobody of ours made it; Identity is empty then.
	Foreign        bool
	Sandbox, Hash  string
	Crashes        int
	Image, ImageID string
	CreatedAt      time.Time

	State    State
	PID      uint32
	ExitCode uint32
	ExitedAt time.Time
}

// List returns this node's containers and those that nobody made for a pod.
func (r *Runtime) List(ctx context.Context) ([]Container, error) {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	records, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	res, err := r.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("cannot list tasks: %w", err)
	}
	byID := map[string]*task.Process{}
	for _, t := range res.Tasks {
		id := t.ID
		if id == "" {
			id = t.ContainerID
		}
		byID[id] = t
	}
	var out []Container
	for _, rec := range records {
		c := read(rec)
		if node := rec.Labels[LabelNode]; node != r.opts.Node && node != "" {
			continue
		}
		c.observe(byID[rec.ID])
		r.see(c.PID)
		out = append(out, c)
	}
	return out, nil
}

// Get returns one container; errdefs.IsNotFound says that it is absent.
func (r *Runtime) Get(ctx context.Context, id string) (Container, error) {
	ctx, cancel := call(ctx, callTimeout)
	defer cancel()
	rec, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return Container{}, fmt.Errorf("cannot read container %s: %w", id, err)
	}
	c := read(rec)
	t, err := r.task(ctx, id)
	if err != nil {
		return Container{}, err
	}
	c.observe(t)
	r.see(c.PID)
	return c, nil
}

// task returns a container's task; nil if it has none.
func (r *Runtime) task(ctx context.Context, id string) (*task.Process, error) {
	res, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err = native(err); errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read task %s: %w", id, err)
	}
	return res.Process, nil
}

func read(rec containers.Container) Container {
	l := rec.Labels
	c := Container{
		ID:       rec.ID,
		Identity: Identity{PodUID: l[LabelPodUID], PodNamespace: l[LabelPodNamespace], PodName: l[LabelPodName], Name: l[LabelContainer]},
		Sandbox:  l[LabelSandbox], Hash: l[LabelHash], Image: rec.Image, ImageID: l[LabelImageID], CreatedAt: rec.CreatedAt,
	}
	c.Attempt, _ = strconv.Atoi(l[LabelAttempt])
	c.Crashes, _ = strconv.Atoi(l[LabelCrashes])
	// A copied label does not make a container ours: its ID follows from them.
	if c.PodUID == "" || c.Identity.ID() != c.ID {
		c.Foreign, c.Identity = true, Identity{}
	}
	return c
}

func (c *Container) observe(t *task.Process) {
	if t == nil {
		return
	}
	c.PID = t.Pid
	switch t.Status {
	case task.Status_CREATED:
		c.State = Created
	case task.Status_STOPPED:
		c.State, c.ExitCode, c.ExitedAt = Stopped, t.ExitStatus, t.ExitedAt.AsTime()
	case task.Status_UNKNOWN:
		c.State = Unknown
	default:
		c.State = Running
	}
}

func (c Container) labels(node string) map[string]string {
	l := map[string]string{
		LabelPodName: c.PodName, LabelPodNamespace: c.PodNamespace, LabelPodUID: c.PodUID, LabelContainer: c.Name,
		LabelNode: node, LabelAttempt: strconv.Itoa(c.Attempt), LabelSandbox: c.Sandbox, LabelHash: c.Hash,
		LabelCrashes: strconv.Itoa(c.Crashes), LabelImageID: c.ImageID,
	}
	maps.DeleteFunc(l, func(_, v string) bool { return v == "" })
	return l
}

// short makes an ID readable in logs.
func short(id string) string {
	if len(id) > 12 && !strings.Contains(id, "-") {
		return id[:12]
	}
	return id
}

// Clear removes the images of our namespace, waits for their content to go,
// and removes the namespace if nothing is left in it.
func (r *Runtime) Clear(ctx context.Context) error {
	ctx, cancel := call(ctx, createTimeout)
	defer cancel()
	rest, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("cannot list containers: %w", err)
	}
	if len(rest) > 0 {
		return nil // another node shares this containerd
	}
	list, err := r.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("cannot list images: %w", err)
	}
	for i, img := range list {
		var opts []images.DeleteOpt
		if i == len(list)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := r.client.ImageService().Delete(ctx, img.Name, opts...); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("cannot remove image %s: %w", img.Name, err)
		}
	}
	if err := r.client.NamespaceService().Delete(ctx, Namespace); err != nil && !errdefs.IsNotFound(err) &&
		!errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("cannot remove containerd namespace: %w", err)
	}
	return nil
}
