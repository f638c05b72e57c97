package source

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/v1alpha1"
	"lockstep/sync/manifest/tree"
	"lockstep/sync/source/clone"
)

// thing is an object as a pack has it.
type thing struct {
	kind string
	data []byte
}

func (o thing) hash() string {
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", o.kind, len(o.data))
	h.Write(o.data)
	return hex.EncodeToString(h.Sum(nil))
}

// zeroHash is the hash of a file of zeros.
func zeroHash(size int) string {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", size)
	for range size >> 20 {
		h.Write(make([]byte, 1<<20))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func blob(text string) thing { return thing{"blob", []byte(text)} }

// treeOf makes a tree of entries "mode name" to hashes, in the order of pairs.
func treeOf(pairs ...string) thing {
	var b bytes.Buffer
	for i := 0; i < len(pairs); i += 2 {
		raw, err := hex.DecodeString(pairs[i+1])
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&b, "%s\x00%s", pairs[i], raw)
	}
	return thing{"tree", b.Bytes()}
}

func commitOf(tree thing, message string) thing {
	return thing{
		"commit",
		fmt.Appendf(nil, "tree %s\nauthor Ada <ada@example.com> 1700000000 +0000\ncommitter Ada <ada@example.com> 1700000000 +0000\n\n%s",
			tree.hash(), message),
	}
}

// packer writes a pack piece by piece, so that none need be in memory.
type packer struct {
	w   io.Writer
	sum hash.Hash
}

func newPacker(w io.Writer, count int) *packer {
	p := &packer{w: w, sum: sha1.New()}
	p.Write(binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(count)))
	return p
}

func (p *packer) Write(b []byte) (int, error) {
	p.sum.Write(b)
	return p.w.Write(b)
}

func (p *packer) header(kind string, size int) {
	b := byte(map[string]int{"commit": 1, "tree": 2, "blob": 3}[kind])<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		p.Write([]byte{b | 0x80})
		b = byte(size & 0x7f)
	}
	p.Write([]byte{b})
}

func (p *packer) add(o thing) {
	p.header(o.kind, len(o.data))
	z := zlib.NewWriter(p)
	z.Write(o.data)
	z.Close()
}

// zeros adds a file of mebibytes of zeros, declared to have some other size perhaps.
func (p *packer) zeros(mebibytes, declared int) {
	p.header("blob", declared)
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	z.Write(make([]byte, 1<<20))
	z.Flush()
	first := b.Len()
	z.Write(make([]byte, 1<<20))
	z.Flush()
	p.Write(b.Bytes()[:first])
	for range mebibytes - 1 {
		p.Write(b.Bytes()[first:]) // refers to nothing but zeros before it
	}
	p.Write([]byte{1, 0, 0, 0xff, 0xff}) // a last, empty block
	// Adler-32 of zeros: 1, and their count.
	p.Write(binary.BigEndian.AppendUint32(nil, uint32(mebibytes<<20%65521)<<16|1))
}

func (p *packer) end() { p.w.Write(p.sum.Sum(nil)) }

// packing writes a pack, with some more objects in it.
type packing func(w io.Writer, more []thing)

// evil is a Git server that says what it is told to.
type evil struct {
	t    *testing.T
	url  string
	refs map[string]string // branch to commit
	pack map[string]packing
	list func(w io.Writer) // instead of refs

	good   []thing // the objects of the branch good, sent with another's
	wanted []string
	ended  chan bool // a request was ended from the other side
}

func newEvil(t *testing.T) *evil {
	e := &evil{t: t, refs: map[string]string{}, pack: map[string]packing{}, ended: make(chan bool, 100)}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	e.url = server.URL + "/shop.git"
	return e
}

func pkt(w io.Writer, text string) { fmt.Fprintf(w, "%04x%s", len(text)+4, text) }

func (e *evil) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if r.Context().Err() != nil {
			e.ended <- true
		}
	}()
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		pkt(w, "# service=git-upload-pack\n")
		io.WriteString(w, "0000")
		if e.list != nil {
			e.list(flushed{w, r})
			return
		}
		caps := "\x00agent=evil"
		for branch, commit := range e.refs {
			pkt(w, fmt.Sprintf("%s refs/heads/%s%s\n", commit, branch, caps))
			caps = ""
		}
		io.WriteString(w, "0000")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	if bytes.Contains(body, []byte("deepen 1")) {
		for _, commit := range e.refs {
			if bytes.Contains(body, []byte("want "+commit)) {
				pkt(w, "shallow "+commit)
			}
		}
		io.WriteString(w, "0000")
	}
	pkt(w, "NAK\n")
	var found packing
	var more []thing
	for commit, pack := range e.pack {
		if !bytes.Contains(body, []byte("want "+commit)) {
			continue
		}
		e.wanted = append(e.wanted, commit)
		if commit == e.refs["good"] && len(e.refs) > 1 && bytes.Count(body, []byte("want ")) > 1 {
			more = e.good
			continue
		}
		found = pack
	}
	found(flushed{w, r}, more)
}

