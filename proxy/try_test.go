package proxy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/proxy/rules"
)

// TestTry has rules of every form written, and leaves this namespace alone.
func TestTry(t *testing.T) {
	needsKernel(t)
	saved := func() string { // without its comments, which tell the time
		var rules strings.Builder
		for line := range strings.Lines(command(t, "iptables-save")) {
			if !strings.HasPrefix(line, "#") {
				rules.WriteString(line)
			}
		}
		return rules.String()
	}
	before := saved()
	must(t, Try(t.Context()))
	if after := saved(); after != before {
		t.Errorf("the namespace's own rules changed:\n%s", after)
	}
	want := []string{"MASQUERADE", "DNAT", "REJECT", "statistic", "recent", "mark"}
	text, _ := toward(observed{}, rules.NewCompiler(rules.IPv4).Compile(example()).Chains, nil).text()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("the example has no rule with %s", w)
		}
	}
}

func TestTryTellsWhatIsMissing(t *testing.T) {
	needsKernel(t)
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if err := Try(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot find iptables") {
		t.Errorf("without any program: %v", err)
	}
	for _, name := range []string{"iptables-nft-restore", "iptables-nft-save"} {
		must(t, os.WriteFile(filepath.Join(dir, name),
			[]byte("#!/bin/sh\necho 'RULE_APPEND failed (No such file or directory)' >&2; exit 4\n"), 0o755))
	}
	if err := Try(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot write service rules: ") ||
		!strings.Contains(err.Error(), "RULE_APPEND failed") {
		t.Errorf("where the kernel refuses the rules: %v", err)
	}
}
