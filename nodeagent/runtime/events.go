package runtime

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"

	apievents "github.com/containerd/containerd/api/events"

	"lockstep/internal/sleep"
)

// Event says that something happened to a container. An empty ID says that
// events may have been lost, so everything has to be looked at.
type Event struct {
	ID string
	// OOM says that the kernel killed a process of it for lack of memory.
	OOM bool
	// Exited says that its first process has ended.
	Exited bool
	// Paused says that somebody has its processes stand still.
	Paused bool
	// Made says that a container of this ID has appeared.
	Made bool
}

// Watch passes events to handle until ctx ends; after each loss of the
// connection it comes back by itself and reports an Event without ID. handle
// must not block.
func (r *Runtime) Watch(ctx context.Context, handle func(Event)) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	// A subscription ends when containerd does; it is back within about a second.
	const first, last = 50 * time.Millisecond, 2 * time.Second
	delay, told := first, false
	for ctx.Err() == nil {
		sub, stop := context.WithCancel(ctx)
		messages, errs := r.client.Subscribe(sub,
			`namespace==`+Namespace+`,topic=="/tasks/exit"`, `namespace==`+Namespace+`,topic=="/tasks/oom"`,
			`namespace==`+Namespace+`,topic=="/tasks/paused"`, `namespace==`+Namespace+`,topic=="/containers/create"`)
		handle(Event{})
		began := time.Now()
	receive:
		for {
			select {
			case m := <-messages:
				v, err := typeurl.UnmarshalAny(m.Event)
				if err != nil {
					handle(Event{})
					continue
				}
				switch e := v.(type) {
				case *apievents.TaskExit:
					handle(Event{ID: e.ContainerID, Exited: e.ID == e.ContainerID})
				case *apievents.TaskOOM:
					handle(Event{ID: e.ContainerID, OOM: true})
				case *apievents.TaskPaused:
					handle(Event{ID: e.ContainerID, Paused: true})
				case *apievents.ContainerCreate:
					handle(Event{ID: e.ID, Made: true})
				}
			case err := <-errs:
				if ctx.Err() == nil && !(told && time.Since(began) <= last) { // once until it has lasted
					r.opts.Log.Warn("cannot receive containerd events", "error", err)
					told = true
				}
				break receive
			case <-ctx.Done():
				break receive
			}
		}
		stop()
		if time.Since(began) > last {
			delay = first
		}
		sleep.For(ctx, delay)
		delay = min(2*delay, last)
	}
	return nil
}
