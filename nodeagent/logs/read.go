package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/sleep"
)

// pollEvery is how long a follower of a log sleeps at its end: short enough for a person, long enough that hundreds
// of followers cost nothing.
const pollEvery = 100 * time.Millisecond

// Read writes the log at path (of the attempt that opts.Previous means; see Path), with its rotated files, to w as
// Kubernetes' log endpoint has it: sinceTime, sinceSeconds, tailLines, limitBytes, timestamps, stream and follow are
// honoured, container and previous are the caller's.
//
// With follow it ends when ended returns true and everything has been read; ended must not be true before
// Client.Close of the stream has returned. It is polled ten times a second; nil means that the log has ended.
// The error is of w, ctx's own, fs.ErrNotExist when there is no log at all, or of reading.
func Read(ctx context.Context, path string, opts *corev1.PodLogOptions, w io.Writer, ended func() bool) error {
	if opts == nil {
		opts = &corev1.PodLogOptions{}
	}
	sel := newSelection(opts, time.Now())
	c := &cursor{path: path}
	defer c.close()
	if err := c.seek(opts.TailLines, sel.since); err != nil {
		return fmt.Errorf("cannot read log %s: %w", path, err)
	}
	var out []byte
	last := false // the log had ended before we came to its end
	for {
		line, err := c.next()
		if err == nil {
			r, ok := parse(line)
			if !ok {
				continue
			}
			if c.again && !r.time.After(c.last) {
				continue
			}
			c.last, c.again = r.time, false
			var more bool
			out, more = sel.render(out, &r)
			if len(out) >= 32<<10 || !more {
				if err := send(ctx, w, &out); err != nil || !more {
					return err
				}
			}
			continue
		}
		if err := send(ctx, w, &out); err != nil {
			return err
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("cannot read log %s: %w", path, err)
		}
		if !opts.Follow || last {
			return nil
		}
		if ended == nil || ended() {
			last = true
			continue
		}
		sleep.For(ctx, pollEvery)
	}
}

func send(ctx context.Context, w io.Writer, out *[]byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(*out) == 0 {
		return nil
	}
	_, err := w.Write(*out)
	*out = (*out)[:0]
	return err
}

// Missing says whether Read failed because there is no such log.
func Missing(err error) bool { return errors.Is(err, os.ErrNotExist) }
