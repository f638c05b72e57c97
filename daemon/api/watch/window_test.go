package watch

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"lockstep/kinds"
	"lockstep/store/memory"
	"lockstep/store/view"
)

// TestWindowIsBounded changes an object over and over: a window of small states goes back its whole length, one of large
// states as far as they fit, and neither further than that for long.
func TestWindowIsBounded(t *testing.T) {
	kind := kinds.For[*corev1.ConfigMap]()
	all := &Filter{kind: kind, labels: labels.Everything(), fields: fields.Everything()}
	for _, test := range []struct {
		name   string
		bytes  int
		events int
		least  int // events that a watch may go back
		most   int // events kept
	}{
		{"small", 100, 5 * windowEvents, windowEvents, windowEvents + windowSlack},
		{"large", 1 << 20, 1000, 40, windowBytes >> 20},
	} {
		w := newWindow(kind, New(Options{Store: memory.New()}), 0)
		text := strings.Repeat("x", test.bytes)
		state := func() kinds.Object {
			o := configMap("m")
			o.Data = map[string]string{"text": text}
			return o
		}
		last := state()
		for rev := int64(1); rev <= int64(test.events); rev++ {
			next := state()
			w.append(rev, []traced{{Change: view.Change{Key: kinds.KeyOf(next), Old: last, New: next, Revision: rev}}})
			last = next
			held, sent := 0, 0
			for _, e := range w.events {
				held += e.holds
				if !e.added.retired {
					sent += e.sends
				}
			}
			if len(w.events) > test.most || held > windowBytes || sent > encodedBytes || held != w.held || sent != w.sent {
				t.Fatalf("%s: after %d events it has %d, of %d bytes (counted %d), %d of them with encodings (counted %d)",
					test.name, rev, len(w.events), held, w.held, sent, w.sent)
			}
		}
		if _, err := w.seek(int64(test.events-test.least), false, all); err != nil {
			t.Errorf("%s: %d events back: %v", test.name, test.least, err)
		}
		if _, err := w.seek(int64(test.events-test.most-1), false, all); !apierrors.IsResourceExpired(err) {
			t.Errorf("%s: further back than it may: %v", test.name, err)
		}
	}
}
