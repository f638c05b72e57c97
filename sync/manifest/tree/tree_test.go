package tree

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"os"
	"path/filepath"
)

// memory is a tree in memory: directories by ID, so that few of them make many paths.
type memory map[string][]Entry

func (m memory) Top() Entry                               { return Entry{Kind: Dir, ID: "top"} }
func (m memory) List(_ string, e Entry) ([]Entry, error)  { return m[e.ID], nil }
func (m memory) Target(_ string, e Entry) (string, error) { return e.ID, nil }
func (m memory) Inside(string) (string, bool)             { return "", false }
func (m memory) Find(_ string, e Entry, name string) (Entry, error) {
	for _, found := range m[e.ID] {
		if found.Name == name {
			return found, nil
		}
	}
	return Entry{}, fs.ErrNotExist
}

func describe(f Found) string {
	var b strings.Builder
	for _, m := range f.Files {
		b.WriteString(m.Path)
		if m.Real != m.Path {
			b.WriteString(">" + m.Real)
		}
		b.WriteString("; ")
	}
	for _, p := range f.Problems {
		b.WriteString("!" + p.Error() + "; ")
	}
	for _, i := range f.Ignored {
		b.WriteString("-" + i + "; ")
	}
	return b.String()
}

func walkAll(t *testing.T, tree Tree, root string, limits Limits) string {
	t.Helper()
	found, err := Walk(t.Context(), tree, root, limits)
	if err != nil {
		return "error: " + err.Error()
	}
	return describe(found)
}

func TestWhichFilesAreRead(t *testing.T) {
	m := memory{
		"top": {{Name: "a.yaml"}, {Name: "README.md"}, {Name: ".hidden.yaml"}, {Name: ".github", Kind: Dir, ID: "sub"},
			{Name: "sub", Kind: Dir, ID: "sub"},
			{Name: "module", Kind: Module}, {Name: "A.YAML"}, {Name: "Makefile"}, {Name: "pipe.yaml", Kind: Other},
			{Name: "socket", Kind: Other}},
		"sub": {{Name: "b.json"}, {Name: "c.yml"}, {Name: ".d", Kind: Dir, ID: "top"}},
	}
	if got, want := walkAll(t, m, "", Bounds()),
		"a.yaml; sub/b.json; sub/c.yml; !pipe.yaml: it is not a regular file; -module: submodules are not read; "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := walkAll(t, m, ".github", Bounds()), ".github/b.json; .github/c.yml; "; got != want {
		t.Errorf("a root that is hidden itself: got %s, want %s", got, want)
	}
	for _, root := range []string{"nowhere", "a.yaml", "sub/b.json/c"} {
		if got := walkAll(t, m, root, Bounds()); got != "error: "+fs.ErrNotExist.Error() {
			t.Errorf("root %s: %s", root, got)
		}
	}
}

