package logs

import (
	"bytes"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// record is one line of a log file.
type record struct {
	time    time.Time
	stream  string // "stdout" or "stderr"
	partial bool   // the container's line goes on in the next record of this stream
	text    []byte // without the newline; valid until the next record is read
}

// parse reads `2016-10-06T00:17:09.669794202Z stdout F text`, without the newline. It returns false for anything else.
func parse(line []byte) (record, bool) {
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return record{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return record{}, false
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || string(stream) != "stdout" && string(stream) != "stderr" {
		return record{}, false
	}
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		tags = rest // a trailing blank may be missing from an empty line
	}
	tag, _, _ := bytes.Cut(tags, []byte{':'}) // further tags follow a colon
	if len(tag) != 1 || tag[0] != 'F' && tag[0] != 'P' {
		return record{}, false
	}
	return record{time: at, stream: string(stream), partial: tag[0] == 'P', text: text}, true
}

// selection is the part of a log that was asked for.
type selection struct {
	since  time.Time // zero: from the beginning
	stream string    // empty: both
	stamps bool
	limit  int64 // bytes still wanted; negative: all

	open map[string]bool // streams whose last record was partial
}

func newSelection(opts *corev1.PodLogOptions, now time.Time) *selection {
	s := &selection{limit: -1, stamps: opts.Timestamps, open: map[string]bool{}}
	switch {
	case opts.SinceTime != nil:
		s.since = opts.SinceTime.Time
	case opts.SinceSeconds != nil:
		s.since = now.Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	}
	if opts.LimitBytes != nil {
		s.limit = *opts.LimitBytes
	}
	if opts.Stream != nil {
		switch *opts.Stream {
		case corev1.LogStreamStdout:
			s.stream = "stdout"
		case corev1.LogStreamStderr:
			s.stream = "stderr"
		}
	}
	return s
}

// render appends what the reader of the log gets to see of a record, and returns whether more may follow.
func (s *selection) render(dst []byte, r *record) ([]byte, bool) {
	if r.time.Before(s.since) || s.stream != "" && r.stream != s.stream {
		return dst, s.limit != 0
	}
	start := len(dst)
	if s.stamps && !s.open[r.stream] {
		dst = r.time.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000Z07:00")
		dst = append(dst, ' ')
	}
	dst = append(dst, r.text...)
	if !r.partial {
		dst = append(dst, '\n')
	}
	s.open[r.stream] = r.partial
	if s.limit >= 0 {
		if added := int64(len(dst) - start); added > s.limit {
			dst = dst[:start+int(s.limit)]
			s.limit = 0
		} else {
			s.limit -= added
		}
	}
	return dst, s.limit != 0
}
