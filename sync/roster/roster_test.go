package roster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/v1alpha1"
)

func source(name, url string) v1alpha1.Source {
	return v1alpha1.Source{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.SourceSpec{URL: url}}
}

// live is a Source object as the store has it.
func live(name, url string) *v1alpha1.Source {
	s := source(name, url)
	s.ResourceVersion, s.Status.State = "7", "success"
	return &s
}

func TestDecide(t *testing.T) {
	const a, b, secret = "https://git.example/a", "https://git.example/b", "https://git.example/a?token=s3cret"
	for name, c := range map[string]struct {
		in   Input
		want string
	}{
		"nothing": {Input{}, ""},
		"a fresh cluster": {Input{Begin: true, Configured: []v1alpha1.Source{source("shop", a)}},
			"create shop " + a + ", follow shop " + a},
		"another start": {Input{
			Begin:      true,
			Configured: []v1alpha1.Source{source("shop", a)},
			Live:       []*v1alpha1.Source{live("shop", a)},
			Known:      []string{"shop"},
		}, "follow shop " + a},
		"configured anew": {Input{
			Begin:      true,
			Configured: []v1alpha1.Source{source("shop", b)},
			Live:       []*v1alpha1.Source{live("shop", a)},
			Known:      []string{"shop"},
		}, "update shop " + b + ", follow shop " + b},
		"no longer configured": {Input{Begin: true, Live: []*v1alpha1.Source{live("shop", a)}, Known: []string{"shop", "shop"}},
			"release shop, remove shop"},
		"configured elsewhere": {Input{Begin: true, Shared: true, Live: []*v1alpha1.Source{live("shop", a)}, Known: []string{"shop"}},
			"follow shop " + a},
		"no longer configured here, in a cluster of several": {Input{
			Begin: true, Shared: true, Dropped: []string{"shop"},
			Live:  []*v1alpha1.Source{live("shop", a), live("till", b)},
			Known: []string{"shop", "till"},
		}, "release shop, remove shop, follow till " + b},
		"its object is gone": {Input{Begin: true, Known: []string{"shop"}}, "release shop"},
		"one that came": {Input{
			Configured: []v1alpha1.Source{source("shop", a)},
			Live:       []*v1alpha1.Source{live("till", b), live("shop", a), live("cart", b)},
		}, "follow shop " + a + ", follow cart " + b + ", follow till " + b},
		"one that went": {Input{
			Configured: []v1alpha1.Source{source("shop", a)},
			Live:       []*v1alpha1.Source{live("shop", a)},
			Known:      []string{"till", "shop"},
		}, "release till, follow shop " + a},
		"deleted by hand": {Input{Configured: []v1alpha1.Source{source("shop", a)}, Known: []string{"shop"}},
			"create shop " + a + ", follow shop " + a},
		"altered by hand": {Input{Configured: []v1alpha1.Source{source("shop", a)}, Live: []*v1alpha1.Source{live("shop", b)}},
			"update shop " + a + ", follow shop " + a},
		"what viewers may not see": {Input{
			Configured: []v1alpha1.Source{source("shop", secret)},
			Live:       []*v1alpha1.Source{live("shop", a+"?token=REDACTED")},
		}, "follow shop " + secret},
	} {
		if got := text(Decide(c.in)); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
		slices.Reverse(c.in.Live)
		slices.Reverse(c.in.Known)
		if got := text(Decide(c.in)); got != c.want {
			t.Errorf("%s, in another order: %s", name, got)
		}
	}
}

func text(r Roster) string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, s := range r.Write {
		verb := "create"
		if s.ResourceVersion != "" {
			verb = "update"
		}
		if (s.Status.State == "success") != (verb == "update") || s.Kind != "Source" && verb == "create" {
			verb = "spoil"
		}
		say("%s %s %s", verb, s.Name, s.Spec.URL)
	}
	for _, name := range r.Release {
		say("release %s", name)
	}
	for _, s := range r.Remove {
		say("remove %s", s.Name)
	}
	for _, s := range r.Follow {
		say("follow %s %s", s.Name, s.Spec.URL)
	}
	return strings.Join(out, ", ")
}
