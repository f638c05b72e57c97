package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if strings.HasSuffix(name, ".gz") {
		z := gzip.NewWriter(&buf)
		_, _ = z.Write([]byte(text))
		z.Close()
	} else {
		buf.WriteString(text)
	}
	if err := os.WriteFile(name, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// testLog is a log of three files, of lines a second apart, the second of them in two pieces.
func testLog(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	writeFile(t, path+".20261120-120002.500000000.gz",
		"2026-11-20T12:00:00.000000000Z stdout F one\n"+
			"2026-11-20T12:00:01.000000000Z stdout P tw\n"+
			"2026-11-20T12:00:02.000000000Z stdout F o\n")
	writeFile(t, path+".20261120-120004",
		"2026-11-20T12:00:03Z stderr F three\n"+
			"what is this\n"+
			"2026-11-20T12:00:04Z stdout F four\n")
	writeFile(t, path,
		"2026-11-20T12:00:05.000000000Z stdout F five\n"+
			"2026-11-20T12:00:06.000000000Z stdout P six")
	return path
}

func TestRead(t *testing.T) {
	since := metav1.NewTime(time.Date(2026, 11, 20, 12, 0, 4, 0, time.UTC))
	for name, test := range map[string]struct {
		opts corev1.PodLogOptions
		want string
	}{
		"all":             {corev1.PodLogOptions{}, "one\ntwo\nthree\nfour\nfive\n"},
		"tail 0":          {corev1.PodLogOptions{TailLines: new(int64(0))}, ""},
		"tail 1":          {corev1.PodLogOptions{TailLines: new(int64(1))}, "five\n"},
		"tail 2":          {corev1.PodLogOptions{TailLines: new(int64(2))}, "four\nfive\n"},
		"tail in pieces":  {corev1.PodLogOptions{TailLines: new(int64(4))}, "two\nthree\nfour\nfive\n"},
		"tail too many":   {corev1.PodLogOptions{TailLines: new(int64(99))}, "one\ntwo\nthree\nfour\nfive\n"},
		"since":           {corev1.PodLogOptions{SinceTime: &since}, "four\nfive\n"},
		"since and tail":  {corev1.PodLogOptions{SinceTime: &since, TailLines: new(int64(1))}, "five\n"},
		"since long ago":  {corev1.PodLogOptions{SinceSeconds: new(int64(1 << 30))}, "one\ntwo\nthree\nfour\nfive\n"},
		"since now":       {corev1.PodLogOptions{SinceSeconds: new(int64(-1 << 30))}, ""},
		"limit":           {corev1.PodLogOptions{LimitBytes: new(int64(6))}, "one\ntw"},
		"limit at a line": {corev1.PodLogOptions{LimitBytes: new(int64(4))}, "one\n"},
		"stderr":          {corev1.PodLogOptions{Stream: new(corev1.LogStreamStderr)}, "three\n"},
		"both":            {corev1.PodLogOptions{Stream: new(corev1.LogStreamAll)}, "one\ntwo\nthree\nfour\nfive\n"},
		"timestamps": {corev1.PodLogOptions{Timestamps: true, TailLines: new(int64(4))},
			"2026-11-20T12:00:01.000000000Z two\n2026-11-20T12:00:03.000000000Z three\n" +
				"2026-11-20T12:00:04.000000000Z four\n2026-11-20T12:00:05.000000000Z five\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Read(testContext(t), testLog(t), &test.opts, &out, nil); err != nil {
				t.Fatal(err)
			}
			if out.String() != test.want {
				t.Errorf("got %q, want %q", out.String(), test.want)
			}
		})
	}
}

func TestReadMissing(t *testing.T) {
	err := Read(testContext(t), filepath.Join(t.TempDir(), "0.log"), nil, &bytes.Buffer{}, nil)
	if !Missing(err) {
		t.Errorf("got %v", err)
	}
}

// TestFollow follows a log that rotates faster than it is read, compressed files included.
func TestFollow(t *testing.T) {
	ctx := testContext(t)
	path := filepath.Join(t.TempDir(), "0.log")
	writeFile(t, path, "")
	var out bytes.Buffer
	var ended atomic.Bool
	var reading sync.WaitGroup
	reading.Go(func() {
		if err := Read(ctx, path, &corev1.PodLogOptions{Follow: true}, &out, ended.Load); err != nil {
			t.Error(err)
		}
	})
	var want strings.Builder
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for i := range 60 {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		for j := range 10 {
			now = now.Add(time.Millisecond)
			fmt.Fprintf(f, "%s stdout F line %d.%d\n", now.Format(time.RFC3339Nano), i, j)
			fmt.Fprintf(&want, "line %d.%d\n", i, j)
		}
		f.Close()
		now = now.Add(time.Millisecond)
		rotated := path + "." + now.Format("20060102-150405.000000000")
		if err := os.Rename(path, rotated); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			data, err := os.ReadFile(rotated)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, rotated+".gz", string(data))
			os.Remove(rotated)
		}
		time.Sleep(time.Duration(i%5) * 3 * time.Millisecond)
	}
	writeFile(t, path, now.Add(time.Millisecond).Format(time.RFC3339Nano)+" stdout F last\n")
	want.WriteString("last\n")
	ended.Store(true)
	reading.Wait()
	if out.String() != want.String() {
		t.Errorf("got %d bytes, want %d", out.Len(), want.Len())
	}
}

func TestFollowEndsWithItsReader(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	time.AfterFunc(20*time.Millisecond, cancel)
	err := Read(ctx, testLog(t), &corev1.PodLogOptions{Follow: true}, &bytes.Buffer{}, func() bool { return false })
	if err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stdout F msg"))
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stderr P:x "))
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, ok := parse(line); ok && !bytes.HasSuffix(line, r.text) {
			t.Errorf("%q became %q", line, r.text)
		}
	})
}
