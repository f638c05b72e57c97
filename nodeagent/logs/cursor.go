package logs

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"lockstep/nodeagent/logs/keeper"
)

// cursor is a place in a log that consists of a file and the files it was rotated to, oldest first. It stays right
// while files are rotated, compressed and removed; what is removed before it was read is skipped.
type cursor struct {
	path string
	last time.Time // of the newest record read

	name string      // of the open file, as last seen
	info os.FileInfo // identifies the open file over renames; of the compressed file when gz is set
	f    *os.File
	gz   *gzip.Reader
	in   *bufio.Reader
	part []byte // of a line whose end has not been written yet
	over bool   // the open file has been rotated away, and gets no more lines
	// again says that the open file may be one that was read already, under another name: records up to last are
	// known. The keeper gives each piece that it writes a later time than the one before, so none is lost by this.
	again bool
}

// files lists the log's files, oldest first.
func (c *cursor) files() []string {
	files := keeper.Rotated(c.path)
	if _, err := os.Lstat(c.path); err == nil {
		files = append(files, c.path)
	}
	return files
}

// seeks is how often a log is looked for before it is taken for absent: its files may be renamed while they are listed.
const seeks = 5

// seek opens the log at the first line that is wanted.
func (c *cursor) seek(tail *int64, since time.Time) error {
	for tries := 1; ; tries++ {
		err := c.find(tail, since)
		if tries == seeks || !errors.Is(err, os.ErrNotExist) || len(c.files()) == 0 {
			return err
		}
	}
}

func (c *cursor) find(tail *int64, since time.Time) error {
	if tail != nil {
		return c.seekTail(max(*tail, 0))
	}
	for _, name := range c.files() {
		if stamp, ok := rotatedAt(c.path, name); ok && stamp.Before(since) {
			continue // all of it was written before
		}
		if err := c.open(name); err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return c.open(c.path)
}

// seekTail opens the log n lines before its end.
func (c *cursor) seekTail(n int64) error {
	files := c.files()
	var counted int64
	for i := len(files) - 1; i >= 0; i-- {
		lines, err := countLines(files[i])
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		counted += lines
		if counted < n && i > 0 {
			continue
		}
		if err := c.open(files[i]); err != nil {
			return err
		}
		// The current file may have grown since it was counted; then a few more lines than asked for are shown,
		// as if they had been printed a moment later.
		return c.skip(counted - n)
	}
	return c.open(c.path)
}

// skip passes n whole lines, each of one or more records.
func (c *cursor) skip(n int64) error {
	for n > 0 {
		line, err := c.read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if r, ok := parse(line); ok && !r.partial {
			n--
		}
	}
	return nil
}

func countLines(name string) (int64, error) {
	c := &cursor{path: name}
	defer c.close()
	if err := c.open(name); err != nil {
		return 0, err
	}
	var lines int64
	pending := false
	for {
		line, err := c.read()
		if err != nil {
			if pending {
				lines++ // an unfinished last line is a line
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return lines, err
		}
		if r, ok := parse(line); ok {
			if pending = r.partial; !r.partial {
				lines++
			}
		}
	}
}

// next returns the next line of the log, going on to the next file where one ends. It returns io.EOF when there is
// none yet. The line is valid until the next call.
func (c *cursor) next() ([]byte, error) {
	for {
		if c.f == nil {
			c.again = !c.last.IsZero()
			if err := c.seek(nil, c.last); err != nil {
				if errors.Is(err, os.ErrNotExist) {
					err = io.EOF
				}
				return nil, err
			}
		}
		line, err := c.read()
		if err == nil || !errors.Is(err, io.EOF) {
			return line, err
		}
		if !c.over {
			if now, err := os.Lstat(c.path); err == nil && c.gz == nil && os.SameFile(now, c.info) {
				return nil, io.EOF
			}
			// Lines may have come between our reading the end and the rotation.
			c.over = true
			continue
		}
		following, again := c.following()
		if following == "" {
			return nil, io.EOF
		}
		c.again = again
		if err := c.open(following); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// following finds the file after the open one, which has been rotated away; empty when it is not there yet.
// It may be the open one itself, compressed, when again is true.
func (c *cursor) following() (name string, again bool) {
	files := c.files()
	for i, name := range files {
		if info, err := os.Lstat(name); err == nil && os.SameFile(info, c.info) {
			c.name = name
			files = files[i+1:]
			if len(files) > 0 && files[0] == name+".gz" { // it is being compressed
				files = files[1:]
			}
			if len(files) == 0 {
				return "", false
			}
			return files[0], c.again
		}
	}
	// It was compressed or removed meanwhile: go by the times in the names. The first may be the file itself.
	own, known := rotatedAt(c.path, c.name)
	for _, name := range files {
		stamp, rotated := rotatedAt(c.path, name)
		if !rotated || known && stamp.After(own) || !known && stamp.After(c.last) {
			return name, true
		}
	}
	return "", false
}

// rotatedAt reads the time in a rotated file's name.
func rotatedAt(path, name string) (time.Time, bool) {
	stamp, ok := strings.CutPrefix(name, path+".")
	if !ok {
		return time.Time{}, false
	}
	at, err := time.Parse("20060102-150405", strings.TrimSuffix(stamp, ".gz"))
	return at, err == nil
}

func (c *cursor) open(name string) error {
	c.close()
	f, err := keeper.Open(name)
	if errors.Is(err, os.ErrNotExist) && name != c.path {
		f, err = keeper.Open(name + ".gz") // compressed a moment ago
		name += ".gz"
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	var in io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if c.gz, err = gzip.NewReader(f); err != nil {
			f.Close()
			return err
		}
		in = c.gz
	}
	c.f, c.info, c.name, c.over = f, info, name, c.gz != nil
	c.in = bufio.NewReaderSize(in, 64<<10)
	return nil
}

// read returns the open file's next whole line, without its newline; a line without one stays for later.
func (c *cursor) read() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	switch {
	case err == nil && len(c.part) == 0:
		return line[:len(line)-1], nil
	case err == nil:
		whole := append(c.part, line[:len(line)-1]...)
		c.part = c.part[:0]
		return whole, nil
	case errors.Is(err, bufio.ErrBufferFull):
		c.part = append(c.part, line...)
		return c.read()
	default:
		c.part = append(c.part, line...)
		return nil, err
	}
}

func (c *cursor) close() {
	if c.f != nil {
		c.f.Close()
	}
	c.f, c.gz, c.in, c.part = nil, nil, nil, nil
}
