package render

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"lockstep/sync/manifest"
	"lockstep/sync/origin"
)

// colors is a renderer of files *.yaml below colors/: a line "name color" is a ConfigMap. It stands for those that make
// more of a file than there is in it.
type colors struct{}

func (colors) Render(ctx context.Context, files []manifest.File) (made []Manifest, left []manifest.File, errs manifest.Errors) {
	for _, f := range files {
		if path.Dir(f.Path) != "colors" {
			left = append(left, f)
			continue
		}
		data, err := f.Data()
		if err != nil {
			errs = append(errs, &manifest.Error{File: f.Path, Message: err.Error()})
			continue
		}
		var text strings.Builder
		for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
			name, color, ok := strings.Cut(line, " ")
			if !ok {
				errs = append(errs, &manifest.Error{File: f.Path, Line: i + 1, Column: 1, Message: "has no color"})
			}
			fmt.Fprintf(&text, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {%s}\n---\n", name, color)
		}
		made = append(made, Manifest{
			File: manifest.File{
				Path: f.Path,
				Hash: "colors " + f.Hash,
				Data: func() ([]byte, error) { return []byte(text.String()), nil },
			},
			Origin: func(line int) origin.Origin { return origin.Origin{File: f.Path, Line: (line-1)/5 + 1} },
		})
	}
	return made, left, errs
}

func file(path, text string) manifest.File {
	return manifest.File{Path: path, Hash: text, Data: func() ([]byte, error) { return []byte(text), nil }}
}

const settings = "# first\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: blue}\n"

// TestOrigins: objects and errors are where somebody wrote them, whether the manifest is a file or was made of one.
func TestOrigins(t *testing.T) {
	r := NewReader(append([]Renderer{colors{}}, All()...)...)
	read := func(files ...manifest.File) string {
		set, errs := r.Read(t.Context(), files, manifest.Options{})
		if len(errs) > 0 {
			return errs.Error()
		}
		var lines []string
		for _, o := range set.Objects {
			lines = append(lines, o.Key.Name+" "+o.Origin.Place()+" "+set.ErrorAt(o.Key, "data.color", "bad").Error())
		}
		return strings.Join(lines, "\n")
	}
	for name, c := range map[string]struct {
		files []manifest.File
		want  string
	}{
		"nothing": {nil, ""},
		"plain":   {[]manifest.File{file("a.yaml", settings)}, "settings a.yaml:2 a.yaml:5:8: ConfigMap default/settings: data.color: bad"},
		"both": {[]manifest.File{file("a.yaml", settings), file("colors/b.yaml", "tea color: green\nsky color: blue")},
			strings.Join([]string{
				"settings a.yaml:2 a.yaml:5:8: ConfigMap default/settings: data.color: bad",
				"sky colors/b.yaml:2 colors/b.yaml:2:1: ConfigMap default/sky: data.color: bad",
				"tea colors/b.yaml:1 colors/b.yaml:1:1: ConfigMap default/tea: data.color: bad"}, "\n")},
		"an error in what was made": {[]manifest.File{file("colors/b.yaml", "tea color: green\nsky color: 7")},
			"colors/b.yaml:2:1: ConfigMap default/sky: data[color]: wrong type"},
		"an error of the renderer": {[]manifest.File{file("colors/b.yaml", "tea color: green\nsky")}, "colors/b.yaml:2:1: has no color"},
		"an error beside it":       {[]manifest.File{file("a.yaml", "kind: [\n"), file("colors/b.yaml", "tea color: green")}, "a.yaml:"},
		"the same object twice": {[]manifest.File{file("a.yaml", settings), file("colors/b.yaml", "tea color: green\nsettings color: red")},
			"colors/b.yaml:2:1: ConfigMap default/settings: the same object is stated twice, first at a.yaml:2:1"},
	} {
		if got := read(c.files...); got != c.want && (c.want == "" || !strings.HasPrefix(got, c.want)) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
		slices.Reverse(c.files)
		if got := read(c.files...); c.want != "" && !strings.HasPrefix(got, c.want) {
			t.Errorf("%s, in another order:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

// TestPlain: every file is its own manifest, and nothing is read before it is asked for.
func TestPlain(t *testing.T) {
	unread := manifest.File{Path: "a.yaml", Hash: "1", Data: func() ([]byte, error) {
		t.Error("the file was read")
		return nil, nil
	}}
	made, left, errs := Plain{}.Render(t.Context(), []manifest.File{unread, {Path: "b.json", Hash: "2"}})
	if len(made) != 2 || made[0].Path != "a.yaml" || made[1].Hash != "2" || made[0].Origin != nil || len(left) != 0 || len(errs) != 0 {
		t.Errorf("made %v, left %v, %v", made, left, errs)
	}
}
