package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// parseJSON reads the values of a JSON file, which may be several in a row.
func parseJSON(data []byte) []value {
	r := jsonReader{data: data, decoder: json.NewDecoder(bytes.NewReader(data)), line: 1, column: 1}
	r.decoder.UseNumber()
	var values []value
	for {
		token, err := r.next()
		if errors.Is(err, io.EOF) {
			return values
		}
		if err != nil {
			return append(values, value{err: r.fault(err)})
		}
		root, f := r.node(token, 0)
		if f != nil {
			return append(values, value{err: f})
		}
		if root.shape != null {
			values = append(values, value{root: root})
		}
	}
}

// jsonReader reads tokens and follows their positions.
type jsonReader struct {
	data         []byte
	decoder      *json.Decoder
	offset       int // of the byte that line and column are of
	line, column int
}

// next returns the next token and moves to where it begins.
func (r *jsonReader) next() (json.Token, error) {
	begin := int(r.decoder.InputOffset())
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

func (r *jsonReader) fault(err error) *fault {
	offset, message := r.decoder.InputOffset(), "syntax error"
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		offset, message = int64(len(r.data)), "the file ends inside a value"
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		offset = syntax.Offset - 1
	}
	line, column := position(r.data, int(max(offset, 0)))
	// The decoder's own words may quote a character of a secret.
	return faultAt(line, column, "cannot parse JSON: %s", message)
}

func (r *jsonReader) node(token json.Token, depth int) (*node, *fault) {
	n := &node{line: r.line, column: r.column}
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
