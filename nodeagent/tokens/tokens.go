// Package tokens has the tokens by which the pods of a node are known to the API.
package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/sealing"
)

const (
	// apiTimeout bounds one question, which takes milliseconds; a server that starts may need seconds.
	apiTimeout = 10 * time.Second
	// maxAge is when a token is replaced however long it holds, as the kubelet does.
	maxAge = 24 * time.Hour
	// defaultSeconds is how long a token holds whose volume says nothing (Kubernetes' default).
	defaultSeconds = 60 * 60
)

// Options say where a Store works.
type Options struct {
	// Dir is where tokens are kept; it is made when needed, private to root.
	Dir string
	// API is the connection to the API; nil while there is none.
	API func() client.Interface
	// Sealer seals what is kept. The zero value keeps it as it is.
	Sealer sealing.Sealer
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
}

// Store has the tokens that volumes of a node's pods show. They are kept on disk as Secrets are, so that pods start as
// specified while the control plane is away. It is safe for concurrent use.
type Store struct {
	opts Options

	mu   sync.Mutex
	pods map[types.UID]*ofPod
	// history counts the histories of the cluster's store: tokens of one that is lost hold no more.
	history int
}

// ofPod are the tokens of one pod. Its lock is held while one is asked for: a pod's volumes are one pod's matter.
type ofPod struct {
	mu     sync.Mutex
	read   bool // what is kept has been read
	tokens map[string]kept
}

// kept is one token.
type kept struct {
	Token   string    `json:"token"`
	Asked   time.Time `json:"asked"` // by this machine's clock, as the next
	Until   time.Time `json:"until"`
	history int
}

// due says that another token is to be asked for: when a fifth of its life is left, as the kubelet does.
func (k kept) due(now time.Time, history int) bool {
	life := k.Until.Sub(k.Asked)
	return k.Token == "" || k.history != history || now.Before(k.Asked) || now.Sub(k.Asked) > min(life*8/10, maxAge)
}

// New returns a store; it starts nothing.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{opts: o, pods: map[types.UID]*ofPod{}}
}

// Get is a token of the pod's service account, as a projection asks for it: the one before, until most of its life is over.
// While the API does not answer it is the last one, whether it holds or not.
func (s *Store) Get(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	of, history := s.of(pod.UID)
	of.mu.Lock()
	defer of.mu.Unlock()
	if !of.read {
		of.tokens, of.read = s.load(pod.UID), true
	}
	seconds := int64(defaultSeconds)
	if p.ExpirationSeconds != nil {
		seconds = *p.ExpirationSeconds
	}
	name := fmt.Sprintf("%d %s", seconds, p.Audience)
	last, now := of.tokens[name], s.opts.Now()
	if !last.due(now, history) {
		return last.Token, nil
	}
	next, err := s.ask(ctx, pod, p.Audience, seconds, now)
	if err != nil {
		if refused := apierrors.APIStatus(nil); last.Token == "" || errors.As(err, &refused) && !now.Before(last.Until) {
			return "", fmt.Errorf("failed to fetch token: %w", err)
		}
		return last.Token, nil
	}
	next.history = history
	of.tokens[name] = next
	return next.Token, s.save(pod.UID, of.tokens)
}

func (s *Store) of(uid types.UID) (of *ofPod, history int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of = s.pods[uid]; of == nil {
		of = &ofPod{}
		s.pods[uid] = of
	}
	return of, s.history
}

func (s *Store) ask(ctx context.Context, pod *corev1.Pod, audience string, seconds int64, now time.Time) (kept, error) {
	api := s.opts.API()
	if api == nil {
		return kept{}, errors.New("not connected to the API")
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	accounts := api.CoreV1().ServiceAccounts(pod.Namespace)
	got, err := accounts.CreateToken(ctx, kinds.AccountOf(pod), request, metav1.CreateOptions{})
	if err != nil {
		return kept{}, err
	}
	if granted := got.Spec.ExpirationSeconds; granted != nil {
		seconds = *granted
	}
	return kept{Token: got.Status.Token, Asked: now, Until: now.Add(time.Duration(seconds) * time.Second)}, nil
}

func (s *Store) file(uid types.UID) string { return filepath.Join(s.opts.Dir, string(uid)+".json") }

// place is what a file of tokens is sealed for.
func place(name string) string { return "tokens/" + name }

// Seal seals the tokens that an older agent has kept as they are.
func (s *Store) Seal() error { return s.opts.Sealer.SealAll(s.opts.Dir, place) }

// load reads what is kept of a pod; what cannot be read is asked for again.
func (s *Store) load(uid types.UID) map[string]kept {
	tokens := map[string]kept{}
	data, err := os.ReadFile(s.file(uid))
	if err == nil {
		data, err = s.opts.Sealer.Open(place(filepath.Base(s.file(uid))), data)
	}
	if err != nil || json.Unmarshal(data, &tokens) != nil || tokens == nil {
		return map[string]kept{}
	}
	return tokens
}

func (s *Store) save(uid types.UID, tokens map[string]kept) error {
	data, err := json.Marshal(tokens)
	if err == nil {
		data, err = s.opts.Sealer.Seal(place(filepath.Base(s.file(uid))), data)
	}
	if err == nil {
		err = os.MkdirAll(s.opts.Dir, 0o700)
	}
	if err == nil {
		// Not synced: what a power cut takes or tears is asked for again.
		err = os.WriteFile(s.file(uid), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the tokens of pod %s: %w", uid, err)
	}
	return nil
}

// StartAnew has every token asked for again: the accounts and pods that they are bound to are other ones now.
func (s *Store) StartAnew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history++
}

// Forget drops the tokens of pods that are not kept.
func (s *Store) Forget(keep func(types.UID) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid := range s.pods {
		if !keep(uid) {
			delete(s.pods, uid)
		}
	}
	files, _ := os.ReadDir(s.opts.Dir) // absent before the first token
	for _, f := range files {
		uid, _ := strings.CutSuffix(f.Name(), ".json")
		if !keep(types.UID(uid)) {
			_ = os.Remove(filepath.Join(s.opts.Dir, f.Name())) // tried again at the next round
		}
	}
}
