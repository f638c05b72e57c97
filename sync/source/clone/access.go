package clone

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"

	"lockstep/internal/giturl"
	"lockstep/kinds/v1alpha1"
)

// access is how to reach a repository, read anew from the credential files at every use.
type access struct {
	auth     transport.AuthMethod // nil: none
	caBundle []byte
	proxy    transport.ProxyOptions
}

// reach reads the credential files. Its errors name files, never their contents.
func reach(rawURL string, c *v1alpha1.Credentials) (access, error) {
	endpoint, err := transport.NewEndpoint(rawURL)
	if err != nil {
		return access{}, fmt.Errorf("cannot use URL %s: it is malformed", giturl.Redact(rawURL))
	}
	if c == nil {
		c = &v1alpha1.Credentials{}
	}
	a, err := reachBy(endpoint, rawURL, c)
	a.proxy = through(endpoint)
	return a, err
}

func reachBy(endpoint *transport.Endpoint, rawURL string, c *v1alpha1.Credentials) (access, error) {
	switch endpoint.Protocol {
	case "http", "https":
		return openHTTP(c)
	case "ssh":
		return openSSH(endpoint, c)
	case "file":
		return access{}, nil
	}
	return access{}, fmt.Errorf("cannot use URL %s: its scheme is none of http, https, ssh, file", giturl.Redact(rawURL))
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
func openSSH(endpoint *transport.Endpoint, c *v1alpha1.Credentials) (access, error) {
	user := endpoint.User
	if user == "" {
		user = "git"
	}
	if c.KnownHostsFile == "" {
		return access{}, fmt.Errorf("cannot reach %s by ssh: its host keys are not known: name a known_hosts file (ssh-keyscan %s) in "+
			"spec.credentials.knownHostsFile of a Source, and the file of Sources with --config", endpoint.Host, endpoint.Host)
	}
	db, err := gitssh.NewKnownHostsDb(c.KnownHostsFile)
	if err != nil {
		return access{}, fmt.Errorf("cannot read the known_hosts file: %w", err)
	}
	config := &ssh.ClientConfig{User: user, HostKeyCallback: db.HostKeyCallback()}
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

// sshAuth is an SSH client configuration as go-git takes it.
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

// remoteError says that the remote side answered or could not be reached: making the clone anew would not help.
func remoteError(err error) bool {
	var network net.Error
	var unexpected *githttp.Err
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed),
		errors.Is(err, transport.ErrRepositoryNotFound), errors.Is(err, transport.ErrEmptyRemoteRepository),
		errors.Is(err, transport.ErrInvalidAuthMethod), errors.Is(err, errNotFound):
		return true
	case errors.As(err, &network), errors.As(err, &unexpected):
		return true
	}
	return false
}

// wording puts go-git's errors, and the ends of a look, in words of ours.
func wording(err error, p Place) string {
	var request *url.Error
	switch {
	case errors.Is(err, errSilent):
		return fmt.Sprintf("no answer within %s", p.Silence)
	case errors.Is(err, errLong):
		return fmt.Sprintf("reading it takes longer than %s", p.Limits.Total)
	case errors.Is(err, errBusy):
		return fmt.Sprintf("reading it takes more than %s of a processor", p.Limits.CPU)
	case isLimit(err):
		return err.Error()
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return "the repository has no commits"
	case errors.Is(err, transport.ErrAuthenticationRequired):
		return "it wants credentials that it was not given or does not take (spec.credentials of a Source document names them, " +
			"in the file that --config names)"
	case errors.Is(err, transport.ErrAuthorizationFailed):
		return "the credentials do not allow reading it"
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return "there is no such repository, or the credentials do not show it"
	case errors.As(err, &request):
		return request.Err.Error() // the URL is told already
	}
	return err.Error()
}
