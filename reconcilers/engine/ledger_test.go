package engine

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestPromisesCount: what one decision creates counts for all others until a view has it or it is known to be written by nobody.
func TestPromisesCount(t *testing.T) {
	db := view.NewDB()
	put := func(revision int64, objects ...kinds.Object) {
		var changes []view.Change
		for _, o := range objects {
			changes = append(changes, view.Change{Key: kinds.KeyOf(o), New: o})
		}
		db.Apply(revision, changes)
	}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "few", UID: "few"}}
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("2")}
	put(1, quota)
	made := 0
	secret := func(namespace string) *corev1.Secret {
		made++
		name := fmt.Sprint("s", made)
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	var l ledger
	charge := func(o kinds.Object, allowed bool) {
		t.Helper()
		c := charging{ledger: &l, view: db.View, now: time.Unix(0, 0)}
		defer c.close()
		if err := c.charge(o); (err == nil) != allowed {
			t.Errorf("secret %d is allowed: %v, want %v", made, err == nil, allowed)
		}
	}
	first, second := secret("shop"), secret("shop")
	charge(first, true)
	charge(second, true)
	charge(secret("shop"), false)
	charge(secret("store"), true)

	l.written(second, 0, errors.New("conflict"))
	charge(secret("shop"), true)
	charge(secret("shop"), false)

	// Written, and in the view: it counts once, whether the ledger has heard of either or not.
	put(2, first)
	charge(secret("shop"), false)
	l.written(first, 2, nil)
	charge(secret("shop"), false)
	l.reached(2)
	charge(secret("shop"), false)
	if len(l.promised) != 1 {
		t.Errorf("%d are promised, want the one that is not in the view", len(l.promised))
	}
	db.Apply(3, []view.Change{{Key: kinds.KeyOf(first), Old: first}})
	charge(secret("shop"), true)
}
