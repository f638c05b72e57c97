package store

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A value that somebody has put into etcd by hand is not decoded where it would cost all memory.
func TestQuantitiesOutOfBoundsAreNotDecoded(t *testing.T) {
	message, err := (&corev1.Pod{Spec: corev1.PodSpec{Overhead: corev1.ResourceList{"cpu": resource.MustParse("1e65")}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for encoding, payload := range map[byte]string{
		encodingProtobuf: string(message),
		encodingJSON:     `{"spec":{"overhead":{"cpu":"1e999999999"}}}`,
	} {
		if err := unmarshal(encoding, []byte(payload), &corev1.Pod{}); err == nil || !strings.Contains(err.Error(), "out of range") {
			t.Errorf("encoding %q: %v", encoding, err)
		}
	}
}
