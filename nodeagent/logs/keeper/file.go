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
	at, err := makePlace(l.path)
	if l.openErr = cause(err); err != nil {
		return l.openErr
	}
	defer at.Close()
	f, err := at.plain(at.rel, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
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
	at, err := makePlace(l.path)
	if err != nil {
		return cause(err)
	}
	defer at.Close()
	if err := at.Rename(at.rel, at.rel+"."+now.UTC().Format(rotatedFormat)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return cause(err)
	}
	l.rotated = now
	l.close()
	l.openErr = nil
	if err := l.open(now); err != nil {
		return err
	}
	l.prune(at)
	return nil
}

// prune removes the rotated files beyond the limit and starts compressing those that nobody is likely to be reading.
func (l *file) prune(at place) {
	rotated := at.rotated()
	for len(rotated) > l.maxFiles-1 {
		_ = at.Root.Remove(rotated[0]) // tried again at the next rotation
		rotated = rotated[1:]
	}
	if !l.compress || len(rotated) < 2 {
		return
	}
	for _, name := range rotated[:len(rotated)-1] {
		if !strings.HasSuffix(name, gzipSuffix) {
			compressions.start(filepath.Join(at.Name(), name))
		}
	}
}

// Rotated lists the rotated files of a log file, oldest first.
func Rotated(path string) []string {
	at, err := placeOf(path)
	if err != nil {
		return nil
	}
	defer at.Close()
	names := at.rotated()
	for i, name := range names {
		names[i] = filepath.Join(at.Name(), name)
	}
	return names
}

func (p place) rotated() []string {
	names := p.with(".")
	kept := names[:0]
	for _, name := range names {
		stamp := strings.TrimSuffix(name[len(p.rel)+1:], gzipSuffix)
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
		_ = gzipFile(name) // the next rotation asks again
	}()
}

func gzipFile(path string) error {
	at, err := placeOf(path)
	if err != nil {
		return err
	}
	defer at.Close()
	in, err := at.plain(at.rel, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := at.rel + gzipSuffix + tempSuffix
	if err := at.Root.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := at.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := compress(out, in); err != nil {
		return errors.Join(err, at.Root.Remove(temp))
	}
	if err := at.Rename(temp, at.rel+gzipSuffix); err != nil {
		return err
	}
	return at.Root.Remove(at.rel)
}

func compress(out io.Writer, in io.Reader) error {
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	return z.Close()
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
