// Package rootca gives every namespace the certificates by which its pods know the API servers.
package rootca

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// What Kubernetes' root CA publisher writes (k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher).
const (
	entry      = "ca.crt"
	annotation = "kubernetes.io/description"
	about      = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the " +
		"internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// New returns the reconciler of the ConfigMaps kube-root-ca.crt. Ca is the cluster's CA in PEM; empty: none is made.
func New(ca string) loop.Reconciler {
	return loop.Reconciler{
		Name:      "rootca",
		Component: "root-ca-certificate-publisher-controller",
		Owner:     kinds.For[*corev1.Namespace](),
		Reads: []loop.Read{{
			Kind: kinds.For[*corev1.ConfigMap](),
			How:  "kube-root-ca.crt: its namespace",
			Keys: loop.NamespaceKeys(kinds.RootCA),
		}},
		Writes: []loop.Write{{
			Kind:   kinds.For[*corev1.ConfigMap](),
			Create: true,
			Fields: []string{"data", "binaryData", "metadata.annotations." + annotation},
		}},
		Decide: func(v *view.View, key kinds.Key, _ time.Time) (loop.Decision, error) { return decide(v, key, ca), nil },
	}
}

func decide(v *view.View, key kinds.Key, ca string) loop.Decision {
	ns, ok := v.Get(key).(*corev1.Namespace)
	if !ok || ns.DeletionTimestamp != nil || ca == "" {
		return loop.Decision{}
	}
	data := map[string]string{entry: ca}
	old, ok := view.Get[*corev1.ConfigMap](v, ns.Name, kinds.RootCA)
	if !ok {
		made := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: kinds.RootCA, Annotations: map[string]string{annotation: about}},
			Data:       data,
		}
		return loop.Decision{Wants: []loop.Want{{Object: made, Reason: "every namespace has one"}}}
	}
	if maps.Equal(old.Data, data) && len(old.BinaryData) == 0 && old.Annotations[annotation] == about {
		return loop.Decision{}
	}
	changed := old.DeepCopy()
	changed.Data, changed.BinaryData = data, nil
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[annotation] = about
	return loop.Decision{Wants: []loop.Want{{Object: changed, Reason: "differs from the cluster's CA"}}}
}
