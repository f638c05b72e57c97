package plan

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestUnreadable has a stated object be stored so that it cannot be read: it is neither made, changed nor pruned, whether something is
// known of it or not, and the reason is told.
func TestUnreadable(t *testing.T) {
	live := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", ResourceVersion: "1"}}
	key := kinds.KeyOf(live)
	stated := []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"namespace":"shop","name":"a"},"data":{"a":"Yg=="}}`)
	for name, known := range map[string]bool{"nothing is known": false, "an earlier state is": true} {
		db := view.NewDB()
		if known {
			db.Apply(1, []view.Change{{Key: key, New: live}})
		}
		db.Apply(2, []view.Change{{Key: key, Unreadable: "it was damaged"}})
		for _, state := range []State{Applied, Pending, Pruning} {
			entry := Desired{Source: "apps", Key: key, Object: stated, State: state}
			steps := Reconcile([]Desired{entry}, db.View(), Rules{}, time.Now())
			if len(steps) != 1 || steps[0].Verb != Refuse || !strings.Contains(steps[0].Reason, "cannot be read: it was damaged") {
				t.Errorf("%s, %q: %+v", name, state, steps)
			}
		}
	}
}
