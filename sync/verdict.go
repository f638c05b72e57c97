package sync

import (
	"fmt"

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
		return forge.Success, count(f.roll.Total) + " in sync and healthy"
	}
	text := fmt.Sprintf("rolling out %d of %d", f.roll.Healthy, f.roll.Total)
	switch {
	case len(f.waiting) > 0:
		text += fmt.Sprintf("; %v: %s", f.waiting[0].Key, f.waiting[0].Reason)
	case f.roll.First != "":
		text += "; " + f.roll.First
	}
	return forge.Pending, text
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
