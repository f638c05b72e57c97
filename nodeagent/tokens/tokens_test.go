package tokens

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"lockstep/nodeagent/client"
)

// issuer counts the tokens that it gives, and what it was asked.
type issuer struct {
	api   *fake.Clientset
	given int
	last  *authenticationv1.TokenRequest
	err   error
}

func newIssuer() *issuer {
	i := &issuer{api: fake.NewClientset()}
	i.api.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if i.err != nil {
			return true, nil, i.err
		}
		i.given++
		i.last = a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		got := i.last.DeepCopy()
		got.Status.Token = fmt.Sprintf("token %d", i.given)
		return true, got, nil
	})
	return i
}

// TestTokenIsReplacedInTime follows one token through its life: asked for once, kept over a restart, replaced when a fifth of its
// life is left, and kept while the API is away.
func TestTokenIsReplacedInTime(t *testing.T) {
	i, now := newIssuer(), time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	opts := Options{Dir: filepath.Join(t.TempDir(), "tokens"), API: func() client.Interface { return i.api },
		Now: func() time.Time { return now }}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "u1"}}
	hour := &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(3600))}
	vault := &corev1.ServiceAccountTokenProjection{Path: "vault", Audience: "vault", ExpirationSeconds: new(int64(3600))}
	s := New(opts)
	get := func(when, want string, p *corev1.ServiceAccountTokenProjection) {
		t.Helper()
		got, err := s.Get(t.Context(), pod, p)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	get("at first", "token 1", hour)
	r := i.last.Spec
	if r.BoundObjectRef.UID != "u1" || r.BoundObjectRef.Name != "cart" || len(r.Audiences) > 0 || *r.ExpirationSeconds != 3600 {
		t.Errorf("asked for %+v", r)
	}
	get("again", "token 1", hour)
	get("for another audience", "token 2", vault)
	if len(i.last.Spec.Audiences) != 1 || i.last.Spec.Audiences[0] != "vault" {
		t.Errorf("asked for %v", i.last.Spec.Audiences)
	}
	info, err := os.Stat(filepath.Join(opts.Dir, "u1.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it is kept with mode %v, %v", info, err)
	}
	s = New(opts)
	get("after a restart", "token 1", hour)
	now = now.Add(47 * time.Minute)
	get("before 80 % of its life", "token 1", hour)
	now = now.Add(2 * time.Minute)
	get("after 80 % of its life", "token 3", hour)
	i.err = errors.New("connection refused")
	now = now.Add(2 * time.Hour)
	get("while the API is away", "token 3", hour)
	i.err = apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts"}, "default", errors.New("the pod is gone"))
	get("refused", `failed to fetch token: serviceaccounts "default" is forbidden: the pod is gone`, hour)
	i.err = nil
	get("when it is back", "token 4", hour)
	s.StartAnew()
	get("of another history", "token 5", hour)
	get("which is asked for once", "token 5", hour)
	s.Forget(func(uid types.UID) bool { return uid == "u1" })
	get("of a pod that stays", "token 5", hour)
	s.Forget(func(types.UID) bool { return false })
	if _, err := os.Stat(filepath.Join(opts.Dir, "u1.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still kept: %v", err)
	}
}

// TestLongTokenIsReplacedDaily as the kubelet does.
func TestLongTokenIsReplacedDaily(t *testing.T) {
	asked := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	k := kept{Token: "a", Asked: asked, Until: asked.Add(365 * 24 * time.Hour)}
	if k.due(asked.Add(23*time.Hour), 0) || !k.due(asked.Add(25*time.Hour), 0) {
		t.Error("a token of a year is not replaced after a day")
	}
}
