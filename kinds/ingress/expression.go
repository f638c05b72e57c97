package ingress

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

const (
	// maxParts bounds a path's expression, in bytes and in what these stand for: with counts in it, a hundred bytes could take a node
	// hundreds of megabytes, and every request to it seconds. Paths in the field have some dozens.
	maxParts = 1000
	// maxAllParts bounds those of an Ingress, which are some megabytes.
	maxAllParts = 20 * maxParts
	// rangesToPart is how many borders of ranges in a class of characters take as much as a part: Unicode's letters have 1300.
	rangesToPart = 100
)

// Compile is the expression that a path is: it has to fit a path's beginning, without regard to case.
func Compile(path string) (*regexp.Regexp, error) {
	if len(path) > maxParts {
		return nil, fmt.Errorf("it has %d bytes, and may have %d", len(path), maxParts)
	}
	if n := partsOf(path); n > maxParts {
		return nil, fmt.Errorf("it stands for %d parts, and may for %d", n, maxParts)
	}
	return regexp.Compile(anchored(path))
}

func anchored(path string) string { return "(?i)^(?:" + path + ")" }

// partsOf counts what a path's expression stands for, about as many as instructions are made of it; 0 for what is none.
func partsOf(path string) int {
	re, err := syntax.Parse(anchored(path), syntax.Perl)
	if err != nil {
		return 0
	}
	return parts(re)
}

func parts(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpCharClass:
		n += len(re.Rune) / rangesToPart
	case syntax.OpRepeat:
		n = 0
	}
	for _, sub := range re.Sub {
		n += parts(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

func reasonOf(err error) string {
	return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
}
