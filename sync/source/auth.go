package source

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"

	"lockstep/kinds/v1alpha1"
)

// access is how to reach a repository, read anew from the credential files at every use.
type access struct {
	auth     transport.AuthMethod // nil: none
	caBundle []byte
}

// open reads the credential files. Its errors name files, never their contents.
func open(rawURL string, c *v1alpha1.Credentials, timeout time.Duration) (access, error) {
	endpoint, err := transport.NewEndpoint(rawURL)
	if err != nil {
		return access{}, fmt.Errorf("cannot use URL %s: it is malformed", Redact(rawURL))
	}
	if c == nil {
		c = &v1alpha1.Credentials{}
	}
	switch endpoint.Protocol {
	case "http", "https":
		return openHTTP(c)
	case "ssh":
		return openSSH(endpoint, c, timeout)
	case "file":
		return access{}, nil
	}
	return access{}, fmt.Errorf("cannot use URL %s: its scheme is none of http, https, ssh, file", Redact(rawURL))
}

func openHTTP(c *v1alpha1.Credentials) (access, error) {
	var a access
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return a, fmt.Errorf("cannot read the CA file: %w", err)
		}
		a.caBundle = pem
	}
	user, err := secret("user name", c.UsernameFile)
	if err != nil {
		return a, err
	}
	switch {
	case c.TokenFile != "":
		token, err := secret("token", c.TokenFile)
		if err != nil {
			return a, err
		}
		// Forges take a token as the password of any user (Gitea, GitLab and GitHub document "oauth2" or any name).
		if user == "" {
			user = "oauth2"
		}
		a.auth = &githttp.BasicAuth{Username: user, Password: token}
	case user != "" || c.PasswordFile != "":
		password, err := secret("password", c.PasswordFile)
		if err != nil {
			return a, err
		}
		a.auth = &githttp.BasicAuth{Username: user, Password: password}
	}
	return a, nil
}

// openSSH is strict: without a known_hosts file there is no connection.
func openSSH(endpoint *transport.Endpoint, c *v1alpha1.Credentials, timeout time.Duration) (access, error) {
	user := endpoint.User
	if user == "" {
		user = "git"
	}
	if c.KnownHostsFile == "" {
		return access{}, fmt.Errorf("cannot reach %s by ssh: spec.credentials.knownHostsFile of the Source is required, host keys are always checked", endpoint.Host)
	}
	db, err := gitssh.NewKnownHostsDb(c.KnownHostsFile)
	if err != nil {
		return access{}, fmt.Errorf("cannot read the known_hosts file: %w", err)
	}
	config := &ssh.ClientConfig{User: user, Timeout: timeout, HostKeyCallback: db.HostKeyCallback()}
	port := endpoint.Port
	if port == 0 {
		port = 22
	}
	config.HostKeyAlgorithms = db.HostKeyAlgorithms(net.JoinHostPort(endpoint.Host, fmt.Sprint(port)))
	if c.SSHKeyFile != "" {
		pem, err := os.ReadFile(c.SSHKeyFile)
		if err != nil {
			return access{}, fmt.Errorf("cannot read the SSH key file: %w", err)
		}
		signer, err := ssh.ParsePrivateKey(pem)
		if err != nil {
			return access{}, fmt.Errorf("cannot use the SSH key file %s: it is not an unencrypted private key", c.SSHKeyFile)
		}
		config.Auth = append(config.Auth, ssh.PublicKeys(signer))
	}
	if c.PasswordFile != "" {
		password, err := secret("password", c.PasswordFile)
		if err != nil {
			return access{}, err
		}
		config.Auth = append(config.Auth, ssh.Password(password))
	}
	return access{auth: sshAuth{config}}, nil
}

// sshAuth is an SSH client configuration as go-git takes it; its own types leave the connection without a timeout.
type sshAuth struct{ config *ssh.ClientConfig }

func (sshAuth) Name() string                               { return "ssh" }
func (sshAuth) String() string                             { return "ssh" }
func (a sshAuth) ClientConfig() (*ssh.ClientConfig, error) { return a.config, nil }

func secret(what, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("cannot read the %s file: %w", what, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Redact takes user name and password out of a URL, so that it can be shown.
func Redact(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" {
		if at := strings.LastIndex(rawURL, "@"); at >= 0 {
			return rawURL[at+1:]
		}
		return rawURL
	}
	u.User = nil
	return u.String()
}

// remoteError says that the remote side answered or could not be reached: making the clone anew would not help.
func remoteError(err error) bool {
	var network net.Error
	var unexpected *transportStatus
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed),
		errors.Is(err, transport.ErrRepositoryNotFound), errors.Is(err, transport.ErrEmptyRemoteRepository),
		errors.Is(err, transport.ErrInvalidAuthMethod), errors.Is(err, ErrNotFound):
		return true
	case errors.As(err, &network), errors.As(err, &unexpected):
		return true
	}
	return false
}

type transportStatus = githttp.Err
