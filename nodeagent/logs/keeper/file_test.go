package keeper

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func read(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	data, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod[1]", "0.log") // a name that is a pattern, too
	l := file{path: path, maxSize: 10, maxFiles: 3}
	for i := range 10 {
		// The clock stands still, and once goes back: names keep their order.
		now := at
		if i == 5 {
			now = at.Add(-time.Hour)
		}
		if err := l.write([]byte(fmt.Sprintf("line%d\n", i)), now); err != nil {
			t.Fatal(err)
		}
	}
	rotated := Rotated(path)
	if len(rotated) != 2 {
		t.Fatalf("rotated files: %q", rotated)
	}
	got := read(t, rotated[0]) + read(t, rotated[1]) + read(t, path)
	if got != "line7\nline8\nline9\n" {
		t.Errorf("got %q", got)
	}
}

func TestRotationCompresses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	l := file{path: path, maxSize: 5, maxFiles: 10, compress: true}
	compressed := func() (n int) {
		for _, name := range Rotated(path) {
			if strings.HasSuffix(name, ".gz") {
				n++
			}
		}
		return n
	}
	for i := range 4 {
		if err := l.write([]byte(fmt.Sprintf("line%d\n", i)), at); err != nil {
			t.Fatal(err)
		}
		// A rotation while the last file is still being compressed leaves its own to the next.
		for deadline := time.Now().Add(10 * time.Second); compressed() < i-1 || len(compressions) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after %d lines: %q", i, Rotated(path))
			}
		}
	}
	var got string
	for _, name := range Rotated(path) {
		got += read(t, name)
	}
	if got != "line0\nline1\nline2\n" {
		t.Errorf("got %q", got)
	}
}

func TestRemovedFileIsMadeAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	l := file{path: path, maxSize: 100, maxFiles: 2}
	now := at
	if err := l.write([]byte("a\n"), now); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := l.write([]byte("b\n"), now.Add(2*lookAfter)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "b\n" {
		t.Errorf("got %q", got)
	}
}

func TestStreamNames(t *testing.T) {
	good := Stream{ID: "abc-1.2_x", Path: "/var/log/x/0.log", Stdout: "/run/x.out"}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Stream){
		"no id":          func(s *Stream) { s.ID = "" },
		"a path as id":   func(s *Stream) { s.ID = "../x" },
		"a hidden id":    func(s *Stream) { s.ID = ".x" },
		"a long id":      func(s *Stream) { s.ID = strings.Repeat("x", 201) },
		"relative path":  func(s *Stream) { s.Path = "0.log" },
		"no output":      func(s *Stream) { s.Stdout = "" },
		"one fifo twice": func(s *Stream) { s.Stderr = s.Stdout },
		"relative fifo":  func(s *Stream) { s.Stdout = "x" },
	} {
		s := good
		change(&s)
		if s.validate() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
