package clone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"lockstep/internal/room"
)

// bounded is a storage whose packs are looked through while they are written: what an object inflates to is known from
// its header, and go-git would hold it in memory.
type bounded struct {
	*filesystem.Storage
	meter  *meter
	limits Limits
}

// PackfileWriter implements storer.PackfileWriter.
func (b bounded) PackfileWriter() (io.WriteCloser, error) {
	w, err := b.Storage.PackfileWriter()
	if err != nil {
		return nil, err
	}
	r, tee := io.Pipe()
	p := &pack{to: w, tee: tee, meter: b.meter, dir: b.Filesystem().Root(), most: b.limits.Pack}
	p.looking.Go(func() error {
		err := look(r, b.limits, &p.objects)
		r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		return err
	})
	return p, nil
}

// pack writes a pack and shows it to the one that looks through it. The last piece is held back until that one is
// satisfied: without it the pack is not complete, and does not become part of the clone.
type pack struct {
	to    io.WriteCloser
	tee   *io.PipeWriter
	meter *meter
	dir   string
	most  int64
	seen  int64 // what may still be written before the disk is looked at again
	held  []byte
	err   error
	// looking is who looks through it; its error is what keeps the pack from being taken.
	looking errgroup.Group
	// objects is how many it has, as far as is known.
	objects atomic.Int64
}

const (
	// lookEvery is how many bytes are written between two looks at the disk: little beside what is kept of it.
	lookEvery = 1 << 20
	// indexed is what an index takes for an object: a hash, a sum, and an offset (gitformat-pack).
	indexed = 20 + 4 + 8
)

// roomIn says whether the disk of a folder has room for so many bytes beside what etcd needs of it.
func roomIn(dir string, bytes int64) error {
	s, err := room.Of(dir)
	if err != nil {
		return fmt.Errorf("cannot fetch: %w", err)
	}
	if s.Free-bytes < s.Kept() {
		return noRoom(dir, s)
	}
	return nil
}

// noRoom is the same text for as long as it holds.
func noRoom(dir string, s room.Space) error {
	return &full{fmt.Sprintf("the disk of %s has too little room: a fetch leaves %s of its %s free", dir, size(s.Kept()), size(s.Size))}
}

// filled puts it in words that a write found the disk full.
func filled(dir string, err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	s, _ := room.Of(dir) // of no size: what is said is true all the same
	return noRoom(dir, s)
}

func (p *pack) Write(data []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	p.meter.moved.Add(int64(len(data)))
	if p.most -= int64(len(data)); p.most < 0 {
		return 0, p.fail(exceeded("it sends more than the limit for a fetch"))
	}
	if p.seen -= int64(len(data)); p.seen < 0 {
		p.seen = lookEvery
		if err := roomIn(p.dir, lookEvery+indexed*p.objects.Load()); err != nil {
			return 0, p.fail(err)
		}
	}
	if _, err := p.tee.Write(data); err != nil {
		if err = p.looking.Wait(); err == nil {
			err = errors.New("there is something after the end of the pack")
		}
		return 0, p.fail(err)
	}
	if _, err := p.to.Write(p.held); err != nil {
		return 0, p.fail(filled(p.dir, err))
	}
	p.held = append(p.held[:0], data...)
	return len(data), nil
}

func (p *pack) fail(err error) error {
	p.err = err
	if isLimit(err) || isFull(err) {
		p.err = p.meter.refuse(err)
	}
	return p.err
}

func (p *pack) Close() error {
	p.tee.Close()
	err := p.looking.Wait()
	if err != nil && p.err == nil {
		p.fail(err)
	}
	if p.err != nil {
		return errors.Join(p.err, p.to.Close())
	}
	_, err = p.to.Write(p.held)
	if err = errors.Join(err, p.to.Close()); err != nil {
		return p.fail(filled(p.dir, err))
	}
	return nil
}

// look reads a pack to its end and says whether it is within the limits. It holds no object in memory. A pack that is
// malformed is for go-git to refuse.
func look(r io.Reader, limits Limits, objects *atomic.Int64) error {
	scanner := packfile.NewScanner(r)
	_, count, err := scanner.Header()
	if err == nil {
		if int64(count) > limits.Objects {
			return exceeded("it sends %d objects at once, more than the limit of %d", count, limits.Objects)
		}
		objects.Store(int64(count))
		left := limits.Unpacked
		for range count {
			if left, err = lookAt(scanner, left, limits); err != nil {
				break
			}
		}
	}
	if isLimit(err) {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

func lookAt(scanner *packfile.Scanner, left int64, limits Limits) (int64, error) {
	h, err := scanner.NextObjectHeader()
	if err != nil {
		return left, err
	}
	check := func(n int64, what string) error {
		if n > limits.Object {
			return exceeded("it holds %s of %s, more than the limit of %s for one file", what, size(n), size(limits.Object))
		}
		if left -= n; left < 0 {
			return exceeded("what it sends at once unpacks to more than the limit of %s", size(limits.Unpacked))
		}
		return nil
	}
	what := fmt.Sprintf("a %s", h.Type)
	if h.Type == plumbing.BlobObject {
		what = "a file"
	}
	if h.Type.IsDelta() {
		what = "a difference between files"
	}
	if err := check(h.Length, what); err != nil {
		return left, err
	}
	var head deltaHead
	if _, _, err := scanner.NextObject(&head); err != nil {
		return left, err
	}
	if h.Type.IsDelta() {
		return left, check(head.target(), "a file")
	}
	return left, nil
}

// deltaHead keeps the beginning of a delta, where the size of its outcome is.
type deltaHead struct{ bytes.Buffer }

func (d *deltaHead) Write(p []byte) (int, error) {
	if missing := 2*binary.MaxVarintLen64 - d.Len(); missing > 0 {
		d.Buffer.Write(p[:min(missing, len(p))])
	}
	return len(p), nil
}

// target is the size of a delta's outcome (gitformat-pack: two sizes in base 128, least first, then instructions).
func (d *deltaHead) target() int64 {
	if _, err := binary.ReadUvarint(d); err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d)
	if err != nil {
		return 0
	}
	return int64(min(n, 1<<62))
}
