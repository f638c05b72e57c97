package volumes

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestTokenVolume has the file that a projection names, replaced with the token, and nothing where there is none.
func TestTokenVolume(t *testing.T) {
	token, failure := "one", error(nil)
	sources := Sources{Token: func(*corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, error) { return token, failure }}
	pod := &corev1.Pod{}
	v := &corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(int32(0o644)), Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"},
		}},
	}}}
	got, err := payload(pod, v, sources)
	if err != nil || string(got["token"].data) != "one" || got["token"].mode != 0o644 {
		t.Errorf("payload = %v, %v", got, err)
	}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
	if got, err = payload(pod, v, sources); err != nil || contentFile(got["token"], new(int64(2000))).Mode != 0o640 {
		t.Errorf("with a group: %v, %v", got, err)
	}
	failure = errors.New("failed to fetch token: not connected")
	if _, err = payload(pod, v, sources); err == nil || !strings.Contains(err.Error(), "failed to fetch token") {
		t.Errorf("without a token: %v", err)
	}
}
