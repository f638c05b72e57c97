package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"lockstep/daemon/control"
	"lockstep/kinds/v1alpha1"
)

// hostile is what somebody may write to take over the terminal of whoever looks: a title, colours, a second line, another
// order of characters, a control character of the second range, no UTF-8.
const hostile = "x\x1b]0;owned\x07\x1b[31m\r\nFAKE\u202e\u009b2J\xff"

// wantPlain finds what a terminal would act on. Only lines and, in tables, nothing else may be there.
func wantPlain(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && r != '\u200d' && !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			t.Errorf("%s has %q in\n%q", what, r, text)
			return
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "FAKE") {
			t.Errorf("%s has a forged line:\n%s", what, text)
		}
	}
}

func TestHostileTextIsPlainInEveryOutput(t *testing.T) {
	r := control.Report{
		Cluster: hostile, Version: hostile, Ready: hostile,
		Nodes: []control.NodeReport{{Name: hostile}, {Name: "b" + hostile, Ready: true}},
		Sources: []control.SourceReport{{
			Name: hostile, Where: hostile, Addresses: []string{hostile},
			Objects: []control.ObjectReport{
				{Object: hostile, File: hostile, State: hostile, Cause: hostile},
				{Object: "a" + hostile, File: hostile, State: "failed"},
			},
			Status: v1alpha1.SourceStatus{
				Seen: hostile, Accepted: "b" + hostile, State: hostile, Message: hostile, FetchError: hostile,
				ForgeError: hostile, Drift: hostile, Errors: []string{hostile, "another " + hostile},
			},
		}},
	}
	for name, print := range map[string]func(io.Writer){
		"status": func(w io.Writer) { _ = printReport(w, r, dirFlags{defaultData, defaultRun}) },
		"progress": func(w io.Writer) {
			p := newProgress(&screen{out: w})
			p.show(r)
			p.opened(r)
		},
		"an error": func(w io.Writer) {
			Tell(w, fmt.Errorf("cannot: %w", errors.New(strings.ReplaceAll(hostile, "\n", ""))))
		},
		"log, text": func(w io.Writer) { logHostile(t, w, "text") },
		"log, JSON": func(w io.Writer) { logHostile(t, w, "json") },
	} {
		var out bytes.Buffer
		print(&out)
		if !strings.Contains(out.String(), "owned") {
			t.Errorf("%s says nothing of it: %q", name, out.String())
		}
		wantPlain(t, name, out.String())
	}
	var out bytes.Buffer
	s := &screen{out: &out, width: func() int { return 500 }}
	s.keep(hostile)
	wantPlain(t, "the status line", strings.ReplaceAll(out.String(), eraseLine, ""))
}

func logHostile(t *testing.T, w io.Writer, format string) {
	flags := logFlags{level: "debug", format: format}
	log, err := flags.logger(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	log.With("with", hostile).WithGroup("group").Warn(hostile, "text", hostile, "error", errors.New(hostile),
		"nested", slog.GroupValue(slog.String("a", hostile)), "list", []string{hostile})
}
