package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"path"
	"regexp"
	"sort"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// value is one document of a YAML file or one value of a JSON file: a root, or the reason why there is none.
type value struct {
	root *node // nil where err is set or the document is empty
	err  *fault
}

// fault is an error in a file that is not named yet.
type fault struct {
	line, column int
	message      string
}

func (f *fault) Error() string { return fmt.Sprintf("%d:%d: %s", f.line, f.column, f.message) }

func faultAt(line, column int, format string, args ...any) *fault {
	return &fault{line: line, column: column, message: fmt.Sprintf(format, args...)}
}

// parse shows the values of a file one after the other, until it is told to stop or ctx ends. A value that cannot be read
// does not hide the errors of the others.
func parse(ctx context.Context, name string, data []byte) iter.Seq[value] {
	return func(yield func(value) bool) {
		if f := unreadable(data); f != nil {
			yield(value{err: f})
			return
		}
		data = withoutMarks(data)
		if path.Ext(name) == ".json" {
			parseJSON(ctx, data, yield)
			return
		}
		p := prober{left: maxProbed}
		for c := range documents(data) {
			if ctx.Err() != nil || !parseDocument(c, &p, yield) {
				return
			}
		}
	}
}

// parseDocument reads a document as YAML and, where it is none, as JSON: values in a row, as kubectl reads them, and
// JSON's escapes that YAML does not have.
func parseDocument(c chunk, p *prober, yield func(value) bool) bool {
	v := parseYAML(c, p)
	if v.err == nil {
		return v.root == nil || yield(v)
	}
	values, ok := c.json()
	if !ok {
		return yield(v)
	}
	for _, v := range values {
		if !yield(v) {
			return false
		}
	}
	return true
}

