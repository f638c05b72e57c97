package api

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestNodePatches(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	c := client(t, s.node("n1"))
	for _, p := range []struct {
		kind types.PatchType
		body string
	}{
		{types.StrategicMergePatchType, `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`},
		{types.MergePatchType, `{"status":{"phase":"Failed"}}`},
		{types.JSONPatchType, `[{"op":"replace","path":"/status/phase","value":"Running"}]`},
	} {
		_, err := c.CoreV1().Pods("shop").Patch(t.Context(), "cart-1-a", p.kind, []byte(p.body), metav1.PatchOptions{}, "status")
		if err != nil {
			t.Errorf("%s: %v", p.kind, err)
		}
	}
}
