package content

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"lockstep/kinds"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/sealing"
)

// TestNothingGoesBack has answers arrive late and by several ways: what is known and what is kept never becomes older.
func TestNothingGoesBack(t *testing.T) {
	ref := pods.Reference{Resource: pods.ConfigMaps, Namespace: "default", Name: "settings"}
	at := func(revision string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings", ResourceVersion: revision}}
	}
	api := fake.NewClientset(at("5"))
	s := New(Options{Dir: t.TempDir(), API: func() client.Interface { return api },
		Log: slog.New(slog.DiscardHandler), Changed: func(pods.Reference) {}})
	seen := func(revision string) fetched {
		return fetched{object: at(revision), revision: kinds.Revision(at(revision))}
	}
	check := func(when, want string) {
		t.Helper()
		if got, err := s.latest(t.Context(), ref); err != nil || got.GetResourceVersion() != want {
			t.Errorf("%s: latest = %v, %v, want %s", when, got, err, want)
		}
		if got := s.kept(ref); got.GetResourceVersion() != want {
			t.Errorf("%s: kept is %s, want %s", when, got.GetResourceVersion(), want)
		}
	}
	longAgo := func(live bool) {
		last := s.known[ref]
		last.at, last.live = time.Time{}, live
		s.known[ref] = last
	}
	if got, err := s.get(t.Context(), ref); err != nil || got.GetResourceVersion() != "5" {
		t.Fatalf("get = %v, %v", got, err)
	}
	s.learn(ref, seen("7"))
	check("the watch has news", "7")
	for _, live := range []bool{true, false} {
		longAgo(live)
		if got, err := s.get(t.Context(), ref); err != nil || got.GetResourceVersion() != "7" {
			t.Errorf("get of an older state, watch alive %v: %v, %v", live, got, err)
		}
		check("after it", "7")
	}
	s.learn(ref, seen("6"))
	check("a watch made again, of a server that is behind", "7")
	s.learn(ref, fetched{revision: 4})
	check("its initial state is an older absence", "7")
	s.learn(ref, seen("8"))
	check("it has caught up", "8")
	s.learn(ref, fetched{revision: 9})
	for _, live := range []bool{true, false} {
		longAgo(live)
		if got, err := s.get(t.Context(), ref); !apierrors.IsNotFound(err) {
			t.Errorf("get of what is deleted, watch alive %v: %v, %v", live, got, err)
		}
	}
	s.StartAnew()
	s.learn(ref, seen("2"))
	check("another history", "2")
}

// TestRuntimeClasses has one be known to an agent that starts again while the API is away.
func TestRuntimeClasses(t *testing.T) {
	var api client.Interface = fake.NewClientset(&nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gold", ResourceVersion: "3"}, Handler: "runsc",
	})
	opts := Options{Dir: t.TempDir(), API: func() client.Interface { return api },
		Log: slog.New(slog.DiscardHandler), Changed: func(pods.Reference) {}}
	for range 2 {
		if got, err := New(opts).RuntimeClass(t.Context(), "gold"); err != nil || got.Handler != "runsc" {
			t.Errorf("gold = %v, %v", got, err)
		}
		api = nil
	}
	api = fake.NewClientset()
	if got, err := New(opts).RuntimeClass(t.Context(), "silver"); !apierrors.IsNotFound(err) {
		t.Errorf("silver = %v, %v", got, err)
	}
}

// TestClaims has a claim and its volume be known to an agent that starts again while the API is away, until no pod has
// the claim.
func TestClaims(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", ResourceVersion: "3"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv", ResourceVersion: "4"}}
	var api client.Interface = fake.NewClientset(claim, volume)
	opts := Options{Dir: t.TempDir(), API: func() client.Interface { return api },
		Log: slog.New(slog.DiscardHandler), Changed: func(pods.Reference) {}}
	used := map[pods.Reference]bool{{Resource: pods.PersistentVolumeClaims, Namespace: "shop", Name: "data"}: true}
	for range 3 {
		s := New(opts)
		if got, err := s.PersistentVolumeClaim(t.Context(), "shop", "data"); err != nil || got.Spec.VolumeName != "pv" {
			t.Errorf("claim = %v, %v", got, err)
		}
		if got, err := s.PersistentVolume(t.Context(), "pv"); err != nil || got.Name != "pv" {
			t.Errorf("volume = %v, %v", got, err)
		}
		api = nil
		s = New(opts)
		bound := s.Bound(used)
		if len(bound) != 1 || !bound[pods.Reference{Resource: pods.PersistentVolumes, Name: "pv"}] {
			t.Errorf("bound: %v", bound)
		}
		maps.Copy(bound, used)
		s.Forget(bound)
	}
	s := New(opts)
	s.Forget(nil)
	if got, err := s.PersistentVolume(t.Context(), "pv"); err == nil {
		t.Errorf("kept: %v", got)
	}
}

// TestKeptSecretsAreSealed has Secrets be kept so that this node alone reads them: those of an older agent from its next start on, and
// what another key has sealed is not taken for anything.
func TestKeptSecretsAreSealed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "key", ResourceVersion: "3"},
		Data: map[string][]byte{"a": []byte("yellow-bird")}}
	var api client.Interface = fake.NewClientset(secret)
	opts := Options{Dir: t.TempDir(), API: func() client.Interface { return api },
		Log: slog.New(slog.DiscardHandler), Changed: func(pods.Reference) {}}
	file := filepath.Join(opts.Dir, "secrets", "shop_key.json")
	inPlain := base64.StdEncoding.EncodeToString([]byte("yellow-bird"))
	read := func(when string, s *Store, sealed bool) {
		t.Helper()
		got, err := s.Secret(t.Context(), "shop", "key")
		if err != nil || string(got.Data["a"]) != "yellow-bird" {
			t.Errorf("%s: %v, %v", when, got, err)
		}
		data, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(data), inPlain) == sealed {
			t.Errorf("%s: sealed is not %v: %q, %v", when, sealed, data, err)
		}
	}
	read("of an older agent", New(opts), false)
	opts.Sealer = sealing.New(func() (*ecdsa.PrivateKey, error) { return key, nil })
	away := api
	api = nil
	read("before it is sealed", New(opts), false)
	s := New(opts)
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	read("sealed", s, true)
	read("started again", New(opts), true)
	api = away
	s = New(opts)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	read("kept anew", s, true)
	api = nil
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	opts.Sealer = sealing.New(func() (*ecdsa.PrivateKey, error) { return key, nil })
	if got, err := New(opts).Secret(t.Context(), "shop", "key"); err == nil || apierrors.IsNotFound(err) {
		t.Errorf("with another key, and without the API: %v, %v", got, err)
	}
	api = away
	read("with another key, and the API", New(opts), true)
}
