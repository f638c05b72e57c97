package sync

import (
	"fmt"
	"strings"

	"lockstep/sync/forge"
	"lockstep/sync/health"
	"lockstep/sync/plan"
)

// facts are what a verdict on a revision is judged from.
type facts struct {
	errors  []string // why the revision is refused, the first cause first
	held    string   // why it is held
	folder  bool     // it is a folder's
	applied bool     // every step of it has been carried out
	waiting []plan.Step
	refused []plan.Step
	roll    health.Roll
}

// judge gives the verdict on a revision, with its text before it is cut to length.
func judge(f facts) (forge.State, string) {
	switch {
	case len(f.errors) == 1:
		return forge.Error, f.errors[0]
	case len(f.errors) > 1:
		more := fmt.Sprintf(" (and %d more)", len(f.errors)-1)
		return forge.Error, shorten(f.errors[0], forge.MaxDescription-len(more)) + more
	case f.held != "":
		return forge.Error, f.held
	case len(f.refused) > 0:
		return forge.Failure, fmt.Sprintf("%v: %s", f.refused[0].Key, f.refused[0].Reason)
	case f.roll.Failed:
		return forge.Failure, f.roll.First
	case f.applied && f.roll.Total == 0 && f.folder:
		return forge.Success, "warning: no manifests (.yaml, .yml, .json) in the folder"
	case f.applied && f.roll.Healthy == f.roll.Total:
		return forge.Success, wasHealthy(f.roll)
	}
	text := fmt.Sprintf(rolling+"%d of %d", f.roll.Healthy, f.roll.Total)
	switch {
	case len(f.waiting) > 0:
		text += fmt.Sprintf("; %v: %s", f.waiting[0].Key, f.waiting[0].Reason)
	case f.roll.First != "":
		text += "; " + f.roll.First
	}
	return forge.Pending, text
}

const rolling = "rolling out "

func wasHealthy(roll health.Roll) string { return count(roll.Total) + " in sync and healthy" }

// lostText words a message on a revision that was healthy before: nothing is rolled out.
func lostText(message string) string {
	counts, ok := strings.CutPrefix(message, rolling)
	if !ok {
		return message
	}
	counts, cause, _ := strings.Cut(counts, "; ")
	if cause == "" {
		return counts + " healthy"
	}
	return counts + " healthy; " + cause
}

// saying is a cause in the words in which it was told first: it is told anew when its meaning changes, not when time passes.
// The zero value has said nothing.
type saying struct{ meaning, text string }

func (s *saying) of(roll health.Roll) string {
	if s.meaning != roll.Meaning {
		s.meaning, s.text = roll.Meaning, roll.First
	}
	return s.text
}

func count(n int) string {
	if n == 1 {
		return "1 object"
	}
	return fmt.Sprintf("%d objects", n)
}

// shorten cuts a text to n characters.
func shorten(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}
