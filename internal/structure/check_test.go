package structure

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// few is how many of the test programs of `make check` may link Kubernetes' own packages: each takes two seconds of a
// processor, so a dozen of them a quarter of the minute that two processors have.
const few = 12

// TestCheckIsSmall holds `make check` to what it promises: every package with tests is run or left with a reason, each reason
// is true of somebody, and few of the large programs are linked.
func TestCheckIsSmall(t *testing.T) {
	out, err := exec.Command(root+"/check.sh", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	run, left, reasons := []string{}, map[string]string{}, map[string]int{}
	for line := range strings.Lines(string(out)) {
		does, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, why, _ := strings.Cut(rest, " ")
		switch {
		case does == "run" && why == "":
			run = append(run, name)
		case does == "left" && why != "":
			left[name] = why
			reasons[why]++
		default:
			t.Errorf("check.sh list says %q", line)
		}
	}
	for dir, files := range packages(t) {
		name := "lockstep/" + dir
		_, isLeft := left[name]
		if slices.ContainsFunc(files, file.test) && slices.Contains(run, name) == isLeft {
			t.Errorf("%s has tests, and make check neither runs nor leaves it, or does both", name)
		}
	}
	for _, why := range []string{"needs root", "links etcd", "links Git", "links kubectl"} {
		if reasons[why] == 0 {
			t.Errorf("no package %s: take it out of check.sh, or name there what has become of it", why)
		}
	}
	large := 0
	for program, packages := range linked(t, run) {
		if slices.Contains(packages, "k8s.io/kubernetes/pkg/registry/core/pod") {
			large++
			t.Logf("%s links Kubernetes", program)
		}
	}
	if large == 0 || large > few {
		t.Errorf("%d test programs of make check link Kubernetes, %d are the most: have one program try several packages", large, few)
	}
}

// linked returns the packages that each test program of the packages links, by the program's name.
func linked(t *testing.T, packages []string) map[string][]string {
	t.Helper()
	const format = `{{if eq .Name "main"}}{{.ImportPath}} {{join .Deps " "}}{{end}}`
	out, err := exec.Command("go", append([]string{"list", "-test", "-f", format}, packages...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 0 && strings.HasSuffix(words[0], ".test") {
			programs[words[0]] = words[1:]
		}
	}
	return programs
}
