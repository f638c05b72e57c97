package pods

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestReplaced(t *testing.T) {
	pod := func(uid, owner string, ready bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: uid, UID: types.UID(uid)}}
		if owner == "" {
			p.Name = "bare"
		} else {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner, UID: types.UID(uid + "-owner"), Controller: &yes}}
		}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	onHost := pod("host", "proxy", true)
	onHost.Spec.HostNetwork = true
	lost := []*corev1.Pod{pod("b", "cart", true), pod("a", "cart", false), pod("c", "", true), onHost}
	for _, c := range []struct {
		name    string
		present []*corev1.Pod
		want    []types.UID
	}{
		{"none is known yet", nil, nil},
		{"its like is starting", []*corev1.Pod{pod("n", "cart", false)}, nil},
		{"one of two is ready", []*corev1.Pod{pod("n", "cart", false), pod("m", "cart", true)}, []types.UID{"a"}},
		{"both are ready", []*corev1.Pod{pod("n", "cart", true), pod("m", "cart", true)}, []types.UID{"a", "b"}},
		{"another's pod is ready", []*corev1.Pod{pod("n", "web", true)}, nil},
		{"a bare pod of the name is ready", []*corev1.Pod{pod("n", "", true)}, []types.UID{"c"}},
		{"its like needs the port to start", []*corev1.Pod{pod("n", "proxy", false)}, []types.UID{"host"}},
	} {
		if got := Replaced(lost, c.present); !slices.Equal(got, c.want) {
			t.Errorf("%s: %s may end, want %s", c.name, fmt.Sprint(got), fmt.Sprint(c.want))
		}
	}
}
