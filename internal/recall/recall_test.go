package recall

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestParts loses nothing, keeps the order in which objects need each other, and says once, at the end, that it is all.
func TestParts(t *testing.T) {
	if parts := (Offer{Complete: true, Seen: 7}).Parts(); len(parts) != 1 || !parts[0].Complete || parts[0].Seen != 7 {
		t.Errorf("an empty offer is %+v", parts)
	}
	o := Offer{Complete: true, Claims: []*corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}}
	filler := strings.Repeat("x", 300<<10)
	for i := range 20 {
		o.Pods = append(o.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i),
			Annotations: map[string]string{"a": filler}}})
	}
	parts, pods := o.Parts(), 0
	if len(parts) < 3 || len(parts[0].Claims) != 1 {
		t.Errorf("%d parts, the first has %d claims", len(parts), len(parts[0].Claims))
	}
	for i, p := range parts {
		data, err := json.Marshal(p)
		if err != nil || len(data) > MaxPart+1024 {
			t.Errorf("part %d has %d bytes: %v", i, len(data), err)
		}
		if p.Complete != (i == len(parts)-1) {
			t.Errorf("part %d of %d is complete: %t", i, len(parts), p.Complete)
		}
		pods += len(p.Pods)
	}
	if pods != len(o.Pods) {
		t.Errorf("%d of %d pods", pods, len(o.Pods))
	}
}
