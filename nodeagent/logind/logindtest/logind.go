// Package logindtest is a system bus on which nobody but a logind and a systemd answer, as far as this tree asks them.
package logindtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// Bus is the bus. Its fields may be set before anybody connects.
type Bus struct {
	// Path is its socket.
	Path string
	// Delay is how long logind waits. It reads ConfDir when it is told to.
	Delay   time.Duration
	ConfDir string
	// Deaf has it read nothing when it is told to.
	Deaf bool

	t        testing.TB
	listener *net.UnixListener
	serving  sync.WaitGroup

	mu     sync.Mutex
	serial uint32 // of the last message
	conns  map[*net.UnixConn]bool
	locks  []*os.File // the other ends of those that were given out
	asked  []string   // what was asked for, for an inhibitor with its words
	rules  []string   // by which the signals are chosen that are sent
}

// New starts a bus, which ends with the test.
func New(t testing.TB) *Bus {
	t.Helper()
	b := &Bus{Path: filepath.Join(t.TempDir(), "bus"), Delay: 5 * time.Second, ConfDir: t.TempDir(), t: t, conns: map[*net.UnixConn]bool{}}
	var err error
	if b.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: b.Path, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	b.serving.Go(b.accept)
	t.Cleanup(func() {
		_ = b.listener.Close()
		b.Cut()
		b.serving.Wait()
	})
	return b
}

func (b *Bus) accept() {
	for {
		conn, err := b.listener.AcceptUnix()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[conn] = true
		b.mu.Unlock()
		b.serving.Go(func() {
			b.serve(conn)
			b.mu.Lock()
			delete(b.conns, conn)
			b.mu.Unlock()
			_ = conn.Close()
		})
	}
}

// Cut ends all connections.
func (b *Bus) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.conns {
		_ = conn.Close()
	}
}

// serve answers one connection: the handshake by lines, then messages.
func (b *Bus) serve(conn *net.UnixConn) {
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch line = strings.Trim(line, "\x00\r\n"); {
		case line == "AUTH":
			_, _ = io.WriteString(conn, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			_, _ = io.WriteString(conn, "OK 0123456789abcdef0123456789abcdef\r\n")
		case line == "NEGOTIATE_UNIX_FD":
			_, _ = io.WriteString(conn, "AGREE_UNIX_FD\r\n")
		case line == "BEGIN":
			b.answer(conn, in)
			return
		}
	}
}

func (b *Bus) answer(conn *net.UnixConn, in io.Reader) {
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		member, _ := call.Headers[dbus.FieldMember].Value().(string)
		body, end := b.ask(member, call.Body)
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
		}}
		b.send(conn, reply)
		if end != nil {
			_ = end.Close() // the other side has it now
		}
	}
}

// ask answers a question; end is a file of the answer that is to be closed once it was sent.
func (b *Bus) ask(member string, args []any) (body []any, end *os.File) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch member {
	case "Hello":
		return []any{":1.1"}, nil
	case "Get":
		return []any{dbus.MakeVariant(uint64(b.Delay / time.Microsecond))}, nil
	case "AddMatch":
		b.rules = append(b.rules, fmt.Sprint(args...))
	case "KillUnit":
		b.asked = append(b.asked, fmt.Sprintf("%q", args))
		b.reload()
	case "Inhibit":
		b.asked = append(b.asked, fmt.Sprintf("%q", args))
		here, there, err := os.Pipe()
		if err != nil {
			b.t.Error(err)
			return nil, nil
		}
		b.locks = append(b.locks, here)
		return []any{dbus.UnixFD(there.Fd())}, there
	}
	return nil, nil
}

// reload reads the configuration as logind does. b.mu is held.
func (b *Bus) reload() {
	files, _ := filepath.Glob(filepath.Join(b.ConfDir, "*.conf"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || b.Deaf {
			continue
		}
		var seconds int
		if _, after, ok := strings.Cut(string(data), "InhibitDelayMaxSec="); ok {
			if _, err := fmt.Sscan(after, &seconds); err == nil {
				b.Delay = time.Duration(seconds) * time.Second
			}
		}
	}
}

func (b *Bus) send(conn *net.UnixConn, m *dbus.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serial++
	if len(m.Body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
	}
	var out bytes.Buffer
	files, err := m.CountFds()
	if err == nil && files > 0 {
		m.Headers[dbus.FieldUnixFDs] = dbus.MakeVariant(uint32(files))
	}
	fds, err := m.EncodeToWithFDs(&out, binary.LittleEndian)
	if err != nil {
		b.t.Error(err)
		return
	}
	data := out.Bytes()
	binary.LittleEndian.PutUint32(data[8:], b.serial)
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	_, _, _ = conn.WriteMsgUnix(data, oob, nil) // to one that has gone, at worst
}

// Shutdown tells everybody that the machine is about to shut down, or no longer is.
func (b *Bus) Shutdown(soon bool) { b.tell(soon, ":1.2", func(string) bool { return true }) }

// Pretend is Shutdown by another than logind, as any user of the machine may send it: it comes to those who do not ask who says so.
func (b *Bus) Pretend(soon bool) {
	b.tell(soon, ":1.3", func(rule string) bool { return !strings.Contains(rule, "sender='org.freedesktop.login1'") })
}

func (b *Bus) tell(soon bool, sender string, matches func(rule string) bool) {
	b.mu.Lock()
	if !slices.ContainsFunc(b.rules, matches) {
		b.mu.Unlock()
		return
	}
	conns := make([]*net.UnixConn, 0, len(b.conns))
	for conn := range b.conns {
		conns = append(conns, conn)
	}
	b.mu.Unlock()
	for _, conn := range conns {
		b.send(conn, &dbus.Message{Type: dbus.TypeSignal, Body: []any{soon}, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/login1")),
			dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.login1.Manager"),
			dbus.FieldMember:    dbus.MakeVariant("PrepareForShutdown"),
			dbus.FieldSender:    dbus.MakeVariant(sender),
		}})
	}
}

// Asked is what was asked for, in its order.
func (b *Bus) Asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.asked...)
}

// Held says whether the newest inhibitor is still held: a shutdown would wait.
func (b *Bus) Held() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.locks) == 0 {
		return false
	}
	last := b.locks[len(b.locks)-1]
	_ = last.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := last.Read(make([]byte, 1))
	return err != io.EOF
}