// flushed sends each piece at once, and nothing to one who has left.
type flushed struct {
	http.ResponseWriter
	request *http.Request
}

func (f flushed) Write(p []byte) (int, error) {
	if err := f.request.Context().Err(); err != nil {
		panic(http.ErrAbortHandler)
	}
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

func (e *evil) branch(name string, commit thing, pack packing) {
	e.refs[name], e.pack[commit.hash()] = commit.hash(), pack
}

func whole(objects ...thing) packing {
	return func(w io.Writer, more []thing) {
		p := newPacker(w, len(objects)+len(more))
		for _, o := range append(more, objects...) {
			p.add(o)
		}
		p.end()
	}
}

func (e *evil) source(branch string) v1alpha1.Source {
	return v1alpha1.Source{
		ObjectMeta: metav1.ObjectMeta{Name: branch},
		Spec:       v1alpha1.SourceSpec{URL: e.url, Branch: branch, Timeout: metav1.Duration{Duration: 30 * time.Second}},
	}
}

// nested is a tree of 10⁹ paths, in ten objects.
func nested() (top thing, all []thing) {
	at := blob("x")
	all = append(all, at)
	mode := "100644"
	for range 9 {
		var pairs []string
		for i := range 10 {
			pairs = append(pairs, fmt.Sprintf("%s %d", mode, i), at.hash())
		}
		at, mode = treeOf(pairs...), "40000"
		all = append(all, at)
	}
	return at, all
}

// peak is the most memory that this process and those that have ended below it have had, in bytes.
func peak(t *testing.T) (own, below int64) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return kib << 10, u.Maxrss << 10
}

// TestBombsAreRefused: each is the newest commit of one branch, and another branch of the same repository goes on. What
// is refused is a revision, whose problem says why, and it is not fetched again.
func TestBombsAreRefused(t *testing.T) {
	manifest := blob("good")
	files := treeOf("100644 a.yaml", manifest.hash())
	good := commitOf(files, "fine")
	other := blob("gone")
	without := treeOf("100644 a.yaml", other.hash())
	withZero := treeOf("100644 zero.bin", zeroHash(300<<20))
	deep, nestedObjects := nested()
	zeros := func(mebibytes, declared int) packing {
		return func(w io.Writer, more []thing) {
			p := newPacker(w, 3+len(more))
			for _, o := range more {
				p.add(o)
			}
			p.add(commitOf(withZero, "zeros"))
			p.add(withZero)
			p.zeros(mebibytes, declared)
			p.end()
		}
	}
	long := commitOf(files, strings.Repeat("no end ", 1<<20))
	for name, c := range map[string]struct {
		limits clone.Limits
		commit thing
		pack   packing
		want   string
	}{
		"nested trees": {clone.Limits{}, commitOf(deep, "nested"), whole(append(nestedObjects, commitOf(deep, "nested"))...),
			"there are more than 1000000 files and directories"},
		"four gibibytes of zeros": {clone.Limits{}, commitOf(withZero, "zeros"), zeros(4<<10, 4<<30),
			"it holds a file of 4096 MiB, more than the limit of 100 MiB"},
		"zeros of a false size": {clone.Limits{}, commitOf(withZero, "zeros"), zeros(4<<10, 1<<20), "exceeds declared size"},
		"memory is bounded": {clone.Limits{Object: 4 << 30, Memory: 200 << 20}, commitOf(withZero, "zeros"), zeros(300, 300<<20),
			"needs more than 200 MiB of memory"},
		"a long message": {clone.Limits{}, long, whole(long, files, manifest), "has 7168 KiB, more than the limit of 1024 KiB"},
		"an endless pack": {clone.Limits{Pack: 1 << 20}, commitOf(files, "endless"), func(w io.Writer, _ []thing) {
			p := newPacker(w, 900_000)
			noise := rand.NewChaCha8([32]byte{})
			for {
				data := make([]byte, 64<<10)
				noise.Read(data)
				p.add(thing{"blob", data})
			}
		}, "it sends more than"},
		"many objects": {clone.Limits{}, commitOf(files, "many"), func(w io.Writer, _ []thing) { newPacker(w, 1<<31) },
			"it sends 2147483648 objects at once"},
		"much unpacked": {clone.Limits{Unpacked: 50 << 20}, commitOf(withZero, "zeros"), zeros(64, 64<<20),
			"unpacks to more than the limit of 50 MiB"},
		"too much work": {clone.Limits{CPU: time.Nanosecond}, commitOf(deep, "nested"),
			whole(append(nestedObjects, commitOf(deep, "nested"))...), "more than 1ns of a processor"},
		"missing objects": {clone.Limits{}, commitOf(without, "missing"), whole(commitOf(without, "missing"), without), "object not found"},
	} {
		if name == "memory is bounded" && !clone.Confined {
			continue
		}
		t.Run(name, func(t *testing.T) {
			e := newEvil(t)
			e.branch("good", good, whole(good, files, manifest))
			e.branch("bad", c.commit, c.pack)
			e.good = []thing{good, files, manifest}
			r := watchWith(t, Options{DataDir: t.TempDir(), Limits: c.limits}, e.source("bad"), e.source("good"))
			began := time.Now()
			got := map[string]*Revision{}
			problem := ""
			for range 3 { // a clone that seems damaged is made anew first
				if err := r.look(t.Context(), func(u Update) {
					if u.Err != nil {
						problem += u.Err.Error()
						return
					}
					got[u.Source] = u.Revision
				}); err == nil {
					break
				}
			}
			if name != "too much work" {
				if rev := got["good"]; rev == nil || contents(t, rev) != "a.yaml=good;" {
					t.Errorf("the other source: %v", rev)
				}
			}
			switch rev := got["bad"]; {
			case rev != nil && rev.ID == c.commit.hash() && len(rev.Problems) > 0:
				problem = contents(t, rev)
			case name != "zeros of a false size":
				t.Errorf("the source: %+v", rev)
			}
			if !strings.Contains(problem, c.want) {
				t.Errorf("said: %s\nwant: %s", problem, c.want)
			}
			fetched := len(e.wanted)
			if name != "zeros of a false size" && name != "too much work" {
				if err := r.look(t.Context(), func(u Update) { t.Errorf("once more: %+v", u) }); err != nil || len(e.wanted) != fetched {
					t.Errorf("looked at again: %v, %d fetches", err, len(e.wanted)-fetched)
				}
			}
			own, below := peak(t)
			t.Logf("took %v; most memory of this process %d MiB, of those below %d MiB",
				time.Since(began).Round(time.Millisecond), own>>20, below>>20)
			if own > 300<<20 {
				t.Errorf("this process has had %d MiB", own>>20)
			}
		})
	}
}

