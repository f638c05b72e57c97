// Package structure says which rooms the source tree has and which stand on which, and tests the tree's shape.
package structure

// Room is a folder of the root, with what it imports of the other rooms: exactly that, tests and what serves them aside.
type Room struct {
	Name string
	// On are the rooms below that it stands on.
	On []string
}

// Rooms are the rooms of the tree. What is in internal may be imported by all, and imports none of them.
func Rooms() []Room {
	return []Room{
		{"bench", []string{"daemon", "internal", "kinds", "lab", "nodeagent", "proxy", "reconcilers", "store"}},
		{"manifests-example", []string{"lab"}},
		{"lab", []string{"daemon", "internal", "kinds", "store", "sync"}},
		{"main.go", []string{"daemon", "nodeagent"}},
		{"daemon", []string{"internal", "kinds", "nodeagent", "reconcilers", "store", "sync"}},
		{"sync", []string{"internal", "kinds", "store"}},
		{"reconcilers", []string{"internal", "kinds", "store"}},
		{"nodeagent", []string{"internal", "kinds", "proxy"}},
		{"store", []string{"internal", "kinds"}},
		{"proxy", []string{"internal"}},
		{"kinds", []string{"internal"}},
		{"internal", nil},
	}
}
