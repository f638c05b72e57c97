package sync

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

const addressed = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.43.1.7
  selector: {app: cart}
  ports: [{port: 80}]
`

// TestServiceNeedsRulesOnEveryNode: what a node cannot write rules for is no success, and becomes one by itself.
func TestServiceNeedsRulesOnEveryNode(t *testing.T) {
	w := newWorld(t)
	node := func(rules corev1.ConditionStatus, message string) {
		t.Helper()
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: rules}, {Type: kinds.NodeServiceRules, Status: rules, Message: message}}}}
		if err := w.put(n); err != nil {
			t.Fatal(err)
		}
	}
	node(corev1.ConditionFalse, "cannot find iptables")
	sha := w.push("service", map[string]string{"service.yaml": addressed})
	w.start()
	w.receives(sha, "failure: Service shop/cart: no service rules on node n1: cannot find iptables")
	node(corev1.ConditionTrue, "")
	w.receives(sha, "success: 2 objects in sync and healthy")
}
