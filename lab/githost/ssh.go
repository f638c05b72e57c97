package githost

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// handshake bounds the time until a client is authenticated.
const handshake = 20 * time.Second

// SSH is who the server is and whom it lets in.
type SSH struct {
	HostKey ssh.Signer
	// Authorized are the keys that may fetch and push, as any user.
	Authorized []ssh.PublicKey
}

// ServeSSH serves until ctx ends, then closes the listener and every connection, and returns nil after all have ended.
func (s *Server) ServeSSH(ctx context.Context, l net.Listener, id SSH) error {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		for _, k := range id.Authorized {
			if bytes.Equal(k.Marshal(), key.Marshal()) {
				return nil, nil
			}
		}
		return nil, errors.New("the key is not authorized")
	}}
	config.AddHostKey(id.HostKey)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot accept SSH connections: %w", err)
		}
		connections.Go(func() { s.connection(ctx, conn, config) })
	}
}

func (s *Server) connection(ctx context.Context, conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if conn.SetDeadline(time.Now().Add(handshake)) != nil {
		return
	}
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil || conn.SetDeadline(time.Time{}) != nil {
		return
	}
	defer server.Close()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { ssh.DiscardRequests(requests) })
	for c := range channels {
		if c.ChannelType() != "session" {
			c.Reject(ssh.UnknownChannelType, "only sessions are served")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		work.Go(func() { s.session(ctx, channel, requests) })
	}
}

func (s *Server) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	version := ""
	for r := range requests {
		switch r.Type {
		case "env":
			var v struct{ Name, Value string }
			if ssh.Unmarshal(r.Payload, &v) == nil && v.Name == "GIT_PROTOCOL" && len(v.Value) <= 64 {
				version = v.Value
			}
			r.Reply(true, nil)
		case "exec":
			var command struct{ Line string }
			if err := ssh.Unmarshal(r.Payload, &command); err != nil {
				r.Reply(false, nil)
				return
			}
			r.Reply(true, nil)
			code := s.exec(ctx, channel, command.Line, version)
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
			return
		default:
			r.Reply(false, nil)
		}
	}
}

// exec runs the two commands that a Git client asks for: git-upload-pack '<repository>', git-receive-pack '<repository>'.
func (s *Server) exec(ctx context.Context, channel ssh.Channel, line, version string) uint32 {
	fail := func(err error) uint32 {
		fmt.Fprintln(channel.Stderr(), err)
		return 128
	}
	command, name, _ := strings.Cut(strings.TrimPrefix(line, "git-"), " ")
	if command != "upload-pack" && command != "receive-pack" {
		return fail(errors.New("only git-upload-pack and git-receive-pack are served"))
	}
	dir, err := s.find(strings.Trim(name, "' "))
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	release, err := s.acquire(ctx)
	if err != nil {
		return fail(err)
	}
	defer release()
	s.count(map[string]string{"upload-pack": "fetch", "receive-pack": "push"}[command])
	cmd := git(ctx, command, dir)
	cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+version)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fail(err)
	}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	// The copy ends with the command's input or the client's: not waited for, as git may end before its client closes.
	go func() {
		io.Copy(stdin, channel)
		stdin.Close()
	}()
	if err := cmd.Wait(); err != nil {
		return 1
	}
	return 0
}

// NewKey makes an Ed25519 key: the signer, and the private key as an OpenSSH file has it.
func NewKey() (ssh.Signer, []byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make an SSH key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make an SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make an SSH key: %w", err)
	}
	return signer, pem.EncodeToMemory(block), nil
}

// KnownHosts is the line of a known_hosts file for a server at an address, host:port.
func KnownHosts(address string, key ssh.PublicKey) string {
	return knownhosts.Line([]string{knownhosts.Normalize(address)}, key) + "\n"
}
