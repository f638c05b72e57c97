package images

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/nodeagent/access"
)

// guarded has the fixture's registry want a password; it returns a counter of requests that had it.
func (f *fixture) guarded(password string) {
	handle := func(w http.ResponseWriter, r *http.Request) bool {
		if user, given, ok := r.BasicAuth(); ok && user == "me" && given == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "no", http.StatusUnauthorized)
		return true
	}
	f.handle.Store(&handle)
}

func (f *fixture) address() string { return strings.TrimPrefix(f.registry.URL, "http://") }

func pullSecret(namespace, host, password string) corev1.Secret {
	return corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "pull", UID: types.UID(namespace)},
		Type:       corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{
			corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"username":"me","password":%q}}}`, host, password)},
	}
}

// TestAccessToWhatIsHere: an image that one pod could pull is not another's, unless that one can pull it, too; also after the
// agent's restart, and as the policy says.
func TestAccessToWhatIsHere(t *testing.T) {
	f := newFixture(t)
	f.recordsDir = t.TempDir()
	f.push("team/app:1")
	f.guarded("hunter2")
	image := f.address() + "/team/app:1"
	may := func(secrets ...corev1.Secret) bool {
		t.Helper()
		_, events, err := f.ensure(Request{Image: image, Secrets: secrets})
		f.backoff.failures = map[string]failure{}
		if err == nil && !strings.Contains(events, "Pulled") || strings.Contains(fmt.Sprint(events, err), "hunter2") {
			t.Errorf("%v\n%s", err, events)
		}
		return err == nil
	}
	shop, bank := pullSecret("shop", f.address(), "hunter2"), pullSecret("bank", f.address(), "wrong")
	if !may(shop) || may() || may(bank) {
		t.Fatal("only the shop has the password")
	}
	asked := f.got("/manifests/")
	if !may(shop) || f.got("/manifests/") != asked {
		t.Error("the shop's second pod asks the registry")
	}
	_, events, err := f.ensure(Request{Image: image, Policy: corev1.PullNever})
	if e, ok := err.(*Error); !ok || e.Reason != ReasonErrImageNeverPull ||
		events != fmt.Sprintf("Warning ErrImageNeverPull Container image %q is not present with pull policy of Never", image) {
		t.Errorf("Never, without a secret: %v\n%s", err, events)
	}
	if _, events, err := f.ensure(Request{Image: image, Policy: corev1.PullNever, Secrets: []corev1.Secret{shop}}); err != nil ||
		events != fmt.Sprintf("Normal Pulled Container image %q already present on machine and can be accessed by the pod", image) {
		t.Errorf("Never, with the secret: %v\n%s", err, events)
	}

	clear(f.records) // as after a restart
	bank = pullSecret("bank", f.address(), "hunter2")
	if !may(shop) || may() || !may(bank) || f.got("/manifests/") != asked {
		t.Error("after a restart another holds")
	}
	clear(f.records)
	bank = pullSecret("bank", f.address(), "changed since") // of the same Secret the change is believed
	if !may(bank) {
		t.Error("the bank's secret was not learned")
	}

	if f.verify, err = access.Parse("NeverVerify", nil); err != nil || !may() {
		t.Error("NeverVerify asks", err)
	}
	if f.verify, err = access.Parse("NeverVerifyAllowlistedImages", []string{f.address() + "/team/*"}); err != nil || !may() {
		t.Error("what is in the list is asked for", err)
	}
	f.verify = access.Verification{}

	// A record that is damaged, or lost, says nothing for anybody.
	files, err := filepath.Glob(filepath.Join(f.recordsDir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	clear(f.records)
	if may() || !may(shop) || may() {
		t.Error("a damaged record lets in who has no secret, or keeps out who has")
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	clear(f.records)
	if may() || !may(shop) {
		t.Error("a lost record lets in who has no secret, or keeps out who has")
	}
	f.clock.Add(int64(1e18))
	if _, err := f.Collect(testContext(t), nil, Thresholds{All: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Collect(testContext(t), nil, Thresholds{}); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(f.recordsDir, "*")); len(files) != 0 {
		t.Errorf("records of images that are gone: %q", files)
	}
}

// TestPreloaded: what the node has not pulled is everybody's, unless the policy says otherwise.
func TestPreloaded(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	writeOCI(t, filepath.Join(dir, "app.tar"), f.push("library/app:v1"), "v1")
	if _, err := f.Import(testContext(t), dir); err != nil {
		t.Fatal(err)
	}
	f.guarded("hunter2")
	if _, _, err := f.ensure(Request{Image: "app:v1"}); err != nil {
		t.Error(err)
	}
	f.verify.Policy = access.AlwaysVerify
	if _, _, err := f.ensure(Request{Image: "app:v1"}); err == nil {
		t.Error("AlwaysVerify lets in who cannot pull")
	}
}

// TestNodeCredentials: every pod may pull with what the node has, and use what came by it; a pod's own secret goes first.
func TestNodeCredentials(t *testing.T) {
	f := newFixture(t)
	f.push("team/app:1")
	f.guarded("hunter2")
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	f.credentials = []string{filepath.Join(dir, "none.json"), file, dir}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	image := f.address() + "/team/app:1"
	write(`{"auths": {hunter2`)
	_, _, err := f.ensure(Request{Image: image})
	if err == nil || !strings.Contains(err.Error(), file+" is not a registry configuration") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a damaged file: %v", err)
	}
	write(string(pullSecret("", f.address(), "hunter2").Data[corev1.DockerConfigJsonKey])) // read anew
	wrong := pullSecret("shop", f.address(), "wrong")
	if got := f.keysFor(image, []corev1.Secret{wrong}).credentials; len(got) != 2 || got[0].password != "wrong" || got[1].from != nil {
		t.Errorf("in which order: %+v", got)
	}
	f.backoff.failures = map[string]failure{}
	for _, secrets := range [][]corev1.Secret{{wrong}, nil} {
		if _, _, err := f.ensure(Request{Image: image, Secrets: secrets}); err != nil {
			t.Errorf("%d secrets: %v", len(secrets), err)
		}
	}
	digest := slices.Collect(func(yield func(access.Record) bool) {
		for _, r := range f.records {
			if !yield(r) {
				return
			}
		}
	})
	if len(digest) != 1 || !digest[0].Access[f.address()+"/team/app"].Anyone {
		t.Errorf("the records: %+v", digest)
	}
}
