package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
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

// download fetches and unpacks the image, with one credential after the other.
func (m *Manager) download(ctx context.Context, name string, keys keys, going *progress) landed {
	done, err := m.pulls.take(ctx)
	if err != nil {
		return landed{err: err}
	}
	defer done()
	ctx, cancel := context.WithTimeout(m.context(ctx), pullTimeout)
	defer cancel()
	ctx, heard := unlessSilent(ctx, silence)
	defer heard.end()
	heard.came = going.add
	began := m.now()
	before, was := m.named(ctx, name), m.settledAs(ctx, name)
	errs := slices.Clone(keys.problems)
	for _, credential := range keys.credentials {
		image, err := m.fetch(ctx, name, credential, heard, going)
		if err == nil {
			err = m.settle(ctx, image, was)
		}
		if err == nil {
			described, err := m.describe(ctx, image)
			_ = m.note(repository(name), image.Target().Digest, credential.access()) // who is not noted asks the registry
			return landed{image: described, err: err, took: m.now().Sub(began)}
		}
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
		m.undo(ctx, name, before)
		errs = append(errs, fmt.Errorf("failed to pull and unpack image %q: %w", name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return landed{err: errors.Join(errs...)}
}

func (m *Manager) fetch(ctx context.Context, name string, c credential, heard *hearing, going *progress) (client.Image, error) {
	var image client.Image
	var err error
	for range pullTries {
		image, err = m.client.Pull(ctx, name,
			client.WithResolver(m.resolver(ctx, name, c, heard)),
			client.WithPullUnpack,
			client.WithPullLabel(pulledLabel, m.boot),
			client.WithImageHandlerWrapper(func(next images.Handler) images.Handler { return m.followed(sized(next), going) }),
			client.WithPullSnapshotter(m.snapshotter))
		if err == nil {
			return image, m.unimport(ctx, image)
		}
		if ctx.Err() != nil {
			return nil, err
		}
		dropped := m.dropDamaged(ctx, going.parts())
		if !damaged(err) && dropped == 0 {
			return nil, err
		}
		m.abort(ctx, err)
	}
	return nil, err
}

// named is the image that has a name; nil where there is none.
func (m *Manager) named(ctx context.Context, name string) *images.Image {
	image, err := m.client.ImageService().Get(ctx, name)
	if err != nil {
		return nil
	}
	return &image
}

// undo gives a name back to the image that had it before a pull that failed: containerd names an image before it can tell that it
// is none.
func (m *Manager) undo(ctx context.Context, name string, before *images.Image) {
	switch now := m.named(ctx, name); {
	case now == nil || before != nil && now.Target.Digest == before.Target.Digest:
	case before == nil:
		_ = m.client.ImageService().Delete(ctx, name) // it is tried again, and fails again, at worst
	default:
		_, _ = m.client.ImageService().Update(ctx, *before)
	}
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
	going  progress
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
// half downloaded for one pod is wanted by the next. tell, if not nil, hears now and then how far it is.
func (m *Manager) fly(ctx context.Context, key string, tell func(done, of int64), work func(context.Context, *progress) landed) landed {
	m.mu.Lock()
	f, running := m.flying[key]
	if !running {
		f = &flight{done: make(chan struct{})}
		m.flying[key] = f
		background := context.WithoutCancel(ctx)
		go func() {
			f.result = work(background, &f.going)
			m.mu.Lock()
			delete(m.flying, key)
			m.mu.Unlock()
			close(f.done)
		}()
	}
	m.mu.Unlock()
	var tick <-chan time.Time
	if tell != nil {
		t := time.NewTicker(m.tellEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-f.done:
			return f.result
		case <-ctx.Done():
			return landed{err: ctx.Err()}
		case <-tick:
			tell(f.going.read())
		}
	}
}

func flightKey(name string, k keys) string {
	h := sha256.New()
	for _, c := range k.credentials {
		fmt.Fprintf(h, "%q %q ", c.username, c.password)
	}
	return name + " " + hex.EncodeToString(h.Sum(nil)[:8])
}
