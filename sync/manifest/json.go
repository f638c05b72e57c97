package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"unicode/utf8"
)

// parseJSON shows the values of a JSON file, which may be several in a row. After one that is broken it goes on where the
// next most likely begins.
func parseJSON(ctx context.Context, data []byte, yield func(value) bool) {
	for start := 0; start < len(data); {
		r := newJSONReader(data, start)
		for {
			v, more := r.value()
			if !more {
				return
			}
			if ctx.Err() != nil || !yield(v) {
				return
			}
			if v.err != nil {
				break
			}
		}
		start = resume(data, r.end())
	}
}

// resume returns where a value begins at or after an offset inside a broken one: at a brace that begins a line and comes
// after a closing one. Inside a value no such place is valid, and one that is indented as usual has none.
func resume(data []byte, offset int) int {
	for at := offset; ; at++ {
		i := bytes.IndexByte(data[at:], '{')
		if i < 0 {
			return len(data)
		}
		at += i
		if at > 0 && data[at-1] == '\n' && bytes.HasSuffix(bytes.TrimRight(data[:at], " \t\r\n"), []byte("}")) {
			return at
		}
	}
}

// jsonReader reads tokens and follows their positions.
type jsonReader struct {
	data         []byte
	decoder      *json.Decoder
	start        int // of what the decoder reads
	left         int // values that it may still have in it
	begun        int // where the value that is being read begins, blanks before it included
	offset       int // of the byte that line and column are of
	line, column int
}

func newJSONReader(data []byte, start int) *jsonReader {
	r := &jsonReader{data: data, decoder: json.NewDecoder(bytes.NewReader(data[start:])), start: start, line: 1, column: 1}
	r.decoder.UseNumber()
	return r
}

// end is where the last token ends.
func (r *jsonReader) end() int { return r.start + int(r.decoder.InputOffset()) }

// value reads the next value that is not null; more is false after the last. After a broken one there is no other.
func (r *jsonReader) value() (v value, more bool) {
	for {
		r.begun, r.left = r.end(), MaxValues
		token, err := r.next()
		if errors.Is(err, io.EOF) {
			return value{}, false
		}
		if err != nil {
			return value{err: r.fault(err)}, true
		}
		root, f := r.node(token, 0)
		if f != nil {
			return value{err: f}, true
		}
		if root.shape != null {
			return value{root: root}, true
		}
	}
}

// next returns the next token and moves to where it begins.
func (r *jsonReader) next() (json.Token, error) {
	begin := r.end()
	token, err := r.decoder.Token()
	if err != nil {
		return nil, err
	}
	for begin < len(r.data) && bytes.IndexByte([]byte(" \t\r\n,:"), r.data[begin]) >= 0 {
		begin++
	}
	r.move(begin)
	return token, nil
}

func (r *jsonReader) move(to int) {
	passed := r.data[r.offset:to]
	if newlines := bytes.Count(passed, []byte("\n")); newlines > 0 {
		r.line += newlines
		r.column = 1
		passed = passed[bytes.LastIndexByte(passed, '\n')+1:]
	}
	r.column += utf8.RuneCount(passed)
	r.offset = to
}

// unexpected matches the character in a message of the decoder, which may be a secret's.
var unexpected = regexp.MustCompile(`^invalid character ('\\''|'[^']*') `)

// fault words an error and finds its place. The decoder itself does not count the tokens it has read before: the value is
// scanned again.
func (r *jsonReader) fault(err error) *fault {
	offset, message := r.end(), "syntax error"
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		offset, message = len(r.data), "the file ends inside a value"
	}
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(r.data[r.begun:], &json.RawMessage{}), &syntax) {
		if what := unexpected.FindString(syntax.Error()); what != "" {
			offset, message = r.begun+int(syntax.Offset)-1, "unexpected character "+syntax.Error()[len(what):]
		}
	}
	line, column := position(r.data, offset)
	return faultAt(line, column, "cannot parse JSON: %s", message)
}

func (r *jsonReader) node(token json.Token, depth int) (*node, *fault) {
	n := &node{line: r.line, column: r.column}
	if r.left--; r.left < 0 {
		return nil, faultAt(n.line, n.column, "the value has more than %d values in it", MaxValues)
	}
	if depth > MaxDepth {
		return nil, faultAt(n.line, n.column, "nested deeper than %d levels", MaxDepth)
	}
	switch t := token.(type) {
	case nil:
		n.shape = null
	case bool:
		n.shape, n.text = boolean, fmt.Sprint(t)
	case json.Number:
		n.shape, n.text = number, t.String()
	case string:
		n.shape, n.text = text, t
	case json.Delim:
		if t == '[' {
			n.shape = list
			return n, r.items(n, depth)
		}
		n.shape = mapping
		return n, r.fields(n, depth)
	}
	return n, nil
}

func (r *jsonReader) items(n *node, depth int) *fault {
	for {
		token, err := r.next()
		if err != nil {
			return r.fault(err)
		}
		if token == json.Delim(']') {
			return nil
		}
		item, f := r.node(token, depth+1)
		if f != nil {
			return f
		}
		n.items = append(n.items, item)
	}
}

func (r *jsonReader) fields(n *node, depth int) *fault {
	for {
		token, err := r.next()
		if err != nil {
			return r.fault(err)
		}
		name, isKey := token.(string)
		if !isKey {
			n.settle()
			return nil // the closing brace: the decoder lets nothing else through
		}
		e := entry{name: name, line: r.line, column: r.column}
		if token, err = r.next(); err != nil {
			return r.fault(err)
		}
		var f *fault
		if e.value, f = r.node(token, depth+1); f != nil {
			return f
		}
		n.fields = append(n.fields, e)
	}
}
