package command

import (
	"fmt"
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"

	"lockstep/internal/plain"
)

// screen prints lines and, in a terminal, keeps one status line below them. Any number of goroutines may use one.
type screen struct {
	out io.Writer
	// width tells the terminal's columns. Nil: out is no terminal.
	width func() int

	mu     sync.Mutex
	status string // what stands below the lines
}

// screenOf is the screen of an output, which may be a terminal.
func screenOf(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.width = func() int {
			width, _, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 0
			}
			return width
		}
	}
	return s
}

// eraseLine is the terminal's sequence that empties the line the cursor is in.
const eraseLine = "\r\x1b[K"

// line prints a line.
func (s *screen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.above(func() { _, _ = fmt.Fprintf(s.out, format+"\n", shown(args)...) })
}

// keep makes text the status line; empty: there is none. Where there is no terminal it does nothing.
func (s *screen) keep(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.width == nil {
		return
	}
	// A line that wraps could not be emptied again.
	if text = shorten(plain.Text(text), s.width()-1); text == s.status {
		return
	}
	_, _ = io.WriteString(s.out, eraseLine+text)
	s.status = text
}

// above prints what ends with a line end, and the status line again below it.
func (s *screen) above(print func()) {
	if s.status == "" {
		print()
		return
	}
	_, _ = io.WriteString(s.out, eraseLine)
	print()
	_, _ = io.WriteString(s.out, s.status)
}

// beside is a writer to another file which may be the same terminal, as standard error is; every write must end its line.
func (s *screen) beside(w io.Writer) io.Writer { return beside{s, w} }

type beside struct {
	screen *screen
	w      io.Writer
}

func (b beside) Write(p []byte) (n int, err error) {
	b.screen.mu.Lock()
	defer b.screen.mu.Unlock()
	b.screen.above(func() { n, err = b.w.Write(p) })
	return n, err
}

// shorten cuts text to so many characters; the last one then says that there was more. A width of zero or less cuts
// nothing.
func shorten(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}
