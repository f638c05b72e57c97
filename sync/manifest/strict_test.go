package manifest

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/json"
)

// TestStrictWordsAreKubernetes: what Kubernetes' strict decoding says of an object is in what this package says.
func TestStrictWordsAreKubernetes(t *testing.T) {
	for _, text := range []string{
		`{"spec": {"unknownField": "foo", "replicas": 2, "replicas": 3}}`,
		`{"metadata": {"unknownMeta": "foo"}}`,
		`{"unknown": {"below": 1}, "metadata": {"labels": {"a": "b", "a": "c"}}}`,
		`{"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "b", "imge": "c", "image": "x", "image": "y"}]}}}}`,
		`{"metadata": {"again": 1, "again": 2}}`,
	} {
		kubernetes, err := json.UnmarshalStrict([]byte(text), &appsv1.Deployment{})
		if err != nil || len(kubernetes) == 0 {
			t.Fatalf("%s: Kubernetes finds %v, %v", text, kubernetes, err)
		}
		want := runtime.NewStrictDecodingError(kubernetes).Error()
		stated := strings.Replace(text, "{", `{"apiVersion": "apps/v1", "kind": "Deployment",`, 1)
		_, err = Read(t.Context(), []File{fileOf("a.json", []byte(stated))}, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant in it %s", text, err, want)
		}
	}
}