func TestLinksStayInside(t *testing.T) {
	link := func(name, to string) Entry { return Entry{Name: name, Kind: Link, ID: to} }
	m := memory{
		"top": {
			{Name: "a.yaml"}, {Name: "notes"}, {Name: "sub", Kind: Dir, ID: "sub"},
			{Name: ".data", Kind: Dir, ID: "data"}, link("..data", ".data"),
			link("out.yaml", "../x.yaml"), link("abs.yaml", "/etc/passwd"), link("lost.yaml", "nowhere.yaml"),
			link("lost", "nowhere"), link("round.yaml", "about.yaml"), link("about.yaml", "round.yaml"),
			link("up", "../.."), link("self", "."), link("dir.yaml", "sub"), link("two.yaml", "sub/up.yaml"),
			link("through.yaml", "..data/d.yaml"), link("file.yaml", "a.yaml/x"), link("note.yaml", "notes"),
			link(".out", "/etc"),
		},
		"sub":  {link("up.yaml", "../a.yaml"), link("far.yaml", "../../a.yaml")},
		"data": {{Name: "d.yaml"}},
	}
	want := "a.yaml; note.yaml>notes; sub/up.yaml>a.yaml; through.yaml>.data/d.yaml; two.yaml>a.yaml; " +
		"!about.yaml: the symbolic link leads nowhere; !abs.yaml: the symbolic link leads out of the tree; " +
		"!file.yaml: the symbolic link leads nowhere; !lost.yaml: the symbolic link leads nowhere; " +
		"!out.yaml: the symbolic link leads out of the tree; !round.yaml: the symbolic link leads nowhere; " +
		"!sub/far.yaml: the symbolic link leads out of the tree; !up: the symbolic link leads out of the tree; "
	if got := walkAll(t, m, "", Bounds()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestLimitsHoldWhileWalking: eleven directories with 10¹⁰ paths, one of which leads back to itself, and a million
// names.
func TestLimitsHoldWhileWalking(t *testing.T) {
	bomb := memory{"10": {{Name: "notes"}}}
	for depth := range 10 {
		id := fmt.Sprint(depth)
		if depth == 0 {
			id = "top"
		}
		for i := range 10 {
			bomb[id] = append(bomb[id], Entry{Name: fmt.Sprint(i), Kind: Dir, ID: fmt.Sprint(depth + 1)})
		}
	}
	circle := memory{"top": {{Name: "in", Kind: Dir, ID: "top"}, {Name: "a.yaml"}}}
	wide := memory{"top": make([]Entry, 200)}
	for i := range wide["top"] {
		wide["top"][i].Name = fmt.Sprintf("%03d.yaml", i)
	}
	bad := memory{"top": nil}
	for i := range 300 {
		bad["top"] = append(bad["top"], Entry{Name: fmt.Sprintf("%d\x1b.yaml", i)})
	}
	limits := Limits{Entries: 1000, Files: 100, Depth: 16, Path: 60}
	for name, c := range map[string]struct {
		tree memory
		want string
	}{
		"many paths":     {bomb, "more than 1000 files and directories"},
		"endless depth":  {circle, "directories are nested deeper than 16"},
		"many manifests": {wide, "more than 100 manifests"},
		"long path":      {memory{"top": {{Name: strings.Repeat("a", 60) + ".yaml"}}}, "the path is longer than 60 bytes"},
		"many problems":  {bad, `!0\x1b.yaml: the name has control characters`},
	} {
		found, err := Walk(t.Context(), c.tree, "", limits)
		got := describe(found)
		if err != nil || !strings.Contains(got, c.want) || len(found.Problems) > maxProblems || len(found.Files) > 100 {
			t.Errorf("%s: %v, %d problems, %s", name, err, len(found.Problems), got[:min(len(got), 300)])
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Walk(ctx, circle, "", Bounds()); err != context.Canceled {
		t.Errorf("after the end: %v", err)
	}
}

// TestNamesAreFitToBeTold: what no terminal or log could show as it is refuses the tree, where it would be shown.
func TestNamesAreFitToBeTold(t *testing.T) {
	m := memory{"top": {{Name: "a\nb.yaml"}, {Name: "\u202egpj.yaml"}, {Name: "\xff.yaml"}, {Name: "x\x1b]0;", Kind: Dir, ID: "top"},
		{Name: "notes\n\xff"}, {Name: "日本👩‍🚀.yaml"},
		{Name: ".GIT", Kind: Dir, Bad: "bad name"}}}
	want := `日本👩‍🚀.yaml; !.GIT: bad name; !\u202egpj.yaml: the name has control characters, or is not UTF-8; !\xff.yaml: ` +
		`the name has control characters, or is not UTF-8; ` +
		`!a\nb.yaml: the name has control characters, or is not UTF-8; !x\x1b]0;: the name has control characters, or is not UTF-8; `
	if got := walkAll(t, m, "", Bounds()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestFoldersDoNotBlock: pipes, sockets, devices and loops in a folder, also in the place of a file that was just listed.
func TestFoldersDoNotBlock(t *testing.T) {
	top := t.TempDir()
	for _, err := range []error{
		syscall.Mkfifo(filepath.Join(top, "pipe.yaml"), 0o600),
		syscall.Mkfifo(filepath.Join(top, "pipe"), 0o600),
		os.Symlink("pipe", filepath.Join(top, "link.yaml")),
		os.Symlink("/dev/zero", filepath.Join(top, "zero.yaml")),
		os.Symlink(".", filepath.Join(top, "loop")),
		os.Symlink("loop.yaml", filepath.Join(top, "loop.yaml")),
		os.Symlink(top+"/a.yaml", filepath.Join(top, "absolute.yaml")),
		os.WriteFile(filepath.Join(top, "a.yaml"), []byte("a"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	want := "a.yaml; absolute.yaml>a.yaml; !link.yaml: the symbolic link does not lead to a regular file; " +
		"!loop.yaml: the symbolic link leads nowhere; !pipe.yaml: it is not a regular file; !zero.yaml: " +
		"the symbolic link leads out of the tree; "
	if got := walkAll(t, &Folder{Path: top}, "", Bounds()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, name := range []string{path.Join(top, "pipe"), "/dev/zero"} {
		if _, err := Read(name, 10); err != ErrNotRegular {
			t.Errorf("reading %s: %v", name, err)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if data, err := Read(filepath.Join(top, "a.yaml"), 0); err != nil || string(data) != "a" {
		t.Errorf("%q %v", data, err)
	}
}
