// Package logind has a machine that is about to shut down wait for its node: by an inhibitor of systemd's logind, over D-Bus.
package logind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"lockstep/internal/sleep"
	"lockstep/internal/whole"
)

const (
	service = "org.freedesktop.login1"
	object  = dbus.ObjectPath("/org/freedesktop/login1")
	manager = "org.freedesktop.login1.Manager"

	systemd        = "org.freedesktop.systemd1"
	systemdObject  = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = "org.freedesktop.systemd1.Manager"

	// callTimeout bounds one question: logind answers from what it has in memory.
	callTimeout = 10 * time.Second
	// delayPoll and delayTries are how long logind may take to read its configuration, which nobody tells: 6 s.
	delayPoll, delayTries = 200 * time.Millisecond, 30
)

// Where a machine has what this package works with.
const (
	DefaultBus     = "/run/dbus/system_bus_socket"
	DefaultConfDir = "/etc/systemd/logind.conf.d"
)

// confFile is ours in the folder of logind's configuration; logind takes the last by name.
const confFile = "99-lockstep.conf"

// ErrNone says that the machine has no system bus, and so no logind.
var ErrNone = errors.New("this machine has no system bus")

// Conn is a connection to logind.
type Conn struct {
	bus     *dbus.Conn
	end     context.CancelFunc // of what the connection runs
	signals chan *dbus.Signal
	confDir string
}

// Open connects to the bus at a socket's path. The error is ErrNone where there is none. Whoever opens it closes it; it ends with ctx.
func Open(ctx context.Context, bus, confDir string) (*Conn, error) {
	if _, err := os.Stat(bus); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	lasting, end := context.WithCancel(ctx)
	late := time.AfterFunc(callTimeout, end) // the handshake has no context of its own
	conn, err := dbus.Connect("unix:path="+dbus.EscapeBusAddressValue(bus), dbus.WithContext(lasting))
	if err == nil && !late.Stop() {
		err = errors.Join(context.DeadlineExceeded, conn.Close())
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("cannot connect to the system bus: %w", err)
	}
	// A shutdown is told once, and once when it is called off.
	c := &Conn{bus: conn, end: end, signals: make(chan *dbus.Signal, 8), confDir: confDir}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// Every user of the machine may send it: the bus passes on logind's alone.
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(service), dbus.WithMatchObjectPath(object), dbus.WithMatchInterface(manager),
		dbus.WithMatchMember("PrepareForShutdown"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot follow logind: %w", err), c.Close())
	}
	conn.Signal(c.signals)
	return c, nil
}

// Close lets go of the bus.
func (c *Conn) Close() error {
	defer c.end()
	return c.bus.Close()
}

// Allow has logind wait for inhibitors for that long, where it would wait for less. That stays so until Forget.
func (c *Conn) Allow(ctx context.Context, d time.Duration) error {
	now, err := c.delay(ctx)
	if err != nil || now >= d {
		return err
	}
	if err := os.MkdirAll(c.confDir, 0o755); err != nil {
		return fmt.Errorf("cannot configure logind: %w", err)
	}
	path := filepath.Join(c.confDir, confFile)
	text := fmt.Sprintf("# Written by lockstep agent, for its --shutdown-grace-period.\n[Login]\nInhibitDelayMaxSec=%.0f\n", d.Seconds())
	if err := errors.Join(whole.Write(path, []byte(text)), os.Chmod(path, 0o644)); err != nil {
		return fmt.Errorf("cannot configure logind: %w", err)
	}
	err = c.call(ctx, systemd, systemdObject, systemdManager+".KillUnit", "systemd-logind.service", "all", int32(syscall.SIGHUP)).Err
	if err != nil {
		return fmt.Errorf("cannot have logind read its configuration: %w", err)
	}
	for range delayTries {
		if now, err = c.delay(ctx); err != nil || now >= d {
			return err
		}
		if !sleep.For(ctx, delayPoll) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("logind waits for %v (InhibitDelayMaxSec), and not for %v", now, d)
}

// Forget removes what Allow has written; there may be nothing.
func Forget(confDir string) error {
	if err := os.Remove(filepath.Join(confDir, confFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// delay is how long logind waits for inhibitors.
func (c *Conn) delay(ctx context.Context) (time.Duration, error) {
	var v dbus.Variant
	err := c.call(ctx, service, object, "org.freedesktop.DBus.Properties.Get", manager, "InhibitDelayMaxUSec").Store(&v)
	if err != nil {
		return 0, fmt.Errorf("cannot ask how long logind waits: %w", err)
	}
	microseconds, ok := v.Value().(uint64)
	if !ok {
		return 0, errors.New("cannot ask how long logind waits: the answer is no number")
	}
	return time.Duration(min(microseconds, uint64(time.Hour/time.Microsecond))) * time.Microsecond, nil
}

// Hold has a shutdown wait until release is called, which may be called twice, or the process ends.
func (c *Conn) Hold(ctx context.Context) (release func(), err error) {
	var fd dbus.UnixFD
	call := c.call(ctx, service, object, manager+".Inhibit", "shutdown", "lockstep", "The node ends its pods in their order", "delay")
	err = call.Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("cannot take an inhibitor of shutdown: %w", err)
	}
	lock := os.NewFile(uintptr(fd), "inhibitor")
	return func() { _ = lock.Close() }, nil // what fails a second time
}

// Next waits until the machine is about to shut down, or no longer is. The error is ctx's, or says that the connection has ended.
func (c *Conn) Next(ctx context.Context) (shutting bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case s, ok := <-c.signals:
			if !ok {
				return false, errors.New("the system bus has ended")
			}
			if s.Name != manager+".PrepareForShutdown" || len(s.Body) != 1 {
				continue
			}
			if shutting, ok := s.Body[0].(bool); ok {
				return shutting, nil
			}
		}
	}
}

func (c *Conn) call(ctx context.Context, of string, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.bus.Object(of, path).CallWithContext(ctx, method, 0, args...)
}
