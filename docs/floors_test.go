package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"lockstep/internal/structure"
)

// TestFloors holds the picture of the floors to the table of rooms: each room stands on its floor once, above all those that it
// imports.
func TestFloors(t *testing.T) {
	_, rest, _ := strings.Cut(pages(t)["development.md"], "\n## The floors\n")
	picture, _, _ := strings.Cut(rest, "\n## ")
	floor := map[string]int{}
	n := 0
	for line := range strings.Lines(picture) {
		drawn, ok := strings.CutPrefix(line, "    ")
		if !ok {
			continue
		}
		if strings.Contains(drawn, "───") {
			n++
			continue
		}
		rooms, _, _ := strings.Cut(drawn, "·")
		for _, room := range regexp.MustCompile(`[a-z][a-z.-]*`).FindAllString(rooms, -1) {
			if floor[room] != 0 {
				t.Errorf("%s is drawn twice", room)
			}
			floor[room] = n
		}
	}
	for _, r := range structure.Rooms() {
		if floor[r.Name] == 0 {
			t.Errorf("%s is not drawn, or above the first line", r.Name)
		}
		for _, on := range r.On {
			if floor[on] <= floor[r.Name] {
				t.Errorf("%s is not drawn above %s, on which it stands", r.Name, on)
			}
		}
	}
	for room := range floor {
		if !slices.ContainsFunc(structure.Rooms(), func(r structure.Room) bool { return r.Name == room }) {
			t.Errorf("%s is drawn and is no room", room)
		}
	}
}
