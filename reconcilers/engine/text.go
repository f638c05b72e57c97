package engine

import (
	"encoding/json"
	"fmt"

	"lockstep/kinds"
)

// Changes lists how b differs from a, one "path: old -> new" each, with values as JSON, sorted by path.
func Changes(a, b kinds.Object) []string {
	var lines []string
	compare("", jsonForm(a), jsonForm(b), func(path string, was, is any) {
		lines = append(lines, fmt.Sprintf("%s: %s -> %s", path, jsonText(was), jsonText(is)))
	})
	return lines
}

func jsonText(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}
