package keeper

import (
	"bytes"
	"time"
)

// maxLine is the longest piece of a line that one log line carries, as containerd's CRI plugin has it.
const maxLine = 16 << 10

// framer cuts one output stream of a container into CRI log lines:
//
//	2016-10-06T00:17:09.669794202Z stdout F a whole line, or the last piece of one
//	2016-10-06T00:17:09.669794202Z stdout P a piece of a line that continues
type framer struct {
	name string // "stdout" or "stderr"
	rest []byte // the beginning of a line whose end has not come yet; less than maxLine
}

// timeFormat has a fixed width, so that lines and names of rotated files sort as they were written.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// frame appends the log lines that p completes to dst, and returns it and how many lines it added.
func (f *framer) frame(dst []byte, now time.Time, p []byte) ([]byte, int) {
	prefix := f.prefix(now)
	lines := 0
	emit := func(tag byte, piece []byte) {
		dst = append(dst, prefix...)
		dst = append(dst, tag, ' ')
		dst = append(dst, f.rest...)
		dst = append(dst, piece...)
		dst = append(dst, '\n')
		f.rest = f.rest[:0]
		lines++
	}
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		for len(f.rest)+len(line) > maxLine || end < 0 && len(f.rest)+len(line) == maxLine {
			room := maxLine - len(f.rest)
			emit('P', line[:room])
			line = line[room:]
		}
		if end < 0 {
			f.rest = append(f.rest, line...)
			break
		}
		emit('F', line)
		p = p[end+1:]
	}
	if len(f.rest) == 0 {
		f.rest = nil // most streams are idle most of the time, and should hold nothing then
	}
	return dst, lines
}

// flush appends what is left of a stream that has ended in the middle of a line. It is tagged as a piece, so that a
// reader of the log adds no newline that the container did not write.
func (f *framer) flush(dst []byte, now time.Time) ([]byte, int) {
	if len(f.rest) == 0 {
		return dst, 0
	}
	dst = append(dst, f.prefix(now)...)
	dst = append(dst, 'P', ' ')
	dst = append(dst, f.rest...)
	dst = append(dst, '\n')
	f.rest = nil
	return dst, 1
}

func (f *framer) prefix(now time.Time) []byte {
	b := make([]byte, 0, 48)
	b = now.UTC().AppendFormat(b, timeFormat)
	b = append(b, ' ')
	b = append(b, f.name...)
	return append(b, ' ')
}
