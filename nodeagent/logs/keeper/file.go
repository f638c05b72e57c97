package keeper

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// rotatedFormat is what a rotated file's name has after the log file's: the kubelet's format and a fraction, so
// that files rotated within one second sort too.
const rotatedFormat = "20060102-150405.000000000"

const (
	gzipSuffix = ".gz"
	tempSuffix = ".tmp"
	// reopenAfter is how long a file that cannot be opened is left alone: trying at each write would cost a system
	// call for every line of a container that prints into a full disk.
	reopenAfter = time.Second
	// lookAfter is how often it is looked whether somebody removed the file that is being written.
	lookAfter = 5 * time.Second
)

// file is a log file that rotates. It is not safe for concurrent use.
type file struct {
	path     string
	maxSize  int64
	maxFiles int
	compress bool

	f       *os.File // nil while it cannot be opened
	size    int64
	openErr error
	tried   time.Time // of the last attempt to open
	looked  time.Time
	rotated time.Time // the time in the newest rotated file's name
}

// write appends whole log lines, rotating first when the file would pass its size. After an error nothing of lines
// is in the file.
func (l *file) write(lines []byte, now time.Time) error {
	if l.f != nil && now.Sub(l.looked) > lookAfter {
		l.looked = now
		if removed(l.f) {
			l.close()
		}
	}
	if l.f == nil {
		if err := l.open(now); err != nil {
			return err
		}
	}
	if l.maxSize > 0 && l.size > 0 && l.size+int64(len(lines)) > l.maxSize {
		if err := l.rotate(now); err != nil {
			return err
		}
	}
	n, err := l.f.Write(lines)
	if err == nil {
		l.size += int64(n)
		return nil
	}
	if n > 0 {
		if terr := l.f.Truncate(l.size); terr != nil {
			l.close() // the torn line stays; the next write begins from the file's real size
		}
	}
	return cause(err)
}

func (l *file) open(now time.Time) error {
	if l.openErr != nil && now.Sub(l.tried) < reopenAfter {
		return l.openErr
	}
	l.tried, l.looked = now, now
	l.openErr = cause(os.MkdirAll(filepath.Dir(l.path), 0o755))
	if l.openErr != nil {
		return l.openErr
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if l.openErr = cause(err); err != nil {
		return l.openErr
	}
	info, err := f.Stat()
	if l.openErr = cause(err); err != nil {
		f.Close()
		return l.openErr
	}
	l.f, l.size = f, info.Size()
	return nil
}

func (l *file) close() {
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// rotate gives the file its rotated name, begins a new one, and removes the oldest beyond the limit.
func (l *file) rotate(now time.Time) error {
	if !now.After(l.rotated) {
		now = l.rotated.Add(1) // the clock went back; names keep their order
	}
	name := l.path + "." + now.UTC().Format(rotatedFormat)
	if err := os.Rename(l.path, name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return cause(err)
	}
	l.rotated = now
	l.close()
	l.openErr = nil
	if err := l.open(now); err != nil {
		return err
	}
	l.prune()
	return nil
}

// prune removes the rotated files beyond the limit and starts compressing those that nobody is likely to be reading.
func (l *file) prune() {
	rotated := Rotated(l.path)
	for len(rotated) > l.maxFiles-1 {
		os.Remove(rotated[0])
		rotated = rotated[1:]
	}
	if !l.compress || len(rotated) < 2 {
		return
	}
	for _, name := range rotated[:len(rotated)-1] {
		if !strings.HasSuffix(name, gzipSuffix) {
			compressions.start(name)
		}
	}
}

// Rotated lists the rotated files of a log file, oldest first.
func Rotated(path string) []string {
	names, err := filepath.Glob(escapeGlob(path) + ".*")
	if err != nil {
		return nil
	}
	kept := names[:0]
	for _, name := range names {
		stamp := strings.TrimSuffix(name[len(path)+1:], gzipSuffix)
		if len(stamp) >= len("20060102-150405") && !strings.HasSuffix(stamp, tempSuffix) {
			kept = append(kept, name)
		}
	}
	sort.Strings(kept)
	return kept
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// compressor gzips files one at a time: it may take a second of a core, which the containers want too.
type compressor chan struct{}

var compressions = make(compressor, 1)

// start compresses the file unless another one is being compressed; the next rotation asks again.
func (c compressor) start(name string) {
	select {
	case c <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-c }()
		if err := gzipFile(name); err != nil {
			os.Remove(name + gzipSuffix + tempSuffix)
		}
	}()
}

func gzipFile(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(name+gzipSuffix+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer out.Close()
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), name+gzipSuffix); err != nil {
		return err
	}
	return os.Remove(name)
}

func removed(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return true
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	return ok && sys.Nlink == 0
}

// cause is the system's error without the path that os put around it; the caller names the file.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}
