package structure

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// roomOf is the room of a path below the root.
func roomOf(name string) string {
	room, _, _ := strings.Cut(name, "/")
	return room
}

// TestRooms holds the table of rooms to what the files import: a room may stand on those it names and no other, and none is
// there that it could stand on.
func TestRooms(t *testing.T) {
	imports := map[string]map[string]string{} // by room and imported room, a file
	for dir, files := range packages(t) {
		for _, f := range files {
			room := roomOf(f.path)
			if dir == "internal/structure" || dir == "docs" || f.test() || within(f.path, forTests()) {
				continue
			}
			if imports[room] == nil {
				imports[room] = map[string]string{}
			}
			for _, spec := range f.ast.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if name, ours := strings.CutPrefix(imported, "lockstep/"); ours && roomOf(name) != room {
					imports[room][roomOf(name)] = f.path
				}
			}
		}
	}
	var below []string
	for _, r := range slices.Backward(Rooms()) {
		for _, on := range r.On {
			if !slices.Contains(below, on) {
				t.Errorf("%s stands on %s, which is not below it", r.Name, on)
			}
			if _, does := imports[r.Name][on]; !does && on != "internal" {
				t.Errorf("%s stands on %s and imports nothing of it", r.Name, on)
			}
		}
		for imported, file := range imports[r.Name] {
			if !slices.Contains(r.On, imported) {
				t.Errorf("%s imports %s, on which %s does not stand", file, path.Join("lockstep", imported), r.Name)
			}
		}
		below = append(below, r.Name)
		delete(imports, r.Name)
	}
	for room := range imports {
		t.Errorf("%s is no room", room)
	}
}
