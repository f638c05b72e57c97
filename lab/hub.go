package lab

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/crypto/ssh"

	"lockstep/lab/githost"
)

// hubArg is the hidden argument with which lockstep-lab runs again as the hub: _hub DIR.
const hubArg = "_hub"

var registryURL = fmt.Sprintf("http://%s:%d", HubAddr, RegistryPort)

// imagesDir holds the tars given to Images; the hub's registry is filled from it at its start.
func imagesDir(dir string) string { return filepath.Join(dir, "images") }

// reposDir holds the bare repositories, OWNER/NAME.git.
func reposDir(dir string) string { return filepath.Join(dir, "repos") }

// hubReadyURL answers on the hub once it serves everything and has its images.
const hubReadyURL = "http://127.0.0.1:3001/"

const hubReadyPort = 3001

// RunHub serves images, Git and a forge's API until it is killed.
func RunHub(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("cannot run the hub: want DIR, got %d arguments", len(args))
	}
	dir := args[0]
	blobs := filepath.Join(dir, "blobs")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return fmt.Errorf("cannot run the hub: %w", err)
	}
	failed := make(chan error, 4) // one for each server
	serve := func(port int, h http.Handler) {
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			failed <- fmt.Errorf("cannot run the hub: %w", err)
			return
		}
		server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		go func() { failed <- server.Serve(listener) }()
	}
	serve(RegistryPort, askAndDelay(registry.New(
		registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
		registry.Logger(log.New(io.Discard, "", 0)))))
	git := githost.New(reposDir(dir), githost.Options{})
	forge, err := newKeptForge(filepath.Join(dir, "hosts", Hub, "data", "statuses.json"))
	if err != nil {
		return err
	}
	forge.Known = func(repository, commit string) bool { return hasCommit(git.Dir(repository), commit) }
	serve(GitPort, gitAndForge(git.Handler(), forge))
	go func() { failed <- serveSSH(dir, git) }()

	tars, err := filepath.Glob(filepath.Join(imagesDir(dir), "*.tar"))
	if err != nil {
		return fmt.Errorf("cannot list the hub's images: %w", err)
	}
	for _, tar := range tars {
		if err := push(context.Background(), tar); err != nil {
			return err
		}
	}
	serve(hubReadyPort, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	return <-failed
}

// gitAndForge serves both on one port, as forges do.
func gitAndForge(git, forge http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == outagePath {
			forge.ServeHTTP(w, r)
			return
		}
		git.ServeHTTP(w, r)
	})
}

func hasCommit(repository, commit string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "-C", repository, "cat-file", "-e", commit+"^{commit}").Run() == nil
}

// Files below the lab's folder with which its daemon reaches the hub over SSH.
const (
	hostKeyFile    = "ssh/host_key"
	clientKeyFile  = "ssh/client_key"
	knownHostsFile = "ssh/known_hosts"
)

// SSHKey and KnownHosts are the files a source of the lab needs for its ssh:// repositories.
func (l *Lab) SSHKey() string { return filepath.Join(l.dir, clientKeyFile) }

// KnownHosts is the file with the hub's host key.
func (l *Lab) KnownHosts() string { return filepath.Join(l.dir, knownHostsFile) }

// makeKeys makes the hub's host key, the lab's client key, and what webhooks are signed with.
func (l *Lab) makeKeys() error {
	if err := l.makeWebhookSecret(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "ssh"), 0o700); err != nil {
		return fmt.Errorf("cannot keep SSH keys: %w", err)
	}
	for _, file := range []string{hostKeyFile, clientKeyFile} {
		signer, private, err := githost.NewKey()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(l.dir, file), private, 0o600); err != nil {
			return fmt.Errorf("cannot keep SSH keys: %w", err)
		}
		if file == hostKeyFile {
			known := githost.KnownHosts(fmt.Sprintf("%s:%d", HubAddr, SSHPort), signer.PublicKey())
			if err := os.WriteFile(l.KnownHosts(), []byte(known), 0o600); err != nil {
				return fmt.Errorf("cannot keep SSH keys: %w", err)
			}
		}
	}
	return nil
}

func serveSSH(dir string, git *githost.Server) error {
	host, err := readKey(filepath.Join(dir, hostKeyFile))
	if err != nil {
		return err
	}
	client, err := readKey(filepath.Join(dir, clientKeyFile))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", SSHPort))
	if err != nil {
		return fmt.Errorf("cannot run the hub: %w", err)
	}
	return git.ServeSSH(context.Background(), listener, githost.SSH{HostKey: host, Authorized: []ssh.PublicKey{client.PublicKey()}})
}

func readKey(path string) (ssh.Signer, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read an SSH key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read SSH key %s: %w", path, err)
	}
	return key, nil
}

// Images puts the images of docker-style tars into the lab's registry, each under its repository and tag without the
// registry's name, since every node asks the lab's registry for images of any.
func (l *Lab) Images(ctx context.Context, tars ...string) error {
	hub, err := l.Host(Hub)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(imagesDir(l.dir), 0o755); err != nil {
		return fmt.Errorf("cannot keep images: %w", err)
	}
	for _, tar := range tars {
		kept := filepath.Join(imagesDir(l.dir), filepath.Base(tar))
		if out, err := exec.CommandContext(ctx, "cp", tar, kept).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot keep image %s: %w: %s", tar, err, out)
		}
		if out, err := hub.Command(ctx, l.state.Options.Self, pushArg, kept).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot push image %s: %w: %s", tar, err, out)
		}
	}
	return nil
}

// pushArg is the hidden argument with which lockstep-lab runs again on the hub to push one tar's images.
const pushArg = "_push"

// RunPush pushes the images of one tar.
func RunPush(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("cannot push: want TAR, got %d arguments", len(args))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return push(ctx, args[0])
}

func push(ctx context.Context, tar string) error {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(tar) })
	if err != nil {
		return fmt.Errorf("cannot read image %s: %w", tar, err)
	}
	for _, descriptor := range manifest {
		for _, tag := range descriptor.RepoTags {
			source, err := name.NewTag(tag)
			if err != nil {
				return fmt.Errorf("cannot read image %s: %w", tar, err)
			}
			image, err := tarball.ImageFromPath(tar, &source)
			if err != nil {
				return fmt.Errorf("cannot read image %s of %s: %w", tag, tar, err)
			}
			target, err := name.NewTag(fmt.Sprintf("127.0.0.1:%d/%s:%s", RegistryPort, source.RepositoryStr(), source.TagStr()),
				name.Insecure)
			if err != nil {
				return fmt.Errorf("cannot name image %s: %w", tag, err)
			}
			if err := remote.Write(target, image, remote.WithContext(ctx)); err != nil {
				return fmt.Errorf("cannot push image %s: %w", tag, err)
			}
		}
	}
	return nil
}

var repoName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Repo makes a bare repository served by the hub. It returns its URL inside the lab, and the folder on the machine to
// push to. One that exists already is kept as it is.
func (l *Lab) Repo(ctx context.Context, repo string, overSSH bool) (url, folder string, err error) {
	if !repoName.MatchString(repo) || strings.HasSuffix(repo, ".git") {
		return "", "", fmt.Errorf("cannot make repository %q: want lower-case letters, digits, dots and dashes", repo)
	}
	folder, err = l.createRepo(ctx, "lab/"+repo)
	if err != nil {
		return "", "", err
	}
	base := hubHTTP
	if overSSH {
		base = hubSSH
	}
	return base + "/lab/" + repo + ".git", folder, nil
}
