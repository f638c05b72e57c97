package core

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// descriptorsAtOnce is below the kernel's limit for one message (SCM_MAX_FD, 253).
const descriptorsAtOnce = 200

// Send sends descriptors from the given one on, as many as one message takes.
func Send(conn *net.UnixConn, all []*os.File, from int) error {
	if from < 0 || from >= len(all) {
		return errors.New("no such descriptor")
	}
	files := all[from:min(from+descriptorsAtOnce, len(all))]
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return err
		}
	}
	_ = conn.SetWriteDeadline(time.Now().Add(Patience))
	_, _, err := conn.WriteMsgUnix([]byte{'\n'}, syscall.UnixRights(fds...), nil)
	return err
}

// Receive fetches count descriptors, asking for those from a number on until all are there. Nothing may have been read
// ahead on the connection.
func Receive(conn *net.UnixConn, count int, ask func(from int) error) ([]*os.File, error) {
	var files []*os.File
	data, rights := make([]byte, 1), make([]byte, syscall.CmsgSpace(descriptorsAtOnce*4))
	for len(files) < count {
		if err := ask(len(files)); err != nil {
			return nil, err
		}
		_, n, _, _, err := conn.ReadMsgUnix(data, rights)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseSocketControlMessage(rights[:n])
		if err != nil {
			return nil, err
		}
		before := len(files)
		for _, message := range messages {
			fds, err := syscall.ParseUnixRights(&message)
			if err != nil {
				return nil, err
			}
			for _, fd := range fds {
				syscall.CloseOnExec(fd)
				_ = syscall.SetNonblock(fd, true)
				files = append(files, os.NewFile(uintptr(fd), "handed over"))
			}
		}
		if len(files) == before {
			return nil, errors.New("none came")
		}
	}
	if len(files) == 0 {
		return nil, errors.New("the listening socket is missing")
	}
	return files, nil
}

// TakeListener makes a listener of a descriptor that was handed over.
func TakeListener(f *os.File) (*net.UnixListener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	f.Close()
	unix, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("it is no unix socket")
	}
	unix.SetUnlinkOnClose(false)
	return unix, nil
}