func unreadable(data []byte) *fault {
	if len(data) > MaxFile {
		return faultAt(0, 0, "the file has %d bytes, more than the limit of %d MiB", len(data), MaxFile>>20)
	}
	for _, encoding := range []struct{ mark, name string }{
		{"\xff\xfe\x00\x00", "UTF-32"}, {"\x00\x00\xfe\xff", "UTF-32"}, {"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"},
	} {
		if bytes.HasPrefix(data, []byte(encoding.mark)) {
			return faultAt(1, 1, "the file is %s; save it as UTF-8", encoding.name)
		}
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		line, column := position(data, i)
		return faultAt(line, column, "the file has a NUL byte; manifests are text")
	}
	if !utf8.Valid(data) {
		i := 0
		for i < len(data) {
			r, size := utf8.DecodeRune(data[i:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			i += size
		}
		line, column := position(data, i)
		return faultAt(line, column, "the file is not UTF-8")
	}
	return nil
}

// position returns line and column, from 1 and in characters, of a byte of data.
func position(data []byte, offset int) (line, column int) {
	before := data[:max(min(offset, len(data)), 0)]
	start := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1
}

// chunk is the text of one YAML document, and how many lines of the file are before it.
type chunk struct {
	text []byte
	line int
}

// mark is the byte order mark, which YAML allows at the beginning of each document.
var mark = []byte("\ufeff")

// withoutMarks removes the byte order marks with which documents begin. They stand inside a file that was put together
// from several.
func withoutMarks(data []byte) []byte {
	if !bytes.Contains(data, mark) {
		return data
	}
	out := make([]byte, 0, len(data))
	begun := false // something of the document has been read
	for line := range bytes.Lines(data) {
		rest, marked := bytes.CutPrefix(line, mark)
		if marked && (!begun || isMarker(rest, "---")) {
			line = rest
		}
		out = append(out, line...)
		switch {
		case isMarker(line, "---"), isMarker(line, "..."):
			begun = !empty(line[len("---"):])
		case !empty(line):
			begun = true
		}
	}
	return out
}

// documents cuts a stream at its document markers, as YAML 1.2 (9.1.2) and Kubernetes' reader do: a line that begins
// with --- begins a document, wherever it stands. Directives say nothing that is of use here, and are dropped, as are
// documents with nothing in them.
func documents(data []byte) iter.Seq[chunk] {
	return func(yield func(chunk) bool) {
		current := chunk{}
		offset, start, line := 0, 0, 0
		emit := func(until, next, nextLine int) bool {
			current.text = data[start:until]
			if !current.empty() && !yield(current) {
				return false
			}
			start, current = next, chunk{line: nextLine}
			return true
		}
		for text := range bytes.Lines(data) {
			end := offset + len(text)
			more := true
			switch {
			case isMarker(text, "---"):
				more = emit(offset, offset, line) // the marker stays: content may follow it on its line
			case isMarker(text, "..."):
				more = emit(offset, end, line+1)
			}
			if !more {
				return
			}
			offset = end
			line++
		}
		emit(len(data), 0, 0)
	}
}

func isMarker(line []byte, marker string) bool {
	rest, found := bytes.CutPrefix(line, []byte(marker))
	return found && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// empty says that a document has nothing but its marker, directives, comments and blank lines.
func (c chunk) empty() bool {
	for line := range bytes.Lines(c.text) {
		if !empty(line) && !(isMarker(line, "---") && empty(line[len("---"):])) {
			return false
		}
	}
	return true
}

// empty says that a line has nothing but a comment or a directive.
func empty(line []byte) bool {
	t := bytes.TrimSpace(line)
	return len(t) == 0 || t[0] == '#' || line[0] == '%'
}

// json reads the document as JSON values in a row; ok is false where it is anything else.
func (c chunk) json() (values []value, ok bool) {
	text := bytes.TrimPrefix(c.text, []byte("---"))
	start := len(c.text) - len(text)
	for line := range bytes.Lines(text) {
		if !empty(line) {
			break
		}
		start += len(line)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(c.text[start:], " \t"), []byte("{")) {
		return nil, false
	}
	r := newJSONReader(c.text, start)
	r.line += c.line
	for {
		v, more := r.value()
		if !more {
			return values, true
		}
		if v.err != nil || len(values) > MaxObjects {
			return nil, false
		}
		values = append(values, v)
	}
}

// yamlLine matches the line in a message of yaml.v3.
var yamlLine = regexp.MustCompile(`^yaml: (?:line \d+: )?`)

// prober finds the places of YAML's errors by parsing parts of a document again and again.
type prober struct {
	left int // bytes that may still be parsed
}

// maxProbed bounds the text that is parsed again in one file, to a second or two. Honest files have few errors of syntax
// and need some hundred kilobytes.
const maxProbed = 16 << 20

// follows is what the YAML parser says of a second node in a document.
const follows = "did not find expected <document start>"

// fault translates an error of the YAML parser. Names of anchors are left out: where a password begins with *, they are
// the password.
func (p *prober) fault(c chunk, err error) *fault {
	message := err.Error()[len(yamlLine.FindString(err.Error())):]
	if name, found := strings.CutPrefix(message, "unknown anchor '"); found {
		name, _, _ = strings.Cut(name, "'")
		line, column := position(c.text, bytes.Index(c.text, []byte("*"+name)))
		return faultAt(c.line+line, column, "cannot parse YAML: an alias (a plain value that begins with *) has no anchor; "+
			"quote the value if it is not meant as an alias")
	}
	end := p.line(c.text, message)
	line, column := p.place(c.text[:end], message)
	if message == follows {
		message = "something follows the end of the document; begin each document with a line ---"
	}
	return faultAt(c.line+line, column, "cannot parse YAML: %s", message)
}

// line returns where the first line ends with which text fails as it does. The parser itself names the line that a
// surrounding collection begins on, or one beside it.
func (p *prober) line(text []byte, message string) int {
	lines := bytes.SplitAfter(text, []byte("\n"))
	if p.left -= len(text) * bits.Len(uint(len(lines))); p.left < 0 {
		return 0
	}
	ends := make([]int, len(lines))
	for i, end := 0, 0; i < len(lines); i++ {
		end += len(lines[i])
		ends[i] = end
	}
	return ends[sort.Search(len(ends)-1, func(i int) bool { return fails(text[:ends[i]], message) })]
}

// character matches the messages that are about one character, never about the text's end.
var character = regexp.MustCompile(`not allowed|cannot start any token|unknown escape|tab character`)

// place returns line and column of the character, in the last line of text, with which text begins to fail as it does.
// The column is 1 where that is not certain: where the text before that character could not end there either, so that
// its end may be what fails, and where too much would have to be parsed to find out.
func (p *prober) place(text []byte, message string) (line, column int) {
	last := bytes.TrimRight(text, "\r\n")
	start := bytes.LastIndexByte(last, '\n') + 1
	line, _ = position(text, start)
	at := len(last)
	for at > start {
		if p.left -= at; p.left < 0 {
			return line, 1
		}
		_, size := utf8.DecodeLastRune(last[:at])
		if !fails(last[:at-size], message) {
			break
		}
		at -= size
	}
	if at == start {
		return line, 1
	}
	_, size := utf8.DecodeLastRune(last[:at])
	if !character.MatchString(message) {
		if err := decodeYAML(last[:at-size], &yaml.Node{}); err != nil && !errors.Is(err, io.EOF) {
			return line, 1
		}
	}
	return position(last, at-size)
}

func fails(text []byte, message string) bool {
	err := decodeYAML(text, &yaml.Node{})
	return err != nil && strings.HasSuffix(err.Error(), message)
}
