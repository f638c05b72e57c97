package source

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds/v1alpha1"
)

// TestSilentSSH: a server that takes the connection, or the command, and then says nothing, is given up, and sees the
// connection end.
func TestSilentSSH(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, serve := range map[string]func(net.Conn){
		"at once": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"after the command": func(c net.Conn) {
			config := &ssh.ServerConfig{NoClientAuth: true}
			config.AddHostKey(key)
			server, channels, requests, err := ssh.NewServerConn(c, config)
			if err != nil {
				t.Error(err)
				return
			}
			go ssh.DiscardRequests(requests)
			go func() {
				for n := range channels {
					channel, asked, err := n.Accept()
					if err != nil {
						return
					}
					go func() {
						for r := range asked {
							_ = r.Reply(true, nil)
						}
					}()
					_, _ = channel.Write([]byte("00"))
				}
			}()
			_ = server.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan bool, 1)
			go func() {
				defer listener.Close()
				if c, err := listener.Accept(); err == nil {
					serve(c)
					c.Close()
				}
				ended <- true
			}()
			known := filepath.Join(t.TempDir(), "known_hosts")
			line := knownhosts.Line([]string{listener.Addr().String()}, key.PublicKey())
			if err := os.WriteFile(known, []byte(line+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := v1alpha1.Source{
				ObjectMeta: metav1.ObjectMeta{Name: "shop"},
				Spec: v1alpha1.SourceSpec{URL: "ssh://git@" + listener.Addr().String() + "/shop.git",
					Timeout: metav1.Duration{Duration: time.Second}, Credentials: &v1alpha1.Credentials{KnownHostsFile: known}},
			}
			_, err = watch(t, t.TempDir(), s).Look(t.Context(), "shop")
			if err == nil || !strings.Contains(err.Error(), "no answer within 1s") {
				t.Error(err)
			}
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				t.Error("the connection is still open")
			}
		})
	}
}
