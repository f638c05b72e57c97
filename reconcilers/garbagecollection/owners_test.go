package garbagecollection

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestUnreadableOwner has an owner be stored so that it cannot be read: what it owns stays; what others own that are gone does not.
func TestUnreadableOwner(t *testing.T) {
	owned := func(name, owner string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Secret", Name: owner, UID: "uid-of-owner"}}}}
	}
	stays, goes := owned("stays", "a"), owned("goes", "b")
	db := view.NewDB()
	db.Apply(1, []view.Change{
		{Key: kinds.KeyOf(stays), New: stays}, {Key: kinds.KeyOf(goes), New: goes},
		{Key: kinds.For[*corev1.Secret]().Key("shop", "a"), Unreadable: "it was damaged"},
	})
	for _, o := range []*corev1.ConfigMap{stays, goes} {
		d, err := decideOwned(db.View(), kinds.KeyOf(o), time.Now())
		if err != nil || (len(d.Drops) > 0) != (o == goes) {
			t.Errorf("%s: %+v, %v", o.Name, d, err)
		}
		_ = dependents(db.View(), o)
	}
}
