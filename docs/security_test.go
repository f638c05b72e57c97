package docs

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bound is a row of the table of bounds in security.md: | what | number | `folder.constant` |.
var bound = regexp.MustCompile("(?m)^\\| (.+) \\| ([^|]+) \\| `([a-z0-9/]+)\\.([A-Za-z.]+)` \\|$")

// TestBounds holds the numbers of security.md against the constants that the program uses.
func TestBounds(t *testing.T) {
	page := pages(t)["security.md"]
	rows := bound.FindAllStringSubmatch(page, -1)
	for _, row := range rows {
		what, text, folder, name := row[1], row[2], row[3], row[4]
		want, err := quantity(text)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got, err := evaluate(filepath.Join("..", folder), name)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if !constant.Compare(got, token.EQL, want) {
			t.Errorf("%s: the page says %s, %s.%s is %v", what, text, folder, name, got)
		}
	}
	_, table, _ := strings.Cut(page, "| what | bound | in the code |\n")
	if want := strings.Count(table, "\n| "); len(rows) < 20 || len(rows) != want {
		t.Errorf("%d bounds can be read, of %d rows", len(rows), want)
	}
}

// TestNamedTests finds every test that security.md names behind a claim.
func TestNamedTests(t *testing.T) {
	known := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
			known[strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")+" "+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+) (Test\\w+)`").FindAllStringSubmatch(pages(t)["security.md"], -1)
	for _, m := range named {
		if !known[m[1]+" "+m[2]] {
			t.Errorf("security.md names %s in %s, which is not there", m[2], m[1])
		}
	}
	if len(named) < 10 {
		t.Errorf("found %d named tests", len(named))
	}
}

// units of the page's numbers; durations are nanoseconds, as in Go.
var units = map[string]int64{
	"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	"ms": int64(time.Millisecond), "s": int64(time.Second), "min": int64(time.Minute), "h": int64(time.Hour), "days": 24 * int64(time.Hour),
}

// quantity reads "20,000", "3 MiB", "60 s".
func quantity(text string) (constant.Value, error) {
	number, unit, _ := strings.Cut(strings.TrimSpace(text), " ")
	n, err := strconv.ParseInt(strings.ReplaceAll(number, ",", ""), 10, 64)
	factor, known := units[unit]
	if err != nil || !known {
		return nil, fmt.Errorf("cannot read %q as a number and a unit", text)
	}
	return constant.MakeInt64(n * factor), nil
}

// evaluate finds a package's constant or variable, or the value that a literal of a struct gives a field ("Limits.Pack"), and
// computes it.
func evaluate(folder, name string) (constant.Value, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	values := map[string]ast.Expr{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, v := range n.Values {
					values[n.Names[i].Name] = v
				}
			case *ast.CompositeLit:
				for _, e := range n.Elts {
					if field, ok := e.(*ast.KeyValueExpr); ok && n.Type != nil {
						values[nameOf(n.Type)+"."+nameOf(field.Key)] = field.Value
					}
				}
			}
			return true
		})
	}
	return compute(&ast.Ident{Name: name}, values)
}

func compute(e ast.Expr, values map[string]ast.Expr) (constant.Value, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0), nil
	case *ast.ParenExpr:
		return compute(e.X, values)
	case *ast.Ident:
		if value, ok := values[e.Name]; ok {
			return compute(value, values)
		}
	case *ast.SelectorExpr:
		known := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}
		if d, ok := known[e.Sel.Name]; ok {
			return constant.MakeInt64(int64(d)), nil
		}
	case *ast.CallExpr: // a conversion
		if len(e.Args) == 1 {
			return compute(e.Args[0], values)
		}
	case *ast.BinaryExpr:
		x, err := compute(e.X, values)
		if err != nil {
			return nil, err
		}
		y, err := compute(e.Y, values)
		if err != nil {
			return nil, err
		}
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, token.SHL, uint(n)), nil
		}
		return constant.ToInt(constant.BinaryOp(x, e.Op, y)), nil
	}
	return nil, fmt.Errorf("cannot compute %s: %T is no plain constant", nameOf(e), e)
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return nameOf(e.X) + "." + e.Sel.Name
	}
	return "a value"
}