// TestEndlessListing: a server that names references without end is left, and that ends its side.
func TestEndlessListing(t *testing.T) {
	e := newEvil(t)
	e.list = func(w io.Writer) {
		caps := "\x00agent=evil"
		for i := 0; ; i++ {
			pkt(w, fmt.Sprintf("%040x refs/heads/%0200d%s\n", i+1, i, caps))
			caps = ""
		}
	}
	r := watchWith(t, Options{DataDir: t.TempDir(), Limits: clone.Limits{Listing: 1 << 20}}, e.source("good"))
	if _, err := r.Look(t.Context(), "good"); err == nil || !strings.Contains(err.Error(), "it names more than 1024 KiB of references") {
		t.Error(err)
	}
	select {
	case <-e.ended:
	case <-time.After(30 * time.Second):
		t.Error("the server's side goes on")
	}
}

// TestServersWordsAreEscaped: what a server says is told without control characters and credentials.
func TestServersWordsAreEscaped(t *testing.T) {
	e := newEvil(t)
	e.list = func(w io.Writer) {
		pkt(w, "ERR \x1b[2Jmoved to https://ada:c4n4ry@git.example.org/?token=c4n4ry\u202e\n")
	}
	_, err := watch(t, t.TempDir(), e.source("good")).Look(t.Context(), "good")
	if err == nil || !strings.Contains(err.Error(), `\x1b[2Jmoved to https://git.example.org/?token=REDACTED`) ||
		strings.ContainsAny(err.Error(), "\x1b\u202e") || strings.Contains(err.Error(), "c4n4ry") {
		t.Errorf("%q", err)
	}
}

