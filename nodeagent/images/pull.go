package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"
)

const (
	// pullTimeout bounds one pull that goes on: half a day is 200 GB at 50 Mbit/s. What was downloaded stays for the next.
	pullTimeout = 12 * time.Hour
	// silence ends a pull for which a registry has said nothing while it was asked: as containerd has it for Kubernetes.
	silence = 5 * time.Minute
	// pullTries is how often a pull whose content arrived damaged is repeated at once; containerd keeps the parts
	// that arrived well.
	pullTries = 3
)

// credential is what the registry is shown. The zero value is anonymous.
type credential struct{ username, password string }

// credentialsFor picks those of the pull secrets that are for the image's registry and repository, by the kubelet's
// rules; the most specific first. None means one anonymous try.
func credentialsFor(name string, pullSecrets []corev1.Secret) ([]credential, error) {
	keyring, err := secrets.MakeDockerKeyring(pullSecrets, &credentialprovider.BasicDockerKeyring{})
	if err != nil {
		return nil, errors.New("cannot read a pull secret: it is not a registry configuration")
	}
	found, _ := keyring.Lookup(repository(name))
	if len(found) == 0 {
		return []credential{{}}, nil
	}
	credentials := make([]credential, 0, len(found))
	for _, f := range found {
		switch {
		case f.IdentityToken != "":
			credentials = append(credentials, credential{"", f.IdentityToken})
		case f.RegistryToken != "":
			credentials = append(credentials, credential{"", f.RegistryToken})
		default:
			credentials = append(credentials, credential{f.Username, f.Password})
		}
	}
	return credentials, nil
}

// download fetches and unpacks the image, with one credential after the other.
func (m *Manager) download(ctx context.Context, name string, credentials []credential) landed {
	done, err := m.pulls.Take(ctx)
	if err != nil {
		return landed{err: err}
	}
	defer done()
	ctx, cancel := context.WithTimeout(m.context(ctx), pullTimeout)
	defer cancel()
	ctx, heard := unlessSilent(ctx, silence)
	defer heard.end()
	began := m.now()
	var errs []error
	for _, credential := range credentials {
		image, err := m.fetch(ctx, name, credential, heard)
		if err == nil {
			described, err := m.describe(ctx, image)
			return landed{image: described, err: err, took: m.now().Sub(began)}
		}
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
		errs = append(errs, fmt.Errorf("failed to pull and unpack image %q: %w", name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return landed{err: errors.Join(errs...)}
}

func (m *Manager) fetch(ctx context.Context, name string, c credential, heard *hearing) (client.Image, error) {
	var image client.Image
	var err error
	for range pullTries {
		image, err = m.client.Pull(ctx, name,
			client.WithResolver(m.resolver(ctx, name, c, heard)),
			client.WithPullUnpack,
			client.WithImageHandlerWrapper(sized),
			client.WithPullSnapshotter(m.snapshotter))
		if err == nil {
			return image, m.unimport(ctx, image)
		}
		if ctx.Err() != nil || !damaged(err) {
			return nil, err
		}
		m.abort(ctx, err)
	}
	return nil, err
}

var digests = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// abort drops what was downloaded so far of the content that the error is about: containerd would go on where the
// damaged download ended.
func (m *Manager) abort(ctx context.Context, cause error) {
	statuses, err := m.client.ContentStore().ListStatuses(ctx)
	if err != nil {
		return
	}
	for _, digest := range digests.FindAllString(cause.Error(), -1) {
		for _, status := range statuses {
			if strings.HasSuffix(status.Ref, digest) {
				_ = m.client.ContentStore().Abort(ctx, status.Ref) // gone already, at worst
			}
		}
	}
}

// damaged says whether content came, or was stored, other than its digest says, or its download cannot be resumed.
func damaged(err error) bool {
	if errdefs.IsFailedPrecondition(err) || errdefs.IsOutOfRange(err) || errdefs.IsDataLoss(err) {
		return true
	}
	text := err.Error()
	for _, sign := range []string{
		"unexpected commit digest", "unexpected commit size", "failed size validation", "failed validation",
		"unexpected EOF", "short read", "416 Requested Range Not Satisfiable",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// unimport makes an image that came from a file one that came from its registry.
func (m *Manager) unimport(ctx context.Context, image client.Image) error {
	if _, ok := image.Labels()[importLabel]; !ok {
		return nil
	}
	record := image.Metadata()
	delete(record.Labels, importLabel)
	_, err := m.client.ImageService().Update(ctx, record, "labels")
	return err
}

// resolver finds registries by certs.d. The credential goes to the image's own registry only, never to a mirror.
func (m *Manager) resolver(ctx context.Context, name string, c credential, heard *hearing) remotes.Resolver {
	registry := ""
	if named, err := reference.ParseDockerRef(name); err == nil {
		registry = reference.Domain(named)
	}
	hosts := config.ConfigureHosts(ctx, config.HostOptions{
		HostDir: m.hostDir,
		UpdateClient: func(c *http.Client) error {
			c.Transport = &hearingTransport{c.Transport, heard}
			return nil
		},
		Credentials: func(host string) (string, string, error) {
			if host == registry || registry == "docker.io" && host == "registry-1.docker.io" {
				return c.username, c.password, nil
			}
			return "", "", nil
		},
	})
	return docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
}

// hostDir finds a registry's directory in the first of the roots that has one.
func (m *Manager) hostDir(host string) (string, error) {
	for _, root := range m.certsDirs {
		dir, err := config.HostDirFromRoot(root)(host)
		if err == nil || !errdefs.IsNotFound(err) {
			return dir, err
		}
	}
	return "", errdefs.ErrNotFound
}

// flight is work that several callers wait for.
type flight struct {
	done   chan struct{}
	result landed
}

// landed is what a flight brought.
type landed struct {
	image *Image
	err   error
	took  time.Duration

	interrupted bool // err says only that containerd went away
}

// fly runs work once for all who ask for the key while it runs. It does not end with the ctx of any of them: what is
// half downloaded for one pod is wanted by the next.
func (m *Manager) fly(ctx context.Context, key string, work func(context.Context) landed) landed {
	m.mu.Lock()
	f, running := m.flying[key]
	if !running {
		f = &flight{done: make(chan struct{})}
		m.flying[key] = f
		background := context.WithoutCancel(ctx)
		go func() {
			f.result = work(background)
			m.mu.Lock()
			delete(m.flying, key)
			m.mu.Unlock()
			close(f.done)
		}()
	}
	m.mu.Unlock()
	select {
	case <-f.done:
		return f.result
	case <-ctx.Done():
		return landed{err: ctx.Err()}
	}
}

func flightKey(name string, credentials []credential) string {
	h := sha256.New()
	for _, c := range credentials {
		fmt.Fprintf(h, "%q %q ", c.username, c.password)
	}
	return name + " " + hex.EncodeToString(h.Sum(nil)[:8])
}
