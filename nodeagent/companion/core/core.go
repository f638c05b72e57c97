// Package core is what a companion of the agent is made of: one process a directory, spoken to in lines of JSON over a unix
// socket, that hands its descriptors to its successor and holds little memory. It imports little, so that a companion may
// run before the rest of the program initialises.
package core

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"lockstep/internal/shrink"
)

const (
	// Patience is how long two companions, or a client that does not read, are waited for.
	Patience = 5 * time.Second
	// lockPatience is how long a predecessor's process may take to go.
	lockPatience = 10 * time.Second
	// shrinkAfter is when the first requests have been answered.
	shrinkAfter = 10 * time.Second
)

// Lock is the directory's lock, which is held until the process is gone: whoever gets it knows that the one before accepts
// no connection any more.
func Lock(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock of %s: %w", dir, err)
	}
	return lock, nil
}

// Acquire waits for the lock.
func Acquire(lock *os.File) error {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(time.Millisecond) {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return fmt.Errorf("cannot lock %s: %w", filepath.Dir(lock.Name()), err)
		}
	}
}

// Listen makes the socket anew, for its owner alone. Only who has the lock may.
func Listen(socket string) (*net.UnixListener, error) {
	os.Remove(socket)
	mask := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	syscall.Umask(mask)
	if err != nil {
		return nil, fmt.Errorf("cannot listen at %s: %w", socket, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// Serve answers each connection with converse until the listener is closed.
func Serve(l *net.UnixListener, converse func(*net.UnixConn)) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: it passes
			continue
		}
		go func() {
			defer conn.Close()
			converse(conn)
		}()
	}
}

// Frugal has the process collect its small heap early, and end only by its successor's coming, SIGKILL, or as Wait says.
func Frugal() {
	// Collecting at 4 MiB, the runtime's least, would keep as much again as the heap has.
	debug.SetGCPercent(50)
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGQUIT)
}

// Ready tells who started the process that it answers, by "ready" on its standard output, and gives memory back now and
// once more later; stop ends that.
func Ready() (stop func()) {
	shrink.Now()
	os.Stdout.WriteString("ready\n")
	os.Stdout.Close()
	t := time.AfterFunc(shrinkAfter, shrink.Now)
	return func() { t.Stop() }
}

// ReadMessage reads one line of JSON, at most most bytes long.
func ReadMessage(in *bufio.Reader, message any, most int) error {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return json.Unmarshal(line, message)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if len(line) > most {
			return errors.New("the message is too long")
		}
	}
}

// WriteMessage writes one line of JSON. A peer that does not read it within a few seconds has hung up.
func WriteMessage(conn net.Conn, message any) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(Patience))
	_, err = conn.Write(append(data, '\n'))
	return err
}
