// Package backup writes the cluster's data into files, and reads them back.
//
// A file is a tar, compressed by zstd, and perhaps encrypted by age: what can be had from it without Lockstep is etcd's own snapshot.
//
//	about.json      About
//	etcd.db         etcd's snapshot, with its checksum (of a backup of data)
//	pki/NAME        a file of the authority (of a backup of keys)
//	sha256          of the contents of all before, in hex: without it the file is not whole
package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// format of the files this binary writes; it reads these and older ones.
const format = 1

const (
	aboutName, dataName, sumName = "about.json", "etcd.db", "sha256"
	keysDir                      = "pki/"
	// maxAbout and maxKey bound what is read into memory: some hundred bytes, and a ledger of ten thousand nodes.
	maxAbout, maxKey = 64 << 10, 16 << 20
	// ageMagic begins a file that age has encrypted (age-encryption.org/v1).
	ageMagic = "age-encryption.org/v1"
	// zstdMagic begins what zstd has compressed (RFC 8878, section 3.1.1).
	zstdMagic = "\x28\xb5\x2f\xfd"
)

// About says what a backup is of.
type About struct {
	Format int `json:"format"`
	// Cluster is the name of the cluster, Authority what pki.Dir.Identity tells it apart by:
	// backups of one are for no other.
	Cluster   string `json:"cluster"`
	Authority string `json:"authority"`
	// History is the identity of the data, and Revision what etcd had reached when it was begun, both of a backup of data.
	History  string    `json:"history,omitempty"`
	Revision int64     `json:"revision,omitempty"`
	Version  string    `json:"version"` // of Lockstep
	Made     time.Time `json:"made"`
	// Keys says that it is a backup of keys, not of data.
	Keys bool `json:"keys,omitempty"`
}

var (
	// ErrDamaged: the file is cut off, or was changed.
	ErrDamaged = errors.New("it is damaged or cut off")
	// ErrNot: the file is no backup.
	ErrNot = errors.New("it is no backup of Lockstep")
	// ErrEncrypted: the file is encrypted, and no key was given that opens it.
	ErrEncrypted = errors.New("it is encrypted, and needs the key of one that it was encrypted to (--identity FILE)")
	// ErrNewer: a newer Lockstep has written it.
	ErrNewer = errors.New("a newer Lockstep has written it")
)

// Recipients reads whom a backup is encrypted to: "age1…", one each.
func Recipients(texts []string) (out []age.Recipient, err error) {
	for _, text := range texts {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fmt.Errorf("cannot encrypt to %q: want an age recipient, as age1…", text)
		}
		out = append(out, r)
	}
	return out, nil
}

// Identities reads the file with the keys that open backups, as age-keygen writes it.
func Identities(r io.Reader) ([]age.Identity, error) {
	ids, err := age.ParseIdentities(io.LimitReader(r, maxAbout))
	if err != nil { // its own words may quote the key
		return nil, errors.New("cannot read keys: want lines as AGE-SECRET-KEY-1…, as age-keygen writes them")
	}
	return ids, nil
}

// Writer writes one backup. Without Close it is not whole.
type Writer struct {
	sum    hash.Hash
	tar    *tar.Writer
	stages []io.Closer // to be closed in order
	made   time.Time
}

// NewWriter begins a backup; without recipients it is not encrypted. The writer below stays the caller's.
func NewWriter(to io.Writer, about About, recipients []age.Recipient) (*Writer, error) {
	w := &Writer{sum: sha256.New(), made: about.Made}
	if len(recipients) > 0 {
		sealed, err := age.Encrypt(to, recipients...)
		if err != nil {
			return nil, fmt.Errorf("cannot encrypt the backup: %w", err)
		}
		w.stages, to = append(w.stages, sealed), sealed
	}
	// One processor, and the fastest: others are served meanwhile.
	small, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	w.tar = tar.NewWriter(small)
	w.stages = append([]io.Closer{w.tar, small}, w.stages...)
	about.Format = format
	data, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return nil, err
	}
	return w, w.add(aboutName, int64(len(data)), bytes.NewReader(data))
}

// add writes one file of a size.
func (w *Writer) add(name string, size int64, from io.Reader) error {
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: w.made, Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(w.tar, w.sum), from)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes instead of %d", name, n, size)
	}
	return err
}

// Data adds etcd's snapshot of a size.
func (w *Writer) Data(size int64, from io.Reader) error { return w.add(dataName, size, from) }

// Key adds a file of the authority.
func (w *Writer) Key(name string, data []byte) error {
	return w.add(keysDir+name, int64(len(data)), bytes.NewReader(data))
}

