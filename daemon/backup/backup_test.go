package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var about = About{Cluster: "lab", Authority: "a1", History: "h1", Revision: 7, Version: "v1",
	Made: time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)}

func written(t *testing.T, data []byte, recipients ...age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, about, recipients)
	if err == nil {
		err = w.Data(int64(len(data)), bytes.NewReader(data))
	}
	if err == nil {
		err = w.Key("ca.key", []byte("a key"))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// noise is what does not get smaller.
func noise(n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(out) < n; i++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

func TestWholeOrNot(t *testing.T) {
	data := noise(300 << 10)
	file := written(t, data)
	var got bytes.Buffer
	c, err := Read(bytes.NewReader(file), nil, &got, func(a About) error {
		want := about
		want.Format = format
		if a != want {
			t.Errorf("it is about %+v", a)
		}
		return nil
	})
	if err != nil || !bytes.Equal(got.Bytes(), data) || c.Bytes != int64(len(data)) || string(c.Keys["ca.key"]) != "a key" {
		t.Fatalf("%d bytes, %+v: %v", got.Len(), c, err)
	}
	for n := 0; n < len(file); n += 997 {
		if _, err := Read(bytes.NewReader(file[:n]), nil, nil, nil); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNot) {
			t.Fatalf("cut off after %d of %d bytes: %v", n, len(file), err)
		}
	}
	if _, err := Read(bytes.NewReader(file[:len(file)-1]), nil, nil, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("without its last byte: %v", err)
	}
	for n := 100; n < len(file); n += 9973 {
		changed := slices.Clone(file)
		changed[n] ^= 0x10
		if _, err := Read(bytes.NewReader(changed), nil, nil, nil); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNot) {
			t.Fatalf("with byte %d changed: %v", n, err)
		}
	}
	for what, text := range map[string]string{"nothing": "", "a text": "hello there, this is a text",
		"a page": strings.Repeat("\x00", 9000)} {
		if _, err := Read(strings.NewReader(text), nil, nil, nil); !errors.Is(err, ErrNot) {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := errors.New("another cluster")
	got.Reset()
	if _, err := Read(bytes.NewReader(file), nil, &got, func(About) error { return other }); !errors.Is(err, other) || got.Len() > 0 {
		t.Errorf("of another cluster: %v, %d bytes were written", err, got.Len())
	}
	full := errors.New("no space left on device")
	if _, err := Read(bytes.NewReader(file), nil, failing{full}, nil); !errors.Is(err, full) || errors.Is(err, ErrDamaged) {
		t.Errorf("onto a full disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestEncrypted: who was named reads it, nobody else does, and what it has is nowhere in it.
func TestEncrypted(t *testing.T) {
	own, other := identity(t), identity(t)
	file := written(t, []byte(strings.Repeat("the password is swordfish ", 100)), own.Recipient())
	if bytes.Contains(file, []byte("swordfish")) || bytes.Contains(file, []byte("lab")) {
		t.Error("it can be read")
	}
	var got bytes.Buffer
	_, err := Read(bytes.NewReader(file), []age.Identity{other, own}, &got, nil)
	if err != nil || !strings.HasPrefix(got.String(), "the password") {
		t.Errorf("with its key: %v", err)
	}
	for what, ids := range map[string][]age.Identity{"without a key": nil, "with another key": {other}} {
		if _, err := Read(bytes.NewReader(file), ids, nil, nil); !errors.Is(err, ErrEncrypted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for n := len("age-encryption.org/v1"); n < len(file); n += 101 {
		if _, err := Read(bytes.NewReader(file[:n]), []age.Identity{own}, nil, nil); err == nil {
			t.Fatalf("cut off after %d bytes: it is read", n)
		}
	}
	if _, err := Recipients([]string{"ssh-rsa AAAA"}); err == nil || !strings.Contains(err.Error(), "age1") {
		t.Errorf("a recipient that is none: %v", err)
	}
	const key = "AGE-SECRET-KEY-1WRONG"
	if _, err := Identities(strings.NewReader(key)); err == nil || strings.Contains(err.Error(), key) {
		t.Errorf("a key that is none: %v", err)
	}
	if ids, err := Identities(strings.NewReader("# made by a test\n" + own.String() + "\n")); err != nil || len(ids) != 1 {
		t.Errorf("a file of keys: %v, %v", ids, err)
	}
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestNewerFormat is refused before anything is read from it.
func TestNewerFormat(t *testing.T) {
	c := Contents{Keys: map[string][]byte{}}
	header := fmt.Sprintf(`{"format": %d}`, format+1)
	err := c.take(&tar.Header{Name: aboutName, Size: int64(len(header))}, strings.NewReader(header), io.Discard, nil)
	if !errors.Is(err, ErrNewer) {
		t.Errorf("a newer format: %v", err)
	}
}

// TestSchedule has backups made when they are due, old ones go, and failures told until one is made again.
func TestSchedule(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	now := about.Made
	broken := errors.New("etcd is away")
	var fails error
	s := NewScheduler(Schedule{Dir: dir, Every: time.Hour, Keep: 2}, "lab", func(_ context.Context, to io.Writer) error {
		_, _ = io.WriteString(to, "half")
		return fails
	}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	s.now = func() time.Time { return now }
	once := func() {
		t.Helper()
		s.note(now, s.once(t.Context(), now))
		now = now.Add(time.Hour)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"other-20260101T000000Z.lockstep", "lab-notes.txt", ".lab-1.lockstep.unready"} {
		if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		once()
	}
	have := func() map[string]bool {
		out := map[string]bool{}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			out[f.Name()] = true
		}
		return out
	}
	want := map[string]bool{"other-20260101T000000Z.lockstep": true, "lab-notes.txt": true,
		"lab-20261128T020203Z.lockstep": true, "lab-20261128T030203Z.lockstep": true}
	if got := have(); !maps.Equal(got, want) {
		t.Errorf("there are %v", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "lab-20261128T030203Z.lockstep")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info, err)
	}
	if s.Failure() != "" {
		t.Errorf("it says %q", s.Failure())
	}
	fails = broken
	once()
	once()
	if says := s.Failure(); !strings.Contains(says, "since 2026-11-28T04:02:03Z") ||
		!strings.Contains(says, "the last one is of 2026-11-28T03:02:03Z") ||
		!strings.Contains(says, broken.Error()) {
		t.Errorf("it says %q", says)
	}
	if got := have(); !maps.Equal(got, want) {
		t.Errorf("after two that failed there are %v", got)
	}
	fails = nil
	once()
	if s.Failure() != "" {
		t.Errorf("it says %q", s.Failure())
	}
	for what, s := range map[string]Schedule{"without a folder": {Every: time.Hour}, "beside": {Dir: "here"},
		"too often": {Dir: "/b", Every: time.Second},
		"to nobody": {Dir: "/b", Recipients: []string{"me"}}, "less than none": {Dir: "/b", Keep: -1}} {
		if s.Validate() == nil {
			t.Errorf("%s: it is taken", what)
		}
	}
	if err := (Schedule{}).Validate(); err != nil {
		t.Error(err)
	}
}

// TestRunIsOnTime makes the first when the newest that is there is old enough, and not before.
func TestRunIsOnTime(t *testing.T) {
	dir := t.TempDir()
	made := make(chan time.Time, 10)
	now := time.Now()
	run := func(newest time.Time) *Scheduler {
		if err := os.WriteFile(filepath.Join(dir, "lab-"+newest.UTC().Format(stamp)+suffix), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return NewScheduler(Schedule{Dir: dir, Every: time.Hour}, "lab", func(context.Context, io.Writer) error {
			made <- time.Now()
			return nil
		}, nil, slog.New(slog.DiscardHandler))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := run(now.Add(-2 * time.Hour))
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-made:
	case <-time.After(20 * time.Second):
		t.Error("none is made though one is due")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := run(now.Add(-time.Minute)).Run(ctx); err != nil || len(made) > 0 {
		t.Errorf("one is made though none is due: %v", err)
	}
}
