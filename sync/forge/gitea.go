package forge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"lockstep/internal/giturl"
	"lockstep/sync/verdict"
)

const (
	// requestTimeout bounds one request: a forge under load answers a status within seconds.
	requestTimeout = 20 * time.Second
	// pageSize and maxPages bound the statuses of one commit that are read for the newest of a context.
	pageSize = 50
	maxPages = 20
	// maxAnswer bounds the bytes read of one answer: a page of statuses is well below it.
	maxAnswer = 4 << 20
)

// gitea is a repository on a Gitea or Forgejo server.
type gitea struct {
	url, owner, name  string
	tokenFile, caFile string
}

func (g *gitea) Post(ctx context.Context, commit string, s verdict.Status) error {
	return g.do(ctx, func(c *sdk.Client) (*sdk.Response, error) {
		_, resp, err := c.CreateStatus(g.owner, g.name, commit, sdk.CreateStatusOption{
			State: sdk.StatusState(s.State), Context: s.Context, Description: s.Description, TargetURL: s.TargetURL,
		})
		return resp, err
	})
}

// Last takes the status with the highest id, because servers differ in the order of their lists.
func (g *gitea) Last(ctx context.Context, commit, name string) (verdict.Status, bool, error) {
	var newest *sdk.Status
	for page := 1; page <= maxPages; page++ {
		var list []*sdk.Status
		err := g.do(ctx, func(c *sdk.Client) (*sdk.Response, error) {
			var resp *sdk.Response
			var err error
			list, resp, err = c.ListStatuses(g.owner, g.name, commit, sdk.ListStatusesOption{
				ListOptions: sdk.ListOptions{Page: page, PageSize: pageSize},
			})
			return resp, err
		})
		if err != nil {
			return verdict.Status{}, false, err
		}
		for _, s := range list {
			if s.Context == name && (newest == nil || s.ID > newest.ID) {
				newest = s
			}
		}
		if len(list) < pageSize {
			break
		}
	}
	if newest == nil {
		return verdict.Status{}, false, nil
	}
	return verdict.Status{
		State:       verdict.State(newest.State),
		Context:     newest.Context,
		Description: newest.Description,
		TargetURL:   newest.TargetURL,
	}, true, nil
}

// do makes a client with the credentials as they are now and turns its answer into our errors.
func (g *gitea) do(ctx context.Context, call func(*sdk.Client) (*sdk.Response, error)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	transport, err := g.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	options := []sdk.ClientOption{
		sdk.SetContext(ctx), sdk.SetHTTPClient(&http.Client{Transport: bounded{transport}}), sdk.SetGiteaVersion(""),
		sdk.SetUserAgent("lockstep"),
	}
	if g.tokenFile != "" {
		token, err := os.ReadFile(g.tokenFile)
		if err != nil {
			return fmt.Errorf("cannot read the forge's token file: %w", err)
		}
		options = append(options, sdk.SetToken(strings.TrimSpace(string(token))))
	}
	client, err := sdk.NewClient(g.url, options...)
	if err != nil {
		return fmt.Errorf("cannot use forge %s: %w", giturl.Redact(g.url), giturl.Error(err))
	}
	resp, err := call(client)
	if err == nil {
		return nil
	}
	if resp != nil && resp.StatusCode >= 400 && resp.StatusCode < 500 {
		return &Refusal{Code: resp.StatusCode, After: retryAfter(resp.Header), Text: describe(resp.StatusCode)}
	}
	if resp != nil && resp.StatusCode >= 500 {
		return fmt.Errorf("the forge answered %d", resp.StatusCode)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the forge did not answer in time: %w", ctx.Err())
	}
	return fmt.Errorf("the forge cannot be reached: %w", giturl.Error(err))
}

func (g *gitea) transport() (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if g.caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(g.caFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the forge's CA file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("cannot use the forge's CA file %s: it has no certificate", g.caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// describe words an answer by its code alone: a server's own text could repeat what it was sent.
func describe(code int) string {
	switch code {
	case http.StatusUnauthorized:
		return "the token is not accepted"
	case http.StatusForbidden:
		return "the token may not write commit statuses"
	case http.StatusNotFound:
		return "there is no such repository or commit, or the token does not show it"
	case http.StatusTooManyRequests:
		return "too many requests"
	}
	return strings.ToLower(http.StatusText(code))
}

// retryAfter reads the seconds or the date of a Retry-After header (RFC 9110, 10.2.3); zero where there is none.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds > 0 {
		return min(time.Duration(seconds)*time.Second, backoffMax)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, min(time.Until(at), backoffMax))
	}
	return 0
}

// bounded limits what is read of an answer.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}
