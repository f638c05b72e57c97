package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	// lookEvery is how often registrations are looked for though nobody said that there are any.
	lookEvery = 30 * time.Second
	// askTimeout bounds one question of a registration: it is answered from memory.
	askTimeout = 10 * time.Second
	// firstRetry doubles up to lastRetry between attempts to register a driver, or to remove what it has mounted.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 2 * time.Minute
	// maxSockets bounds the registrations that are looked at: far more than any node has drivers.
	maxSockets = 256
)

// registration is a socket at which a driver says what it is.
type registration struct {
	made   time.Time // when the socket was
	inode  uint64
	cancel context.CancelFunc
	driver *driver // nil until it is registered
}

// watch registers the drivers whose sockets appear, and forgets those whose sockets are gone, until ctx ends.
func (m *Manager) watch(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	var events <-chan fsnotify.Event
	if w, err := fsnotify.NewWatcher(); err != nil {
		m.opts.Log.Warn("cannot watch for CSI drivers, looking now and then", "error", err)
	} else {
		defer w.Close()
		if err := w.Add(m.dirs.registry()); err != nil {
			m.opts.Log.Warn("cannot watch for CSI drivers, looking now and then", "error", err)
		}
		events = w.Events
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		found, err := m.find()
		if err != nil {
			m.opts.Log.Warn("cannot look for CSI drivers", "error", err)
		} else {
			m.follow(ctx, &running, found)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		case <-t.C:
		}
	}
}

// find lists the sockets of registrations.
func (m *Manager) find() (map[string]registration, error) {
	out := map[string]registration{}
	err := filepath.WalkDir(m.dirs.registry(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || len(out) >= maxSockets {
			return nil //nolint:nilerr // it is gone already
		}
		if e.Type()&fs.ModeSocket == 0 || strings.HasPrefix(e.Name(), ".") {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err == nil {
			out[path] = registration{made: time.Unix(st.Ctim.Unix()), inode: st.Ino}
		}
		return nil
	})
	return out, err
}

// follow begins to register what is new, and forgets what is gone or was made anew.
func (m *Manager) follow(ctx context.Context, running *sync.WaitGroup, found map[string]registration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, r := range m.sockets {
		if now, ok := found[path]; ok && now.inode == r.inode && now.made.Equal(r.made) {
			continue
		}
		r.cancel()
		delete(m.sockets, path)
		m.drop(r)
	}
	for path, r := range found {
		if m.sockets[path] != nil {
			continue
		}
		trying, cancel := context.WithCancel(ctx)
		r.cancel = cancel
		mine := &r
		m.sockets[path] = mine
		running.Go(func() { m.register(trying, path, mine) })
	}
}

// drop forgets the driver of a registration that has ended; m.mu is held. Another one of that name that was pushed out by it is
// registered again.
func (m *Manager) drop(r *registration) {
	d := r.driver
	if d == nil {
		return
	}
	d.close()
	if m.drivers[d.name] != d {
		return
	}
	delete(m.drivers, d.name)
	for path, other := range m.sockets {
		if other.driver != nil && other.driver.name == d.name {
			other.cancel()
			other.driver.close()
			delete(m.sockets, path)
		}
	}
	m.opts.Log.Info("a CSI driver has left", "driver", d.name)
	m.changed()
}

// register registers a driver, again and again until that is done or ctx ends.
func (m *Manager) register(ctx context.Context, path string, r *registration) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := m.tryRegister(ctx, path, r)
		if err == nil || ctx.Err() != nil {
			return
		}
		if !errors.Is(err, os.ErrNotExist) {
			m.opts.Log.Warn("cannot register a CSI driver", "socket", path, "error", err, "again", wait)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

func (m *Manager) tryRegister(ctx context.Context, path string, r *registration) error {
	conn, err := connect(func(ctx context.Context) (net.Conn, error) { return dial(ctx, path) })
	if err != nil {
		return err
	}
	defer conn.Close()
	client := registerapi.NewRegistrationClient(conn)
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := client.GetInfo(asked, &registerapi.InfoRequest{})
	if err != nil {
		return fmt.Errorf("cannot ask what it is: %w", err)
	}
	d, err := m.introduce(ctx, info, path)
	answer := &registerapi.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		answer.Error = "RegisterPlugin error -- plugin registration failed with err: " + err.Error()
	} else if !m.take(ctx, r, d) {
		return nil // it is gone
	}
	told, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, failed := client.NotifyRegistrationStatus(told, answer); failed != nil && err == nil {
		m.opts.Log.Warn("cannot tell a CSI driver that it is registered", "driver", d.name, "error", failed)
	}
	return err
}

// introduce asks the driver itself.
func (m *Manager) introduce(ctx context.Context, info *registerapi.PluginInfo, path string) (*driver, error) {
	if info.GetType() != registerapi.CSIPlugin {
		return nil, fmt.Errorf("no handler registered for plugin type: %s at socket %s", info.GetType(), path)
	}
	if err := checkName(info.GetName()); err != nil {
		return nil, err
	}
	if !supported(info.GetSupportedVersions()) {
		return nil, fmt.Errorf("validation failed for CSI Driver %s at endpoint %s: one of the CSI versions %q is needed, 1.x",
			info.GetName(), info.GetEndpoint(), info.GetSupportedVersions())
	}
	endpoint := path
	if info.GetEndpoint() != "" {
		endpoint = m.dirs.real(info.GetEndpoint())
	}
	if !filepath.IsAbs(endpoint) {
		return nil, fmt.Errorf("the endpoint %q is no absolute path", info.GetEndpoint())
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return open(ctx, info.GetName(), endpoint)
}

// supported says whether a version of CSI that is spoken here is among those: 1.x, with or without a v.
func supported(versions []string) bool {
	for _, v := range versions {
		if major, _, _ := strings.Cut(strings.TrimPrefix(v, "v"), "."); major == "1" {
			return true
		}
	}
	return false
}

// take makes a driver the one of its name, unless its registration has ended. Of two of one name the one that came last counts.
func (m *Manager) take(ctx context.Context, r *registration, d *driver) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		d.close()
		return false
	}
	if m.drivers[d.name] != nil {
		m.opts.Log.Warn("a CSI driver was registered twice, the one that came last counts", "driver", d.name, "endpoint", d.endpoint)
	}
	r.driver, m.drivers[d.name] = d, d
	m.opts.Log.Info("a CSI driver has come", "driver", d.name, "endpoint", d.endpoint, "id", d.id)
	m.changed()
	return true
}
