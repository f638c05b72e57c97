package keeper

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// While the disk takes nothing, output is still read, in the order in which it came; reading stops at a bound.
func TestReadingGoesOnWhileTheDiskStandsStill(t *testing.T) {
	dir := t.TempDir()
	s, err := newStream(Stream{ID: "x", Path: filepath.Join(dir, "0.log"), Stdout: filepath.Join(dir, "out"), MaxSize: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.closeFIFOs()
	disk, file, err := os.Pipe() // full, it is a disk that takes nothing
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	s.file.f, s.file.looked = file, time.Now().Add(time.Hour)
	s.start()

	const lines = 4 << 20 / 100
	line := strings.Repeat("x", 99) + "\n"
	out, err := os.OpenFile(s.spec.Stdout, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for range lines {
		if _, err := out.WriteString(line); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); s.statistics().Bytes < lines*100; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("read %d bytes of %d", s.statistics().Bytes, lines*100)
		}
	}
	if written := s.statistics().Lines; written == lines {
		t.Fatal("the disk has taken everything: nothing was shown")
	}
	var got bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&got, disk)
	}()
	s.stop()
	s.drain() // closes the file
	<-read
	if n := strings.Count(got.String(), " stdout F "+line); n != lines || got.Len() != lines*len(stamp+"F "+line) {
		t.Errorf("%d lines of %d in %d bytes", n, lines, got.Len())
	}
	if queuedBytes.Load() != 0 {
		t.Errorf("%d bytes are still counted as held", queuedBytes.Load())
	}
}
