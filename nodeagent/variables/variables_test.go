package variables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// TestAsKubernetes compares with Kubernetes' own function.
func TestAsKubernetes(t *testing.T) {
	mapping := expansion.MappingFuncFor(map[string]string{"A": "1", "": "nothing", "B": "$(A)", "é": "e"})
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		var b strings.Builder
		for range r.IntN(12) {
			b.WriteString([]string{"$", "$", "(", ")", "A", "B", "é", " "}[r.IntN(8)])
		}
		text := b.String()
		got, err := Expand(text, Most, mapping)
		if want := expansion.Expand(text, mapping); got != want || err != nil {
			t.Fatalf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}

// TestBombs: what a small manifest makes large, or takes long to read, neither takes the node's memory nor its time.
func TestBombs(t *testing.T) {
	kilobyte := func(string) string { return strings.Repeat("x", 1<<10) }
	if got, err := Expand(strings.Repeat("$(A)", 6<<10), Most, kilobyte); len(got) != Most || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	asked := 0
	_, err := Expand(strings.Repeat("$(A)", 200_000), Most, func(name string) string { asked++; return kilobyte(name) })
	if !errors.Is(err, ErrTooLong) || asked > 7<<10 {
		t.Errorf("%v after %d", err, asked)
	}
	began := time.Now()
	for _, text := range []string{strings.Repeat("$(", 500_000), "$(A)" + strings.Repeat("$(", 500_000)} {
		if got, err := Expand(text, Most, func(string) string { return "" }); len(got) != 1_000_000 || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if took := time.Since(began); took > 10*time.Second { // 5 ms; a minute and more where the end is looked for from each
		t.Error(fmt.Sprint("names without an end took ", took))
	}
}
