package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// fifoSize is how much a container may print while nobody reads: 400 ms at 10 MB/s, which is longer than a
	// keeper that was killed needs to come back. The kernel takes the memory only while it is filled.
	fifoSize = 4 << 20
	// readSize is how much is read at once, what a pipe has by default: one write to the log file each.
	readSize = 64 << 10

	fSetPipeSize = 1031 // F_SETPIPE_SZ, fcntl(2)
)

// Buffers are shared by all streams, so that an idle stream costs a descriptor and a small stack only.
var (
	readBuffers = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}
	lineBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 2*readSize); return &b }}
)

// maxKept is the largest buffer of lines that is kept: a read full of empty lines grows fortyfold, and is rare.
const maxKept = 4 * readSize

// stream is one container's output on its way from its FIFOs to its log file.
type stream struct {
	spec  Stream
	fifos [2]*fifo // stdout, stderr; nil when the stream has none

	mu    sync.Mutex // held for one write: both outputs go to one file
	file  file
	stats StreamStats
	last  time.Time // of the newest lines; each piece is later than the one before, also when the clock goes back

	readers sync.WaitGroup
}

// fifo is one of the two outputs, read by one goroutine at a time.
type fifo struct {
	framer framer
	f      *os.File
}

// newStream opens (and, when absent, makes) the FIFOs; nothing is read before start.
//
// They are opened for reading and writing. So the shim's and our opening never wait for each other, no end of file
// comes when a writer goes, and no writer gets EPIPE for lack of a reader as long as we hold them. When we are
// killed, containerd's shim, which opens both directions too, keeps the pipe and what is in it.
func newStream(spec Stream) (*stream, error) {
	s := plainStream(spec)
	for i, path := range []string{spec.Stdout, spec.Stderr} {
		if path == "" {
			continue
		}
		f, err := openFIFO(path)
		if err != nil {
			s.closeFIFOs()
			return nil, err
		}
		s.fifos[i] = &fifo{framer: framer{name: outputs[i]}, f: f}
	}
	return s, nil
}

var outputs = [2]string{"stdout", "stderr"}

func plainStream(spec Stream) *stream {
	return &stream{
		spec:  spec,
		file:  file{path: spec.Path, maxSize: spec.MaxSize, maxFiles: spec.MaxFiles, compress: spec.Compress},
		stats: StreamStats{Stream: spec},
	}
}

func openFIFO(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of fifo %s: %w", path, cause(err))
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil && !errors.Is(err, syscall.EEXIST) {
		return nil, fmt.Errorf("cannot make fifo %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open fifo %s: %w", path, cause(err))
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		f.Close()
		return nil, fmt.Errorf("cannot read %s: it is not a fifo", path)
	}
	grow(f)
	return f, nil
}

// grow enlarges a pipe as far as the system lets us; a smaller one works too.
func grow(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for size := uintptr(fifoSize); size > readSize; size /= 2 {
			if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, fSetPipeSize, size); errno == 0 {
				return
			}
		}
	})
}

// start reads until stop is called.
func (s *stream) start() {
	for _, f := range s.fifos {
		if f == nil {
			continue
		}
		_ = f.f.SetReadDeadline(time.Time{})
		s.readers.Add(1)
		go func() {
			defer s.readers.Done()
			for s.copy(f, true) {
			}
		}()
	}
}

// stop ends the reading; what was read is in the file or in a framer. It may be started again.
func (s *stream) stop() {
	for _, f := range s.fifos {
		if f != nil {
			_ = f.f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	s.readers.Wait()
}

// drain takes over, after stop, what is in the FIFOs, including a last line without an end.
func (s *stream) drain() {
	for _, f := range s.fifos {
		if f == nil {
			continue
		}
		_ = f.f.SetReadDeadline(time.Time{})
		for s.copy(f, false) {
		}
		s.take(f, nil)
	}
	s.mu.Lock()
	s.file.close()
	s.mu.Unlock()
}

// copy moves one read's worth of output to the file, waiting for some if asked to. It returns false when there is
// nothing to read, or reading was stopped.
func (s *stream) copy(f *fifo, wait bool) bool {
	raw, err := f.f.SyscallConn()
	if err != nil {
		return false
	}
	more := false
	err = raw.Read(func(fd uintptr) bool {
		buf := readBuffers.Get().(*[]byte)
		defer readBuffers.Put(buf)
		n, err := syscall.Read(int(fd), *buf)
		for errors.Is(err, syscall.EINTR) {
			n, err = syscall.Read(int(fd), *buf)
		}
		if err != nil || n <= 0 {
			return !wait || !errors.Is(err, syscall.EAGAIN)
		}
		more = true
		s.take(f, (*buf)[:n])
		return true
	})
	return err == nil && more
}

// take turns what was read into log lines and writes them, or counts them as lost. Nothing read means that the
// output has ended.
func (s *stream) take(f *fifo, p []byte) {
	buf := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !now.After(s.last) {
		now = s.last.Add(1)
	}
	s.last = now
	var out []byte
	var lines int
	if len(p) > 0 {
		out, lines = f.framer.frame((*buf)[:0], s.last, p)
	} else {
		out, lines = f.framer.flush((*buf)[:0], s.last)
	}
	s.stats.Bytes += int64(len(p))
	if lines == 0 {
		return
	}
	if err := s.file.write(out, s.last); err != nil {
		s.stats.Error = "cannot write " + s.spec.Path + ": " + err.Error()
		s.stats.DroppedLines += int64(lines)
		s.stats.DroppedBytes += int64(len(out))
	} else {
		s.stats.Error = ""
		s.stats.Lines += int64(lines)
	}
	if cap(out) <= maxKept {
		*buf = out
	}
}

// reopen begins a new file at the path, for whoever moved the old one away.
func (s *stream) reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.close()
	s.file.openErr = nil
}

func (s *stream) statistics() StreamStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *stream) closeFIFOs() {
	for _, f := range s.fifos {
		if f != nil {
			f.f.Close()
		}
	}
}