// TestTimeoutsAreForSilence: a fetch that takes much longer than the timeout passes as long as something comes; one that
// says nothing is given up, on the server's side, too; and so is one that does not end.
func TestTimeoutsAreForSilence(t *testing.T) {
	manifest := blob("good")
	files := treeOf("100644 a.yaml", manifest.hash())
	good := commitOf(files, "fine")
	slow := func(w io.Writer, _ []thing) {
		var b bytes.Buffer
		whole(good, files, manifest)(&b, nil)
		for chunk := range chunks(b.Bytes(), 12) {
			w.Write(chunk)
			time.Sleep(500 * time.Millisecond)
		}
	}
	endless := func(w io.Writer, _ []thing) {
		p := newPacker(w, 900_000)
		for {
			p.add(manifest)
			time.Sleep(300 * time.Millisecond)
		}
	}
	silent := func(w io.Writer, _ []thing) {
		newPacker(w, 3)
		<-w.(flushed).request.Context().Done()
	}
	for name, c := range map[string]struct {
		pack    packing
		silence time.Duration
		limits  clone.Limits
		want    string
	}{
		"slow":    {slow, 5 * time.Second, clone.Limits{}, ""},
		"silent":  {silent, 3 * time.Second, clone.Limits{}, "no answer within 3s"},
		"endless": {endless, 20 * time.Second, clone.Limits{Total: 6 * time.Second}, "takes longer than 6s"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvil(t)
			e.branch("good", good, c.pack)
			s := e.source("good")
			s.Spec.Timeout.Duration = c.silence
			r := watchWith(t, Options{DataDir: t.TempDir(), Limits: c.limits}, s)
			rev, err := r.Look(t.Context(), "good")
			if c.want == "" {
				if err != nil || contents(t, rev) != "a.yaml=good;" {
					t.Error(rev, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			select {
			case <-e.ended:
			case <-time.After(30 * time.Second):
				t.Error("the server's side goes on")
			}
		})
	}
}

func chunks(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		size := (len(b) + n - 1) / n
		for ; len(b) > 0; b = b[min(size, len(b)):] {
			if !yield(b[:min(size, len(b))]) {
				return
			}
		}
	}
}

// TestCancelledLook: the end of the daemon ends what it has started, at once.
func TestCancelledLook(t *testing.T) {
	e := newEvil(t)
	ctx, cancel := context.WithCancel(t.Context())
	e.list = func(w io.Writer) {
		io.WriteString(w, "0")
		cancel()
		<-w.(flushed).request.Context().Done()
	}
	if _, err := watch(t, t.TempDir(), e.source("good")).Look(ctx, "good"); err != context.Canceled {
		t.Error(err)
	}
	select {
	case <-e.ended:
	case <-time.After(30 * time.Second):
		t.Error("the server's side goes on")
	}
}

// TestForbiddenNames: what git fsck refuses refuses the revision, by name.
func TestForbiddenNames(t *testing.T) {
	manifest := blob("x")
	for _, name := range []string{
		".git", ".GIT", ".g\u200cit", "git~1", "GIT~1", ".git ", ".git. .", ".git::$INDEX_ALLOCATION", `a\.git`,
		`..\x.yaml`, "..", ".", "a/b.yaml", "a\n.yaml", "\x1b[2J.yaml", "\u202egpj.yaml", "\xff.yaml",
	} {
		files := treeOf("100644 "+name, manifest.hash(), "100644 z.yaml", manifest.hash())
		commit := commitOf(files, "names")
		e := newEvil(t)
		e.branch("bad", commit, whole(commit, files, manifest))
		rev, err := watch(t, t.TempDir(), e.source("bad")).Look(t.Context(), "bad")
		if err != nil || len(rev.Problems) != 1 || !strings.Contains(rev.Problems[0].Message, "the name") ||
			strings.ContainsAny(rev.Problems[0].Error(), "\n\x1b\xff") {
			t.Errorf("%q: %+v %v", name, rev, err)
		}
	}
	twice := treeOf("100644 a.yaml", manifest.hash(), "40000 a.yaml", treeOf().hash())
	commit := commitOf(twice, "names")
	e := newEvil(t)
	e.branch("bad", commit, whole(commit, twice, treeOf(), manifest))
	if rev, err := watch(t, t.TempDir(), e.source("bad")).Look(t.Context(), "bad"); err != nil || len(rev.Problems) != 1 ||
		!strings.Contains(rev.Problems[0].Message, "stands twice") {
		t.Errorf("%+v %v", rev, err)
	}
}

// TestHugeFilesInFolders are told, and not read.
func TestHugeFilesInFolders(t *testing.T) {
	dir := t.TempDir()
	file, err := os.Create(filepath.Join(dir, "huge.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	file.Close()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	deep := dir
	for range tree.Bounds().Depth + 2 {
		deep = filepath.Join(deep, "d")
	}
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	watchers, err := Watchers([]v1alpha1.Source{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: v1alpha1.SourceSpec{Folder: dir}}},
		Options{})
	if err != nil {
		t.Fatal(err)
	}
	rev, err := watchers[0].Look(t.Context(), "shop")
	if err != nil || len(rev.Files) != 1 || len(rev.Problems) != 2 {
		t.Fatalf("%+v %v", rev, err)
	}
	data, err := rev.Files[0].Read()
	if err != nil || len(data) != MaxFile+1 || time.Since(began) > 20*time.Second {
		t.Errorf("%d bytes, %v, after %v", len(data), err, time.Since(began))
	}
}
