package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"lockstep/daemon/etcd"
	"lockstep/lab/githost"
)

const pushSource = `apiVersion: lockstep.dev/v1alpha1
kind: Source
metadata: {name: big}
spec:
  url: %s
  branch: main
  forge: {type: gitea, tokenFile: %[2]s, webhookSecretFile: %[2]s}
`

const secret = "measured"

// repository is a bare repository served over smart HTTP, with a folder that pushes to it and a clone that only fetches.
type repository struct{ url, work, clone string }

// pushChange measures from a push's webhook until the one line that it changed is in the store, against `git fetch` of
// the same commit and one write to etcd.
func pushChange(ctx context.Context, n *node) (_ []Row, err error) {
	files := n.size(10_000, 200)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot serve the repository: %w", err)
	}
	defer listener.Close()
	r, err := n.repository(ctx, listener, files)
	if err != nil {
		return nil, err
	}
	database, end, err := n.database(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	config, err := n.pushConfig(r.url)
	if err != nil {
		return nil, err
	}
	c, err := n.start(ctx, "--config", config)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.down()) }()
	hook, err := c.hook()
	if err != nil {
		return nil, err
	}
	round, text := 0, ""
	ours, bound, err := alternate(ctx, n.times(10), func(ctx context.Context) (float64, error) {
		round++
		color := fmt.Sprint("c", round)
		var path, object string
		path, text, object = manifest(round*7919%files, color)
		stored, err := c.watchFor(ctx, object, color)
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(r.work, path), []byte(text), 0o644); err != nil {
			return 0, err
		}
		if err := git(ctx, r.work, "commit", "-q", "-a", "-m", color); err != nil {
			return 0, err
		}
		if err := git(ctx, r.work, "push", "-q", r.url, "main"); err != nil {
			return 0, err
		}
		time.Sleep(pause)
		began := time.Now()
		if err := hook(ctx); err != nil {
			return 0, err
		}
		at, err := stored()
		return at.Sub(began).Seconds(), err
	}, timed(func(ctx context.Context) error {
		if err := git(ctx, r.clone, "fetch", "-q", "origin", "main"); err != nil {
			return err
		}
		_, err := database.Client.Put(ctx, "/bound", text)
		return err
	}))
	if err != nil {
		return nil, err
	}
	return []Row{beside(fmt.Sprintf("one-line push to a repository of %d manifests to stored", files), "s", ours, bound)}, nil
}

func (n *node) repository(ctx context.Context, listener net.Listener, files int) (repository, error) {
	var r repository
	root, err := n.folder()
	if err != nil {
		return r, err
	}
	host := githost.New(root, githost.Options{})
	server := &http.Server{Handler: host.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	if _, err := host.Create(ctx, "team/big"); err != nil {
		return r, err
	}
	r.url = fmt.Sprintf("http://%s/team/big.git", listener.Addr())
	r.work, r.clone = filepath.Join(root, "work"), filepath.Join(root, "clone.git")
	if err := writeManifests(r.work, files); err != nil {
		return r, err
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "-m", "all"}, {"push", "-q", r.url, "main"},
		{"clone", "-q", "--bare", r.url, r.clone},
	} {
		if err := git(ctx, r.work, args...); err != nil {
			return r, err
		}
	}
	return r, nil
}

func git(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@lockstep.example", "GIT_COMMITTER_NAME=bench",
		"GIT_COMMITTER_EMAIL=bench@lockstep.example")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot git %s: %w: %s", args[0], err, out)
	}
	return nil
}

// database starts an etcd for bounds, set up as Lockstep's own is.
func (n *node) database(ctx context.Context) (*etcd.Etcd, func() error, error) {
	dir, err := n.folder()
	if err != nil {
		return nil, nil, err
	}
	sockets, err := os.MkdirTemp("/run", "etcd")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a folder for sockets: %w", err)
	}
	e, err := etcd.Start(ctx, etcd.Options{DataDir: dir, SocketDir: sockets, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	return e, func() error { return errors.Join(e.Close(), os.RemoveAll(dir), os.RemoveAll(sockets)) }, nil
}

func (n *node) pushConfig(url string) (string, error) {
	dir, err := n.folder()
	if err != nil {
		return "", err
	}
	key, config := filepath.Join(dir, "secret"), filepath.Join(dir, "sources.yaml")
	if err := os.WriteFile(key, []byte(secret), 0o600); err != nil {
		return "", fmt.Errorf("cannot configure the source: %w", err)
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, pushSource, url, key), 0o600); err != nil {
		return "", fmt.Errorf("cannot configure the source: %w", err)
	}
	return config, nil
}

// hook returns a function that tells the daemon of a push as a forge does.
func (c *cluster) hook() (func(ctx context.Context) error, error) {
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client for the webhook: %w", err)
	}
	body := []byte(`{"ref": "refs/heads/main"}`)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	signature := hex.EncodeToString(mac.Sum(nil))
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.Host+"/hooks/git", bytes.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("X-Gitea-Signature", signature)
		response, err := client.Do(request)
		if err != nil {
			return fmt.Errorf("cannot send the webhook: %w", err)
		}
		defer response.Body.Close()
		if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusAccepted {
			return fmt.Errorf("cannot send the webhook: %s: %s", response.Status, text)
		}
		return nil
	}, nil
}
