package keeper

import (
	"strings"
	"testing"
	"time"
)

var at = time.Date(2016, 10, 6, 0, 17, 9, 669794202, time.UTC)

const stamp = "2016-10-06T00:17:09.669794202Z stdout "

func TestFrame(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name   string
		writes []string
		want   string
		rest   string
	}{
		{name: "a line", writes: []string{"msg\n"}, want: stamp + "F msg\n"},
		{name: "an empty line", writes: []string{"\n"}, want: stamp + "F \n"},
		{name: "two lines at once", writes: []string{"a\nb\n"}, want: stamp + "F a\n" + stamp + "F b\n"},
		{name: "a line in pieces", writes: []string{"a", "b", "c\nd"}, want: stamp + "F abc\n", rest: "d"},
		{name: "as long as may be", writes: []string{long + "\n"}, want: stamp + "F " + long + "\n"},
		{name: "one byte longer", writes: []string{long + "y\n"}, want: stamp + "P " + long + "\n" + stamp + "F y\n"},
		{name: "long and no end yet", writes: []string{long}, want: stamp + "P " + long + "\n"},
		{name: "its end alone", writes: []string{long, "\n"}, want: stamp + "P " + long + "\n" + stamp + "F \n"},
		{name: "across writes", writes: []string{long[:maxLine-1], "yz\n"},
			want: stamp + "P " + long[:maxLine-1] + "y\n" + stamp + "F z\n"},
		{name: "three pieces", writes: []string{long + long + "end\n"},
			want: stamp + "P " + long + "\n" + stamp + "P " + long + "\n" + stamp + "F end\n"},
		{name: "carriage returns stay", writes: []string{"a\r\n"}, want: stamp + "F a\r\n"},
	} {
		f := framer{name: "stdout"}
		var got []byte
		lines := 0
		for _, w := range test.writes {
			var n int
			got, n = f.frame(got, at, []byte(w))
			lines += n
		}
		if string(got) != test.want || string(f.rest) != test.rest {
			t.Errorf("%s: got %.200q, rest %.50q", test.name, got, f.rest)
		}
		if want := strings.Count(test.want, "\n"); lines != want {
			t.Errorf("%s: counted %d lines, want %d", test.name, lines, want)
		}
	}
}

func TestFlush(t *testing.T) {
	f := framer{name: "stdout"}
	if got, n := f.flush(nil, at); len(got) > 0 || n != 0 {
		t.Errorf("nothing left: got %q", got)
	}
	f.frame(nil, at, []byte("no end"))
	if got, n := f.flush(nil, at); string(got) != stamp+"P no end\n" || n != 1 {
		t.Errorf("got %q", got)
	}
	if got, _ := f.flush(nil, at); len(got) > 0 {
		t.Errorf("flushed twice: got %q", got)
	}
}

// FuzzFrame checks that the pieces are the bytes that were written, however they came.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("a\nbc"), 1)
	f.Add([]byte(strings.Repeat("x", 3*maxLine)+"\n"), 4096)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		size = 1 + int(uint(size)%(2*maxLine))
		fr := framer{name: "stderr"}
		var out []byte
		for rest := data; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			out, _ = fr.frame(out, at, rest[:min(size, len(rest))])
		}
		out, _ = fr.flush(out, at)
		var got []byte
		for line := range strings.Lines(string(out)) {
			body, ok := strings.CutPrefix(line, "2016-10-06T00:17:09.669794202Z stderr ")
			if !ok || len(body) < 3 || len(body) > maxLine+3 {
				t.Fatalf("bad line %.100q", line)
			}
			got = append(got, strings.TrimSuffix(body[2:], "\n")...)
			if body[0] == 'F' {
				got = append(got, '\n')
			}
		}
		if string(got) != string(data) {
			t.Errorf("got %.100q, want %.100q", got, data)
		}
	})
}
