package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// fifoSize is how much a container may print while nobody reads: 400 ms at 10 MB/s, which is longer than a
	// keeper that was killed needs to come back. The kernel takes the memory only while it is filled. Without
	// CAP_SYS_RESOURCE it allows 1 MiB.
	fifoSize = 4 << 20
	// readSize is how much is read at once, what a pipe has by default: one write to the log file each.
	readSize = 64 << 10

	// drainTimeout bounds the taking over of what FIFOs hold, 8 MiB at most, to a slow disk.
	drainTimeout = 20 * time.Second

	fSetPipeSize = 1031 // F_SETPIPE_SZ, fcntl(2)
)

// Buffers are shared by all streams, so that an idle stream costs a descriptor and a small stack only.
var (
	readBuffers = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}
	lineBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 2*readSize); return &b }}
)

const (
	// maxKept is the largest buffer of lines that is kept: a read full of empty lines grows fortyfold, and is rare.
	maxKept = 4 * readSize
	// queueSize is how many bytes of lines one stream may hold while the disk takes none, as when somebody else's
	// fsync(2) holds its journal: half a second at 10 MB/s, beside what fits into the FIFO.
	queueSize = 8 << 20
	// queuesSize bounds what all streams hold together; a stream that holds more than a read then waits.
	queuesSize = 64 << 20
)

// queuedBytes is what all streams hold.
var queuedBytes atomic.Int64

// stream is one container's output on its way from its FIFOs to its log file.
type stream struct {
	spec  Stream
	fifos [2]*fifo // stdout, stderr; nil when the stream has none

	mu      sync.Mutex
	stats   StreamStats
	last    time.Time  // of the newest lines; each piece is later than the one before, also when the clock goes back
	queue   []lines    // both outputs go to one file, in this order
	queued  int        // bytes, what is being written included
	writing bool       // somebody empties the queue
	moved   *sync.Cond // of mu: some of the queue was written
	// retelling is set while gaps wait to be told without any output.
	retelling *time.Timer

	writes sync.Mutex // held for one write; taken before mu
	file   file

	readers sync.WaitGroup
}

// lines are log lines on their way to the file.
type lines struct {
	buf    *[]byte // nil: only gaps are to be told
	count  int
	at     time.Time
	output int // 0 for stdout, 1 for stderr
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
	s := &stream{
		spec:  spec,
		file:  file{path: spec.Path, maxSize: spec.MaxSize, maxFiles: spec.MaxFiles, compress: spec.Compress},
		stats: StreamStats{Stream: spec},
	}
	s.moved = sync.NewCond(&s.mu)
	return s
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
	s.mu.Lock()
	if s.lost() {
		s.retell() // who had the stream before did not come to it
	}
	s.mu.Unlock()
	for _, f := range s.fifos {
		if f == nil {
			continue
		}
		_ = f.f.SetReadDeadline(time.Time{})
		s.readers.Go(func() {
			for s.copy(f, true) {
			}
		})
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
	s.stopRetelling()
	s.flush()
	s.stopRetelling() // the last lines may be lost, too
}

// flush waits until all lines that were read are written, or counted as lost.
func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing {
		s.moved.Wait()
	}
}

// drain takes over, after stop, what is in the FIFOs, including a last line without an end. A writer that goes on has
// it end all the same.
func (s *stream) drain() {
	deadline := time.Now().Add(drainTimeout)
	for _, f := range s.fifos {
		if f == nil {
			continue
		}
		_ = f.f.SetReadDeadline(time.Time{})
		for s.copy(f, false) && time.Now().Before(deadline) {
		}
		s.take(f, nil)
	}
	s.mu.Lock()
	if s.lost() {
		s.enqueue(lines{at: s.now()}) // the last try
	}
	s.mu.Unlock()
	s.flush()
	s.stopRetelling()
	s.writes.Lock()
	s.file.close()
	s.writes.Unlock()
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

// take turns what was read into log lines and queues them for the file, so that reading goes on while the disk does
// not take them. Nothing read means that the output has ended.
func (s *stream) take(f *fifo, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	buf := lineBuffers.Get().(*[]byte)
	count := 0
	if len(p) > 0 {
		*buf, count = f.framer.frame((*buf)[:0], now, p)
	} else {
		*buf, count = f.framer.flush((*buf)[:0], now)
	}
	s.stats.Bytes += int64(len(p))
	if count == 0 {
		lineBuffers.Put(buf)
		return
	}
	output := 0
	if f == s.fifos[1] {
		output = 1
	}
	s.enqueue(lines{buf, count, now, output})
	for s.queued > queueSize || s.queued > maxKept && queuedBytes.Load() > queuesSize {
		s.moved.Wait()
	}
}

// now is the time of the next lines: later than of those before. s.mu is held.
func (s *stream) now() time.Time {
	now := time.Now()
	if !now.After(s.last) {
		now = s.last.Add(1)
	}
	s.last = now
	return now
}

// enqueue has lines written after those before. s.mu is held.
func (s *stream) enqueue(l lines) {
	s.queue = append(s.queue, l)
	if l.buf != nil {
		s.hold(len(*l.buf))
	}
	if !s.writing {
		s.writing = true
		go s.write()
	}
}

// hold counts bytes that the queue holds from now on, or no longer. s.mu is held.
func (s *stream) hold(bytes int) {
	s.queued += bytes
	queuedBytes.Add(int64(bytes))
}

// write writes what is queued, or counts it as lost, until nothing is.
func (s *stream) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 {
		l := s.queue[0]
		s.queue[0] = lines{}
		s.queue = s.queue[1:]
		size, text := 0, []byte(nil)
		if l.buf != nil {
			size, text = len(*l.buf), *l.buf
		}
		if s.lost() {
			text = append(tell(nil, s.stats.Gaps, l.at), text...)
		}
		s.mu.Unlock()

		var err error
		if len(text) > 0 {
			s.writes.Lock()
			err = s.file.write(text, l.at)
			s.writes.Unlock()
		}

		s.mu.Lock()
		if err != nil {
			s.stats.Error = "cannot write " + s.spec.Path + ": " + err.Error()
			s.stats.DroppedLines += int64(l.count)
			s.stats.DroppedBytes += int64(size)
			if l.count > 0 {
				s.stats.Gaps[l.output].add(l, size, err)
			}
			s.retell()
		} else {
			s.stats.Error, s.stats.Gaps = "", [2]Gap{}
			s.stats.Lines += int64(l.count)
		}
		if l.buf != nil && cap(*l.buf) <= maxKept {
			lineBuffers.Put(l.buf)
		}
		s.hold(-size)
		s.moved.Broadcast()
	}
	s.queue = nil
	s.writing = false
	s.moved.Broadcast()
}

// reopen begins a new file at the path, for whoever moved the old one away.
func (s *stream) reopen() {
	s.flush() // into the file that was moved
	s.writes.Lock()
	defer s.writes.Unlock()
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
