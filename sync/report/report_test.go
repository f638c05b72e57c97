package report

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
	"lockstep/sync/origin"
	"lockstep/sync/plan"
)

func TestOf(t *testing.T) {
	there := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "prices"}}
	leaving := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "old"}}
	absent := kinds.For[*corev1.ConfigMap]().Key("shop", "new")
	r := Of([]plan.Desired{
		{Key: absent, Origin: origin.Origin{File: "a.yaml", Line: 3}},
		{Key: kinds.KeyOf(leaving), State: plan.Pruning},
		{Key: kinds.KeyOf(there), Origin: origin.Origin{File: "a.yaml", Line: 9}, Commit: "c1"},
	}, view.Of(there, leaving), time.Time{})
	var got []string
	for _, o := range r.Objects {
		got = append(got, fmt.Sprintf("%v %s %s %s", o.Stated.Key, o.Stated.Place(), o.State(), o.Health.Text()))
	}
	want := "[ConfigMap shop/new a.yaml:3 progressing not created yet ConfigMap shop/old :0 healthy  " +
		"ConfigMap shop/prices a.yaml:9 healthy ]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
	if r.Roll.Total != 2 || r.Roll.Healthy != 1 || r.Roll.First != "ConfigMap shop/new: not created yet" {
		t.Errorf("it sums up to %+v", r.Roll)
	}
	if empty := Of(nil, view.Of(), time.Time{}); len(empty.Objects) != 0 || empty.Roll.Total != 0 {
		t.Errorf("of nothing: %+v", empty)
	}
}
