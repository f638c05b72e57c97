// Package quantity bounds the numbers in Kubernetes' quantities before its library, whose work grows with the value of an
// exponent, sees them.
package quantity

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// MaxLength bounds a quantity's text in bytes. The library writes every value below MaxMagnitude in fewer.
	MaxLength = 128
	// MaxMagnitude bounds the digits before the decimal point, exponent and suffix included: three times those of an
	// int64, which nothing that is counted in a cluster passes.
	MaxMagnitude = 64
)

// Check returns an error for a quantity that is longer or larger than the bounds, whatever else may be wrong with it. It
// is nil for every text that the library writes of a value for whose text it was nil.
func Check(text string) error {
	if len(text) > MaxLength {
		return fmt.Errorf("the quantity has %d characters, more than the limit of %d", len(text), MaxLength)
	}
	if m := magnitude(strings.TrimSpace(text)); m > MaxMagnitude || m < -2*MaxMagnitude {
		return fmt.Errorf("the quantity is out of range: it has more than %d digits", MaxMagnitude)
	}
	return nil
}

// magnitude returns at least how many digits the value has before its decimal point, below 0 for zeros after it; 0 for
// what is no quantity. A fraction counts as a digit: rounding it up may make one.
func magnitude(text string) int {
	text = strings.TrimLeft(strings.TrimLeft(text, "+-"), "0")
	rest := strings.TrimLeft(text, "0123456789")
	m := len(text) - len(rest)
	if fraction, found := strings.CutPrefix(rest, "."); found {
		rest = strings.TrimLeft(fraction, "0123456789")
		m++
	}
	if exponent, found := suffix(rest); found {
		return m + exponent
	}
	if rest[0] != 'e' && rest[0] != 'E' {
		return 0
	}
	exponent, err := strconv.ParseInt(rest[1:], 10, 16)
	if err != nil && strings.Trim(rest[1:], "+-0123456789") != "" {
		return 0
	}
	return m + int(exponent) // the nearest that fits, where it does not
}

// suffix returns the digits that a suffix adds, for a power of two the digits of the next power of ten.
func suffix(s string) (digits int, found bool) {
	const decimal, binary = "kMGTPE", "KMGTPE"
	switch {
	case s == "":
		return 0, true
	case len(s) == 1 && strings.Contains("num", s):
		return -9 + 3*strings.Index("num", s), true
	case len(s) == 1 && strings.Contains(decimal, s):
		return 3 + 3*strings.Index(decimal, s), true
	case len(s) == 2 && s[1] == 'i' && strings.Contains(binary, s[:1]):
		return 4 + 3*strings.Index(binary, s[:1]), true
	}
	return 0, false
}
