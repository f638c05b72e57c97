package volumes

import (
	"context"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestEachByItself takes a key away that the first volume needs, and has a pod that lacks two of three objects.
func TestEachByItself(t *testing.T) {
	ctx, m, c := context.Background(), newManager(t), testCluster()
	items := configMapVolume("items", corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "b"}}})
	secret := corev1.Volume{Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}}
	pod := testPod(items, secret)
	mounted, err := m.Setup(ctx, pod, c.sources())
	if err != nil {
		t.Fatal(err)
	}
	c.configMaps["shop/cfg"] = &corev1.ConfigMap{Data: map[string]string{"a": "2"}}
	c.secrets["shop/key"] = &corev1.Secret{Data: map[string][]byte{"password": []byte("2")}}
	_, err = m.Update(ctx, pod, c.sources())
	wantTree(t, mounted["items"].HostPath, map[string]string{"a": "644 0 alpha", "b": "644 0 beta"})
	wantTree(t, mounted["sec"].HostPath, map[string]string{"password": "644 0 2"})
	if want := `MountVolume.SetUp failed for volume "items" : configmap references non-existent config key: b`; err == nil ||
		err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	lacking := testPod(items, secret, corev1.Volume{
		Name:         "none",
		VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none"}},
	})
	lacking.UID = "uid-2"
	_, err = m.Setup(ctx, lacking, c.sources())
	if err == nil {
		t.Fatal("no error")
	}
	wantTree(t, filepath.Join(m.dir, "uid-2", "volumes", "sec"), map[string]string{"password": "644 0 2"})
	want := "MountVolume.SetUp failed for volume \"items\" : configmap references non-existent config key: b\n" +
		"MountVolume.SetUp failed for volume \"none\" : secret \"none\" not found"
	if err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestErrors finds each volume's error, however they are wrapped.
func TestErrors(t *testing.T) {
	if got := Errors(nil); got != nil {
		t.Errorf("of nil: %v", got)
	}
	if got := Errors(context.Canceled); got != nil {
		t.Errorf("of another: %v", got)
	}
	_, err := newManager(t).Setup(context.Background(),
		testPod(configMapVolume("a", corev1.ConfigMapVolumeSource{}), configMapVolume("b", corev1.ConfigMapVolumeSource{})),
		(&cluster{}).sources())
	if got := Errors(err); len(got) != 2 || got[0].Volume != "a" || got[1].Volume != "b" {
		t.Errorf("got %v", got)
	}
}
