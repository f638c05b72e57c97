package userns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRanges gives ranges to pods that come and go, and wants that no two ever have the same, that each keeps its own, also
// for an agent that starts anew, and that the lowest free one is next.
func TestRanges(t *testing.T) {
	r := &Ranges{Dir: t.TempDir(), Available: Default()}
	take := func(uid string, want uint32) {
		t.Helper()
		if got, err := r.Take(types.UID(uid)); err != nil || got != want*Length {
			t.Errorf("%s has %d, %v, want %d", uid, got, err, want*Length)
		}
	}
	take("a", 1)
	take("b", 2)
	take("a", 1)
	if err := os.RemoveAll(filepath.Join(r.Dir, "a")); err != nil {
		t.Fatal(err)
	}
	r = &Ranges{Dir: r.Dir, Available: r.Available}
	take("b", 2)
	take("c", 1)
	take("d", 3)
	data, err := os.ReadFile(filepath.Join(r.Dir, "d", "userns"))
	const want = `{"uidMappings":[{"hostId":196608,"containerId":0,"length":65536}],` +
		`"gidMappings":[{"hostId":196608,"containerId":0,"length":65536}]}`
	if err != nil || string(data) != want {
		t.Errorf("the record is %s, %v", data, err)
	}
	if err := os.WriteFile(filepath.Join(r.Dir, "b", "userns"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Take("e"); err == nil || !strings.Contains(err.Error(), "of pod b") {
		t.Errorf("with a record that cannot be read, who had which is not known: %v", err)
	}
}

func TestRangesTogether(t *testing.T) {
	r := &Ranges{Dir: t.TempDir(), Available: Range{First: 10 * Length, Count: MaxPods * Length}}
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := map[uint32]bool{}
	for i := range MaxPods {
		all.Go(func() {
			first, err := r.Take(types.UID(fmt.Sprint(i)))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[first] || !r.Available.holds(first) {
				t.Errorf("%d, %v", first, err)
			}
			seen[first] = true
		})
	}
	all.Wait()
	if first, err := r.Take("one more"); err == nil || !strings.Contains(err.Error(), "could not find an empty slot") {
		t.Errorf("one more pod has %d, %v", first, err)
	}
}

func TestAvailable(t *testing.T) {
	if err := Default().check(); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"0: kubelet 65536 7208960\n":                              "",
		"0: kubelet 65536 7208960\n1: kubelet 165536 65536\n":     "it must contain only one line",
		"0: kubelet 65536\n":                                      "invalid line",
		"":                                                        "invalid line",
		"0: kubelet -1 7208960\n":                                 "error parsing line",
		"0: kubelet 4294967296 7208960\n":                         "error parsing line",
		"0: kubelet 65537 7208960\n":                              "is not a multiple",
		"0: kubelet 0 7208960\n":                                  "must be greater or equal",
		"0: kubelet 65536 7208961\n":                              "is not a multiple",
		"0: kubelet 65536 65536\n":                                "are not enough to support 110 pods",
		fmt.Sprintf("0: kubelet 4294901760 %d\n", 7208960):        "end beyond",
		fmt.Sprintf("0: kubelet 65536 %d\n", uint32(4294901760)):  "",
		fmt.Sprintf("0: kubelet 131072 %d\n", uint32(4294901760)): "end beyond",
	} {
		r, err := parse(text)
		if err == nil {
			err = r.check()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %+v, %v, want %q", text, r, err, want)
		}
	}
}
