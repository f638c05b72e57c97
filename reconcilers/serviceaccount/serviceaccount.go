// Package serviceaccount gives every namespace its default ServiceAccount.
package serviceaccount

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// New returns the reconciler of default service accounts.
func New() loop.Reconciler {
	return loop.Reconciler{
		Name:      "serviceaccount",
		Component: "serviceaccount-controller",
		Owner:     kinds.For[*corev1.Namespace](),
		Reads: []loop.Read{{
			Kind:    kinds.For[*corev1.ServiceAccount](),
			How:     "the default one: its namespace",
			Keys:    loop.NamespaceKeys(kinds.DefaultAccount),
			Changed: func(old, new kinds.Object) bool { return false },
		}},
		Writes: []loop.Write{{Kind: kinds.For[*corev1.ServiceAccount](), Create: true}},
		Decide: decide,
	}
}

func decide(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) {
	ns, ok := v.Get(key).(*corev1.Namespace)
	if !ok || ns.DeletionTimestamp != nil {
		return loop.Decision{}, nil
	}
	if _, ok := view.Get[*corev1.ServiceAccount](v, ns.Name, kinds.DefaultAccount); ok {
		return loop.Decision{}, nil
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: kinds.DefaultAccount}}
	return loop.Decision{Wants: []loop.Want{{Object: account, Reason: "every namespace has one"}}}, nil
}
