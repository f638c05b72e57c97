package nodeagent

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/podstatus"
)

// TestRegistries pulls with credentials, through a mirror, again and in vain.
func TestRegistries(t *testing.T) {
	l := newLab(t)
	var manifests atomic.Int32
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	private := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "me" || password != "hunter2" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(private.Close)
	open := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead || r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			manifests.Add(1)
		}
		open.ServeHTTP(w, r)
	}))
	t.Cleanup(mirror.Close)
	image, err := tarball.ImageFromPath(filepath.Join(l.opts.ImagesDir, "busybox.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	push := func(server *httptest.Server, repository, mark string) {
		t.Helper()
		marked, err := mutate.Config(image, v1.Config{Env: []string{"PATH=/bin", "MARK=" + mark}})
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/"+repository, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, marked, remote.WithAuth(&authn.Basic{Username: "me", Password: "hunter2"})); err != nil {
			t.Fatal(err)
		}
	}
	push(private, "team/app:1", "private")
	push(mirror, "team/web:1", "first")
	l.opts.CertsDir = filepath.Join(l.dir, "certs.d")
	if err := os.MkdirAll(filepath.Join(l.opts.CertsDir, "registry.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror.URL)
	if err := os.WriteFile(filepath.Join(l.opts.CertsDir, "registry.example", "hosts.toml"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	l.opts.trackEvery, l.opts.askEvery = 100*time.Millisecond, 200*time.Millisecond
	l.start()
	l.ready()
	address := strings.TrimPrefix(private.URL, "http://")
	pod := func(image string, policy corev1.PullPolicy, secrets ...string) corev1.PodSpec {
		c := shell("main", "echo mark=$MARK; "+forever)
		c.Image, c.ImagePullPolicy = image, policy
		s := corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c}}
		for _, name := range secrets {
			s.ImagePullSecrets = append(s.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
		}
		return s
	}
	secret := func(name string) {
		l.put(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{
				corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"username":"me","password":"hunter2"}}}`, address)},
		})
	}
	// In vain: no secret, or one that is not there yet.
	l.bind("denied", pod(address+"/team/app:1", corev1.PullIfNotPresent))
	l.bind("early", pod(address+"/team/app:1", corev1.PullAlways, "late"))
	l.event("early", "FailedToRetrieveImagePullSecret",
		"Unable to retrieve some image pull secrets (late); attempting to pull the image may not succeed.")
	l.event("denied", "Pulling", fmt.Sprintf("Pulling image %q", address+"/team/app:1"))
	l.event("denied", "Failed", fmt.Sprintf("Failed to pull image %q: ", address+"/team/app:1"))
	l.event("denied", "Failed", "Error: ErrImagePull")
	l.waits("denied", "ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: ErrImagePull: ", address+"/team/app:1"))
	l.event("denied", "BackOff", fmt.Sprintf("Back-off pulling image %q", address+"/team/app:1"))
	l.event("denied", "Failed", "Error: ImagePullBackOff")
	secret("late")
	l.prints(l.running("early"), "main", "mark=private")
	l.event("early", "Pulled", fmt.Sprintf("Successfully pulled image %q in ", address+"/team/app:1"))

	// Who has no secret does not get what another pod's secret has brought; who has it does.
	l.bind("robbed", pod(address+"/team/app:1", corev1.PullNever))
	l.waits("robbed", "ErrImageNeverPull", "is not present with pull policy of Never")
	l.bind("entitled", pod(address+"/team/app:1", corev1.PullNever, "late"))
	l.prints(l.running("entitled"), "main", "mark=private")

	// Through the mirror; the registry itself does not answer.
	l.bind("first", pod("registry.example/team/web:1", corev1.PullIfNotPresent))
	l.prints(l.running("first"), "main", "mark=first")
	push(mirror, "team/web:1", "second")
	asked := manifests.Load()
	l.bind("kept", pod("registry.example/team/web:1", corev1.PullIfNotPresent))
	l.prints(l.running("kept"), "main", "mark=first")
	l.event("kept", "Pulled", `Container image "registry.example/team/web:1" already present on machine and can be accessed by the pod`)
	if now := manifests.Load(); now != asked {
		t.Errorf("the registry was asked %d times for an image that is here", now-asked)
	}
	l.bind("always", pod("registry.example/team/web:1", corev1.PullAlways))
	l.prints(l.running("always"), "main", "mark=second")
	moved := func(name string) string {
		s := l.pod(name).Status
		if c := podstatus.Condition(&s, podstatus.ImageMoved); c != nil {
			return c.Message
		}
		return ""
	}
	tracked := pod("registry.example/team/web:1", corev1.PullIfNotPresent)
	l.bindWith("tracked", map[string]string{podstatus.TrackImage: "true"}, tracked)
	l.running("tracked")
	push(mirror, "team/web:1", "third")
	l.eventually("the tag has moved", 20*time.Second, func() error {
		if got := moved("tracked"); !strings.HasPrefix(got, "the tag of image registry.example/team/web:1 has moved from sha256:") {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	l.event("tracked", "ImageTagMoved", "the tag of image registry.example/team/web:1 has moved from sha256:")
	if got := moved("always"); got != "" {
		t.Errorf("nobody asked: %s", got)
	}
	l.prints(l.running("tracked"), "main", "mark=second") // nothing is repaired
	push(mirror, "team/web:1", "second")
	l.eventually("the tag is back", 20*time.Second, func() error {
		if got := moved("tracked"); got != "" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	if id := l.pod("always").Status.ContainerStatuses[0].ImageID; !strings.HasPrefix(id, "registry.example/team/web@sha256:") {
		t.Errorf("the image's ID is %q", id)
	}
}
