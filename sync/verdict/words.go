package verdict

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"lockstep/kinds/v1alpha1"
)

// invalidValue is how Kubernetes' validation begins to say which value of a field is wrong.
const invalidValue = ": Invalid value: "

// refusal words why the newest revision is not applied, before it is cut to length.
func refusal(s Seen) string {
	switch n := len(s.Refusal); {
	case n == 1:
		return s.Refusal[0]
	case n > 1:
		return and(s.Refusal[0], fmt.Sprintf(" (and %d more)", n-1))
	}
	return s.Held
}

// and ends a text with what is not to be cut off.
func and(text, more string) string { return shorten(text, MaxDescription-len(more)) + more }

// outcome gives the verdict on the accepted revision, with its text before it is cut to length.
func outcome(a Accepted, folder bool) (State, string) {
	applied := a.Applied == a.Revision
	switch {
	case a.Refused != nil:
		return Failure, a.Refused.text()
	case a.Roll.Failed && a.Roll.Others == 1:
		return Failure, and(a.Roll.First, " (and 1 other)")
	case a.Roll.Failed && a.Roll.Others > 1:
		return Failure, and(a.Roll.First, fmt.Sprintf(" (and %d others)", a.Roll.Others))
	case a.Roll.Failed:
		return Failure, a.Roll.First
	case applied && a.Roll.Total == 0 && folder && a.LeftOut == "":
		return Success, "warning: no manifests (.yaml, .yml, .json) in the folder"
	case applied && a.Roll.Healthy == a.Roll.Total:
		return Success, wasHealthy(a)
	}
	text := fmt.Sprintf(rolling+"%d of %d", a.Roll.Healthy, a.Roll.Total)
	switch {
	case a.Waiting != nil:
		text += "; " + a.Waiting.text()
	case a.Roll.First != "":
		text += "; " + a.Roll.First
	}
	return Pending, text
}

const rolling = "rolling out "

func wasHealthy(a Accepted) string {
	text := Count(a.Roll.Total) + " in sync and healthy"
	if a.LeftOut != "" {
		text += "; " + a.LeftOut
	}
	switch n := len(a.Warnings); {
	case n == 1:
		text += "; 1 warning"
	case n > v1alpha1.MaxWarnings:
		text += fmt.Sprintf("; over %d warnings", v1alpha1.MaxWarnings)
	case n > 1:
		text += fmt.Sprintf("; %d warnings", n)
	}
	return text
}

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

func (s Step) text() string { return s.Key.String() + ": " + s.Reason }

// superseded words what became of a revision that a newer one came before.
func superseded(by, before string) string {
	return "superseded by " + v1alpha1.ShortRevision(by) + " before it was " + before
}

// Count writes how many objects: "1 object", "12 objects".
func Count(n int) string {
	if n == 1 {
		return "1 object"
	}
	return fmt.Sprintf("%d objects", n)
}

func waitForForge(n int) string {
	if n == 1 {
		return "1 commit status waits for the forge"
	}
	return fmt.Sprintf("%d commit statuses wait for the forge", n)
}

// shorten cuts a text to n characters; see Cut.
func shorten(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	if text = withoutValue(text); utf8.RuneCountInString(text) <= n {
		return text
	}
	remedy := ""
	if at := strings.LastIndex(text, "; "); at >= 0 {
		text, remedy = text[:at], text[at:]
	}
	return ended(ended(text, max(n-utf8.RuneCountInString(remedy), n/2))+remedy, n)
}

// withoutValue leaves out the object or list that is said to be invalid: what is wrong with it stands behind it.
func withoutValue(text string) string {
	head, value, _ := strings.Cut(text, invalidValue)
	if !strings.HasPrefix(value, "{") && !strings.HasPrefix(value, "[") {
		return text
	}
	d := json.NewDecoder(strings.NewReader(value))
	if err := d.Decode(new(json.RawMessage)); err != nil {
		return text
	}
	return head + invalidValue + value[:1] + "…" + value[d.InputOffset()-1:]
}

// ended cuts the end of a text of more than n characters.
func ended(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}
