package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/nodeagent/probes"
)

// hookTimeout bounds one HTTP hook.
const hookTimeout = 30 * time.Second

// hook runs a lifecycle handler of a container; nil means it succeeded.
func (p *Pod) hook(ctx context.Context, c *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		code, _, err := p.node.Containers.Exec(ctx, id, h.Exec.Command)
		if err != nil {
			return err
		}
		if code != 0 {
			// What it wrote may be secret, and the pod's status shows this.
			return fmt.Errorf("command %q exited with %d", strings.Join(h.Exec.Command, " "), code)
		}
		return nil
	case h.HTTPGet != nil:
		return p.httpHook(ctx, c, h.HTTPGet)
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(kinds.Seconds(h.Sleep.Seconds)):
			return nil
		}
	}
	return fmt.Errorf("cannot run hook of container %s: it has no handler that is known here", c.Name)
}

// hookFailed is what the kubelet says of a hook that failed.
func (p *Pod) hookFailed(c *corev1.Container, h *corev1.LifecycleHandler, err error) string {
	what := "Lifecycle hook"
	switch {
	case h.Exec != nil:
		what = fmt.Sprintf("Exec lifecycle hook (%v)", h.Exec.Command)
	case h.HTTPGet != nil:
		what = fmt.Sprintf("HTTP lifecycle hook (%s)", h.HTTPGet.Path)
	case h.Sleep != nil:
		what = fmt.Sprintf("Sleep lifecycle hook (%d)", h.Sleep.Seconds)
	}
	o := p.Object()
	return fmt.Sprintf("%s for Container %q in Pod \"%s_%s(%s)\" failed - error: %v", what, c.Name, o.Name, o.Namespace, o.UID, err)
}

// httpHook asks as the kubelet does: any answer will do, from whoever answers.
func (p *Pod) httpHook(ctx context.Context, c *corev1.Container, g *corev1.HTTPGetAction) error {
	p.mu.Lock()
	ips := p.addresses()
	p.mu.Unlock()
	ip := g.Host
	if ip == "" {
		if len(ips) == 0 {
			return errors.New("the pod has no address")
		}
		ip = ips[0]
	}
	req, err := probes.Request(ctx, g, c, ip, "lifecycle")
	if err != nil {
		return err
	}
	err = p.get(req)
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		req = req.Clone(ctx)
		req.URL.Scheme = "http"
		req.Header.Del("Authorization")
		if err = p.get(req); err == nil {
			p.Event(corev1.EventTypeWarning, "LifecycleHTTPFallback", fmt.Sprintf(
				"request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host))
		}
	}
	return err
}

func (p *Pod) get(req *http.Request) error {
	res, err := p.node.hookClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 10<<10) // enough to let the connection end
	return nil
}

// newHookClient has nothing to verify a container's certificate by, and hence
// no credentials.
func newHookClient() *http.Client {
	return &http.Client{
		Timeout: hookTimeout,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case req.URL.Hostname() != via[0].URL.Hostname():
				return http.ErrUseLastResponse
			case len(via) >= 10:
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}
