package keeper

import (
	"fmt"
	"time"
)

// gapRetry is how long after a loss it is tried to tell of it in the log, if the container prints nothing meanwhile.
const gapRetry = 5 * time.Second

// Gap is what one output of a stream has lost since the log last told.
type Gap struct {
	Lines int64     `json:"lines,omitempty"`
	Bytes int64     `json:"bytes,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Why   string    `json:"why,omitempty"` // of the newest loss
}

func (g *Gap) add(l lines, size int, why error) {
	if g.Lines == 0 {
		g.Since = l.at
	}
	g.Lines, g.Bytes, g.Until, g.Why = g.Lines+int64(l.count), g.Bytes+int64(size), l.at, why.Error()
}

// String is what a reader of the log is told.
func (g Gap) String() string {
	return fmt.Sprintf("[lockstep: %d lines (%d bytes) of this log were lost from %s to %s: %s]", g.Lines, g.Bytes,
		g.Since.UTC().Format(time.RFC3339), g.Until.UTC().Format(time.RFC3339), g.Why)
}

// tell appends the log lines that tell of the gaps of both outputs. Each is whole, so that it also ends a line of which
// only a piece was written.
func tell(dst []byte, gaps [2]Gap, now time.Time) []byte {
	for i, g := range gaps {
		if g.Lines > 0 {
			f := framer{name: outputs[i]}
			dst, _ = f.frame(dst, now, []byte(g.String()+"\n"))
		}
	}
	return dst
}

// retell has the gaps told soon although nothing is printed. s.mu is held.
func (s *stream) retell() {
	if s.retelling != nil {
		return
	}
	s.retelling = time.AfterFunc(gapRetry, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.retelling == nil {
			return // stopped meanwhile
		}
		s.retelling = nil
		s.enqueue(lines{at: s.now()})
	})
}

// stopRetelling leaves the gaps to who goes on with the stream.
func (s *stream) stopRetelling() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retelling != nil {
		s.retelling.Stop()
		s.retelling = nil
	}
}

// lost says whether there are gaps that the log has not told. s.mu is held.
func (s *stream) lost() bool { return s.stats.Gaps != [2]Gap{} }
