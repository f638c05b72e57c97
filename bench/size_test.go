package main

import (
	"os"
	"testing"
)

func TestModuleOf(t *testing.T) {
	modules := []string{"lockstep", "example.com/a", "example.com/a/v2"}
	for pkg, want := range map[string]string{
		"lockstep/store": "lockstep", "lockstepper/x": "Go", "net/http": "Go", "example.com/a": "example.com/a",
		"example.com/a/b": "example.com/a", "example.com/a/v2/b": "example.com/a/v2",
	} {
		if got := moduleOf(pkg, modules); got != want {
			t.Errorf("%s is of %s, want %s", pkg, got, want)
		}
	}
}

// TestCodeOf looks into this test's own program.
func TestCodeOf(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, err := codeOf(program)
	if err != nil {
		t.Fatal(err)
	}
	if code["Go"] < 1<<20 || code["k8s.io/api"] < 1<<20 || code["lockstep"] == 0 {
		t.Errorf("%v", code)
	}
}
