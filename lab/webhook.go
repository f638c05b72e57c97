package lab

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// webhookSecretFile holds, in the lab's folder, what the hub signs webhooks with.
const webhookSecretFile = "webhook_secret"

func (l *Lab) webhookSecret() string { return filepath.Join(l.dir, webhookSecretFile) }

func (l *Lab) makeWebhookSecret() error {
	if err := os.WriteFile(l.webhookSecret(), []byte(rand.Text()), 0o600); err != nil {
		return fmt.Errorf("cannot keep the webhook secret: %w", err)
	}
	return nil
}

// pushedArg is the hidden argument with which a repository's hook runs lockstep-lab after a push: _pushed DIR REPOSITORY.
const pushedArg = "_pushed"

// installHook makes every push to a repository send a webhook, as a forge does: after it has answered the push, whether
// the webhook arrives or not.
func (l *Lab) installHook(folder, repository string) error {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	script := fmt.Sprintf("#!/bin/sh\ncat >/dev/null\n%s %s %s %s </dev/null >/dev/null 2>&1 &\n",
		quote(l.state.Options.Self), pushedArg, quote(l.dir), quote(repository))
	hooks := filepath.Join(folder, "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		return fmt.Errorf("cannot make the hook of repository %s: %w", repository, err)
	}
	if err := os.WriteFile(filepath.Join(hooks, "post-receive"), []byte(script), 0o755); err != nil { //nolint:gosec // a program
		return fmt.Errorf("cannot make the hook of repository %s: %w", repository, err)
	}
	return nil
}

// RunPushed sends the webhook of a push.
func RunPushed(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("cannot send a webhook: want DIR REPOSITORY, got %d arguments", len(args))
	}
	l, err := Open(args[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = l.Webhook(ctx, args[1])
	return err
}

// Webhook sends, from the hub, the signed webhook that Gitea sends after a push to a repository, to the first server that answers of
// those that run, as what stands before several servers does. It returns the code of the answer.
func (l *Lab) Webhook(ctx context.Context, repository string) (code int, err error) {
	secret, err := os.ReadFile(l.webhookSecret())
	if err != nil {
		return 0, fmt.Errorf("cannot sign a webhook: %w", err)
	}
	body, err := json.Marshal(map[string]any{"repository": map[string]string{"full_name": repository}})
	if err != nil {
		return 0, fmt.Errorf("cannot make a webhook: %w", err)
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	hub, err := l.Host(Hub)
	if err != nil {
		return 0, err
	}
	client := hub.HTTP()
	client.Timeout = webhookWait
	defer client.CloseIdleConnections()
	for _, s := range l.Servers() {
		if !s.Services[Daemon].alive() {
			continue
		}
		if code, err = sendWebhook(ctx, client, s.Addr, body, hex.EncodeToString(mac.Sum(nil))); err == nil {
			return code, nil
		}
	}
	return 0, cmp.Or(err, errors.New("cannot send a webhook: no server runs"))
}

// webhookWait is how long a server is waited for that may be off the network.
const webhookWait = 2 * time.Second

func sendWebhook(ctx context.Context, client *http.Client, server string, body []byte, signature string) (code int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+server+":6443/hooks/git", bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("cannot make a webhook: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Gitea-Event", "push")
	request.Header.Set("X-Gitea-Signature", signature)
	response, err := client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("cannot send a webhook: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 4096))
	return response.StatusCode, nil
}
