package pod

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// redacted is an error whose text lacks the values of Secrets; what it wraps is for errors.As and errors.Is only.
type redacted struct {
	text string
	err  error
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.err }

// hidden stands for a value in a text.
const hidden = "[secret]"

// wordLength is up to which a value is hidden only where it stands as a word of its own: a secret "1" must not make
// every message unreadable.
const wordLength = 5

// redact takes the values of secrets out of an error's text. A runtime's error names the program or the path that it
// could not find, and both can be expanded from a Secret.
func redact(err error, secrets map[string]*corev1.Secret) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, value := range values(secrets) {
		if len(value) > wordLength {
			text = strings.ReplaceAll(text, value, hidden)
		} else if strings.Contains(text, value) {
			word := regexp.MustCompile(`(^|[^\pL\pN])` + regexp.QuoteMeta(value) + `($|[^\pL\pN])`)
			text = word.ReplaceAllString(text, "${1}"+hidden+"${2}")
		}
	}
	if text == err.Error() {
		return err
	}
	return &redacted{text, err}
}

// values are what may stand for the secrets' values in a text, the longest first: as they are, without the space around
// them, and quoted.
func values(secrets map[string]*corev1.Secret) []string {
	set := map[string]bool{}
	for _, s := range secrets {
		if s == nil {
			continue
		}
		for _, raw := range s.Data {
			for _, value := range []string{string(raw), strings.TrimSpace(string(raw))} {
				quoted := strconv.Quote(value)
				set[value], set[quoted[1:len(quoted)-1]] = true, true
			}
		}
	}
	delete(set, "")
	return slices.SortedFunc(maps.Keys(set), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
}
