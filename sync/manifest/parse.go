package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// parse splits a file into its values. A value that cannot be read does not hide the errors of the others.
func parse(ctx context.Context, name string, data []byte) []value {
	if f := unreadable(data); f != nil {
		return []value{{err: f}}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if path.Ext(name) == ".json" {
		return parseJSON(data)
	}
	var values []value
	for _, d := range splitYAML(data) {
		if ctx.Err() != nil {
			return nil
		}
		values = append(values, parseYAML(d))
	}
	return values
}

func unreadable(data []byte) *fault {
	if len(data) > MaxFile {
		return faultAt(0, 0, "the file has %d bytes, more than the limit of %d MiB", len(data), MaxFile>>20)
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

// splitYAML cuts a stream at its document markers, as YAML 1.2 (9.1.2) and Kubernetes' reader do: a line that begins
// with --- begins a document, wherever it stands. Directives say nothing that is of use here, and are dropped.
func splitYAML(data []byte) []chunk {
	var chunks []chunk
	current := chunk{}
	offset, start, line := 0, 0, 0
	for offset < len(data) {
		end := len(data)
		if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
			end = offset + i + 1
		}
		switch text := data[offset:end]; {
		case isMarker(text, "---"):
			current.text = data[start:offset]
			chunks = append(chunks, current)
			// The marker stays: content may follow it on its line.
			start, current = offset, chunk{line: line}
		case isMarker(text, "..."):
			current.text = data[start:offset]
			chunks = append(chunks, current)
			start, current = end, chunk{line: line + 1}
		}
		offset = end
		line++
	}
	current.text = data[start:]
	chunks = append(chunks, current)

	kept := chunks[:0]
	for _, c := range chunks {
		if !onlyDirectives(c.text) {
			kept = append(kept, c)
		}
	}
	return kept
}

func isMarker(line []byte, marker string) bool {
	rest, found := bytes.CutPrefix(line, []byte(marker))
	return found && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// onlyDirectives says that a chunk has nothing but directives, comments and blank lines.
func onlyDirectives(text []byte) bool {
	for line := range bytes.Lines(text) {
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// yamlLine matches the line in a message of yaml.v3.
var yamlLine = regexp.MustCompile(`^yaml: (?:line \d+: )?`)

// maxProbed bounds the text that is parsed again and again to find an error's place, to some tenths of a second.
const maxProbed = 256 << 10

// yamlFault translates an error of the YAML parser. Names of anchors are left out: where a password begins with *, they
// are the password.
func yamlFault(c chunk, err error) *fault {
	message := err.Error()[len(yamlLine.FindString(err.Error())):]
	if name, found := strings.CutPrefix(message, "unknown anchor '"); found {
		name, _, _ = strings.Cut(name, "'")
		line, column := position(c.text, bytes.Index(c.text, []byte("*"+name)))
		return faultAt(c.line+line, column, "cannot parse YAML: an alias (a plain value that begins with *) has no anchor; "+
			"quote the value if it is not meant as an alias")
	}
	end := failingLine(c.text, message)
	line, column := failingPlace(c.text[:end], message)
	return faultAt(c.line+line, column, "cannot parse YAML: %s", message)
}

// failingLine returns where the first line ends with which text fails as it does. The parser itself names the line that a
// surrounding collection begins on, or one beside it.
func failingLine(text []byte, message string) int {
	if len(text) > maxProbed {
		return 0
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	ends := make([]int, len(lines))
	for i, end := 0, 0; i < len(lines); i++ {
		end += len(lines[i])
		ends[i] = end
	}
	return ends[sort.Search(len(ends)-1, func(i int) bool { return fails(text[:ends[i]], message) })]
}

// character matches the messages that are about one character, never about the text's end.
var character = regexp.MustCompile(`not allowed|cannot start any token|unknown escape|tab character`)

// failingPlace returns line and column of the character, in the last line of text, with which text begins to fail as it
// does. The column is 1 where that is not certain: where the text before that character could not end there either, so
// that its end may be what fails, and where too much would have to be parsed to find out.
func failingPlace(text []byte, message string) (line, column int) {
	last := bytes.TrimRight(text, "\r\n")
	start := bytes.LastIndexByte(last, '\n') + 1
	line, _ = position(text, start)
	if len(last)*(len(last)-start) > maxProbed*16 {
		return line, 1
	}
	at := len(last)
	for at > start {
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
