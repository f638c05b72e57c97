package structure

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBuildIsTheSameInEveryFolder makes `make build` build a program of a few lines in two folders.
func TestBuildIsTheSameInEveryFolder(t *testing.T) {
	root := filepath.Join("..", "..")
	build := func(dir string) []byte {
		t.Helper()
		files := map[string][]byte{
			"main.go": []byte("package main\n\nimport \"lockstep/daemon/version\"\n\nfunc main() { panic(version.Version) }\n"),
		}
		for _, name := range []string{"Makefile", "go.mod", "go.sum", "daemon/version/version.go"} {
			data, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = data
		}
		for name, data := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command("make", "-s", "-C", dir, "build").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		program, err := os.ReadFile(filepath.Join(dir, "bin", "lockstep"))
		if err != nil {
			t.Fatal(err)
		}
		return program
	}
	one, other := build(filepath.Join(t.TempDir(), "a")), build(filepath.Join(t.TempDir(), "some", "other"))
	if !bytes.Equal(one, other) {
		t.Errorf("two folders give two programs, of %d and %d bytes", len(one), len(other))
	}
}
