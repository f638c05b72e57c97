package manifest

import (
	"fmt"
	"slices"
	"strings"

	"lockstep/internal/near"
	"lockstep/internal/plain"
)

// slip is what Kubernetes' strict decoding refuses of an object: a field that its type does not have, or one that stands
// twice.
type slip struct {
	line, column int
	says         string // as Kubernetes says it
	alone, among string // what helps to mend it, where it is the only one and where there are others
}

// unknownField says that there is no such field, and which of names was likely meant.
func unknownField(e *entry, path string, names []string) (s slip, meant string) {
	s = slip{line: e.line, column: e.column, says: fmt.Sprintf("unknown field %q", path), among: e.name}
	if meant = near.Of(e.name, names); meant != "" {
		s.alone = fmt.Sprintf("did you mean %q?", meant)
		s.among += ", " + s.alone
	}
	s.among = fmt.Sprintf("line %d: %s", e.line, s.among)
	return s, meant
}

// duplicateField says that a field stands twice: the path as Kubernetes says it of JSON, the line as it does of YAML.
func duplicateField(e *entry, path string) slip {
	on := fmt.Sprintf("line %d: key %q already set in map, first on line %d", e.line, e.name, e.again)
	return slip{line: e.line, column: e.column, says: fmt.Sprintf("duplicate field %q", path), alone: on, among: on}
}

// slipsTogether bounds the slips of one message, so that all of it is shown.
const slipsTogether = 10

// strictly tells of an object's slips, at the first of them: together, as Kubernetes does.
func strictly(found []slip) []problem {
	var out []problem
	for some := range slices.Chunk(found, slipsTogether) {
		var says, notes []string
		for _, s := range some {
			note := s.among
			if len(some) == 1 {
				note = s.alone
			}
			if !slices.Contains(says, s.says) {
				says = append(says, s.says)
			}
			if note != "" && !slices.Contains(notes, note) {
				notes = append(notes, note)
			}
		}
		message := "strict decoding error: " + strings.Join(says, ", ")
		if len(notes) > 0 {
			message += " (" + strings.Join(notes, "; ") + ")"
		}
		out = append(out, problem{line: some[0].line, column: some[0].column, message: plain.Text(message)})
	}
	return out
}