// Close ends the backup, which is whole if it returns nil.
func (w *Writer) Close() error {
	text := []byte(hex.EncodeToString(w.sum.Sum(nil)))
	err := w.add(sumName, int64(len(text)), bytes.NewReader(text))
	for _, s := range w.stages {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Contents are what a backup has beside what it is about.
type Contents struct {
	About About
	// Keys are the files of the authority by name.
	Keys map[string][]byte
	// Bytes of etcd's snapshot that were written.
	Bytes int64
}

// Read reads a backup to its end, and writes etcd's snapshot to data, which may be nil. Check, which may be nil, is asked before
// anything else is read. Errors match ErrDamaged, ErrNot, ErrEncrypted, ErrNewer, or are check's or data's. Until Read has returned nil
// nothing of what it has written is to be believed.
func Read(from io.Reader, identities []age.Identity, data io.Writer, check func(About) error) (Contents, error) {
	c := Contents{Keys: map[string][]byte{}}
	plain, err := opened(from, identities)
	if err != nil {
		return c, err
	}
	ahead := bufio.NewReader(plain)
	if head, err := ahead.Peek(len(zstdMagic)); string(head) != zstdMagic {
		if err != nil && !errors.Is(err, io.EOF) {
			return c, fmt.Errorf("%w: %s", ErrDamaged, reason(err))
		}
		return c, ErrNot
	}
	small, err := zstd.NewReader(ahead, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return c, err
	}
	defer small.Close()
	if data == nil {
		data = io.Discard
	}
	files, sum, first := tar.NewReader(small), sha256.New(), true
	for {
		header, err := files.Next()
		switch {
		case err != nil:
			return c, fmt.Errorf("%w: %s", ErrDamaged, reason(err))
		case first && header.Name != aboutName:
			return c, ErrNot
		}
		if header.Name == sumName {
			return c, ended(files, sum)
		}
		if err := c.take(header, io.TeeReader(files, sum), data, check); err != nil {
			return c, err
		}
		first = false
	}
}

// opened is the file without its encryption.
func opened(from io.Reader, identities []age.Identity) (io.Reader, error) {
	ahead := bufio.NewReaderSize(from, 1<<20)
	if head, _ := ahead.Peek(len(ageMagic)); string(head) != ageMagic {
		return ahead, nil
	}
	if len(identities) == 0 {
		return nil, ErrEncrypted
	}
	plain, err := age.Decrypt(ahead, identities...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, fmt.Errorf("%w: none of those that were given does", ErrEncrypted)
	case err != nil:
		return nil, fmt.Errorf("%w: %s", ErrDamaged, reason(err))
	}
	return plain, nil
}

// take reads one file.
func (c *Contents) take(header *tar.Header, from io.Reader, data io.Writer, check func(About) error) error {
	bounded := func(most int64) ([]byte, error) {
		if header.Size > most {
			return nil, fmt.Errorf("%w: %s is too large", ErrDamaged, path.Base(header.Name))
		}
		text, err := io.ReadAll(from)
		if err != nil {
			err = fmt.Errorf("%w: %s", ErrDamaged, reason(err))
		}
		return text, err
	}
	switch name, key := strings.CutPrefix(header.Name, keysDir); {
	case header.Name == aboutName:
		text, err := bounded(maxAbout)
		if err == nil && json.Unmarshal(text, &c.About) != nil {
			err = ErrNot
		}
		if err == nil && c.About.Format > format {
			err = ErrNewer
		}
		if err == nil && check != nil {
			err = check(c.About)
		}
		return err
	case header.Name == dataName:
		sized := &counting{to: data}
		if _, err := io.Copy(sized, from); sized.failed != nil {
			return fmt.Errorf("cannot write what the backup has: %w", sized.failed)
		} else if err != nil {
			return fmt.Errorf("%w: %s", ErrDamaged, reason(err))
		}
		c.Bytes = sized.n
		return nil
	case key && name != "" && path.Base(name) == name:
		text, err := bounded(maxKey)
		c.Keys[name] = text
		return err
	}
	return fmt.Errorf("%w: it has a file %q", ErrDamaged, header.Name)
}

// counting tells errors of the writer from those of the reader.
type counting struct {
	to     io.Writer
	n      int64
	failed error
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	c.failed = err
	return n, err
}

// ended compares the sum, and wants nothing after it.
func ended(files *tar.Reader, sum hash.Hash) error {
	text, err := io.ReadAll(io.LimitReader(files, 2*sha256.Size+1))
	if err == nil && string(text) != hex.EncodeToString(sum.Sum(nil)) {
		return fmt.Errorf("%w: its checksum is another one", ErrDamaged)
	}
	if err == nil {
		_, err = files.Next()
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s", ErrDamaged, reason(err))
	}
	return nil
}

// reason is an error of a library in a few words.
func reason(err error) string {
	if err == nil {
		return "it goes on after its end"
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return "it ends too soon"
	}
	return err.Error()
}
