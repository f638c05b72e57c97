// Package plain makes text that others wrote fit to be shown: bounded, and without what a terminal would act on.
package plain

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Max is the longest text in bytes that Text and Lines return: Linux's longest path, longer than any message that
// somebody reads.
const Max = 4096

// ellipsis ends what was cut.
const ellipsis = "…"

// Text returns one line of at most Max bytes of valid UTF-8 in which everything that is not seen as what it is stands as
// Go would write it in a string: control characters (C0, DEL, C1, line ends too) and bytes that are no UTF-8 as \n or
// \x1b, line separators, directional overrides and other format characters as \u202e. Joiners stay, which scripts and
// emoji need. A backslash stays as it is, so that doing it twice is harmless.
func Text(s string) string { return Cut(s, Max) }

// Lines is Text for a text of several lines: line feeds stay.
func Lines(s string) string { return escape(s, Max, true) }

// Page is Lines without a bound, for what is made of texts that are bounded.
func Page(s string) string { return escape(s, math.MaxInt, true) }

// Cut is Text with a bound of its own, at least that of the ellipsis (3 bytes).
func Cut(s string, most int) string { return escape(s, most, false) }

func escape(s string, most int, lines bool) string {
	if len(s) <= most && clean(s, lines) {
		return s
	}
	var b strings.Builder
	whole := 0 // the length up to which an ellipsis still fits
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if shown(r, size, lines) {
			b.WriteString(s[i : i+size])
		} else {
			b.WriteString(escaped(s[i:i+size], r))
		}
		i += size
		if b.Len() > most {
			return b.String()[:whole] + ellipsis
		}
		if b.Len() <= most-len(ellipsis) {
			whole = b.Len()
		}
	}
	return b.String()
}

func clean(s string, lines bool) bool {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if !shown(r, size, lines) {
			return false
		}
		i += size
	}
	return true
}

// Zero-width joiner and non-joiner change only how their neighbours are drawn.
const joiner, nonJoiner = '\u200d', '\u200c'

func shown(r rune, size int, lines bool) bool {
	switch {
	case r == utf8.RuneError && size <= 1:
		return false
	case r == '\n':
		return lines
	case r == joiner, r == nonJoiner:
		return true
	}
	return unicode.IsGraphic(r)
}

// escaped is Go's escape of one character or one byte that belongs to none.
func escaped(text string, r rune) string {
	if r < utf8.RuneSelf || r == utf8.RuneError {
		quoted := strconv.QuoteToASCII(text)
		return quoted[1 : len(quoted)-1]
	}
	quoted := strconv.QuoteRuneToASCII(r)
	return quoted[1 : len(quoted)-1]
}
