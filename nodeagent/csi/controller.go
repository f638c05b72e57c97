package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/nodeagent/beneath"
)

// socketsEvery is how often pods are looked at for controllers' sockets.
const socketsEvery = 5 * time.Second

// Socket is one that a running pod says a controller service listens at.
type Socket struct {
	UID       types.UID
	Namespace string
	// Dir is a volume of the pod's, and File the socket in it. The pod can write there: no link is followed.
	Dir, File string
}

// offer is what a pod's socket has said of itself.
type offer struct {
	Socket
	driver string // empty: it has not answered yet
}

// open reaches the socket.
func (s Socket) open(ctx context.Context) (net.Conn, error) {
	dir, err := beneath.Open(s.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Dial(ctx, s.File)
}

// lookAtSockets asks what pods offer, until ctx ends.
func (m *Manager) lookAtSockets(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	t := time.NewTicker(socketsEvery)
	defer t.Stop()
	for {
		m.followSockets(ctx, &running, m.opts.Sockets())
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (m *Manager) followSockets(ctx context.Context, running *sync.WaitGroup, sockets []Socket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, o := range m.offered {
		if !slices.Contains(sockets, o.Socket) {
			delete(m.offered, uid)
			if o.driver != "" {
				m.changed()
			}
		}
	}
	for _, s := range sockets {
		if _, ok := m.offered[s.UID]; ok {
			continue
		}
		m.offered[s.UID] = offer{Socket: s}
		running.Go(func() {
			name, err := m.identify(ctx, s)
			m.mu.Lock()
			defer m.mu.Unlock()
			switch {
			case m.offered[s.UID].Socket != s:
			case err != nil:
				delete(m.offered, s.UID) // and asked again
				m.opts.Log.Debug("a CSI controller does not say what it is", "pod", s.UID, "error", err)
			default:
				m.offered[s.UID] = offer{s, name}
				m.changed()
			}
		})
	}
}

// identify asks a socket for its driver's name. Whose CSIDriver does not say that such pods may be its controller is refused:
// controllers are told of Secrets.
func (m *Manager) identify(ctx context.Context, s Socket) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := connect(s.open)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	info, err := csipb.NewIdentityClient(conn).GetPluginInfo(ctx, &csipb.GetPluginInfoRequest{}, grpc.WaitForReady(false))
	if err != nil {
		return "", err
	}
	if err := checkName(info.GetName()); err != nil {
		return "", err
	}
	o, err := m.object(ctx, info.GetName())
	if err != nil {
		return "", err
	}
	if o == nil || o.Annotations[kinds.CSINamespace] != s.Namespace {
		return "", fmt.Errorf("the CSIDriver %s does not name namespace %s in its annotation %s", info.GetName(), s.Namespace,
			kinds.CSINamespace)
	}
	return info.GetName(), nil
}

// Controllers are the drivers whose controller service this node reaches, sorted.
func (m *Manager) Controllers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	has := map[string]bool{}
	for name, d := range m.drivers {
		has[name] = d.controller
	}
	for _, o := range m.offered {
		has[o.driver] = true
	}
	var out []string
	for name, there := range has {
		if there && name != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// dialController reaches the controller service of a driver.
func (m *Manager) dialController(ctx context.Context, name string) (net.Conn, error) {
	m.mu.Lock()
	d := m.drivers[name]
	var in *Socket
	for _, o := range m.offered {
		if o.driver == name {
			in = &o.Socket
			break
		}
	}
	m.mu.Unlock()
	switch {
	case in != nil:
		return in.open(ctx)
	case d != nil && d.controller:
		return dial(ctx, d.endpoint)
	}
	return nil, fmt.Errorf("no controller of CSI driver %s is on this node", name)
}

// ServeHTTP joins the caller to the controller service of the driver that the path names: what is sent in the request's body goes
// to its socket, and what that answers is the response's body. Only the control plane reaches it.
func (m *Manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	conn, err := m.dialController(ctx, r.PathValue("driver"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer conn.Close()
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if err := out.Flush(); err != nil {
		return
	}
	stop := context.AfterFunc(r.Context(), func() { conn.Close() })
	defer stop()
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		_, _ = io.Copy(conn, r.Body) // ends with the caller, or with the driver
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	buffer := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			if _, failed := w.Write(buffer[:n]); failed != nil {
				err = errors.Join(err, failed)
			} else if failed := out.Flush(); failed != nil {
				err = errors.Join(err, failed)
			}
		}
		if err != nil {
			r.Body.Close() // so that sending ends
			return
		}
	}
}
