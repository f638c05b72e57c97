// Package variables replaces $(NAME) in what containers are given.
package variables

import (
	"errors"
	"strings"

	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// Most is how many bytes the variables, or the arguments, of a program may have together: the kernel starts none with more, however
// large its stack may be (execve(2): three quarters of 8 MiB). Twenty variables that each repeat the one before make a terabyte.
const Most = 6 << 20

// ErrTooLong says that a text would be longer than it may be.
var ErrTooLong = errors.New("argument list too long")

// Expand replaces each $(NAME) of a text by what mapping says, and $$ by $, as Kubernetes does. What takes the place of names may have
// so many bytes together, else there is ErrTooLong; what the text itself has does not count.
func Expand(text string, most int, mapping func(string) string) (string, error) {
	long := false
	bounded := func(name string) string {
		value := ""
		if !long {
			value = mapping(name)
		}
		if most -= len(value); most < 0 {
			long, value = true, ""
		}
		return value
	}
	// Behind the last parenthesis no name ends. Kubernetes would look for its end from each that begins, to the end of the text.
	end := strings.LastIndexByte(text, ')') + 1
	out := expansion.Expand(text[:end], bounded)
	if long {
		return "", ErrTooLong
	}
	return out + strings.ReplaceAll(text[end:], "$$", "$"), nil
}
