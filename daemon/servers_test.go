package daemon

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"lockstep/daemon/control"
	"lockstep/daemon/members"
	"lockstep/internal/eventually"
	"lockstep/internal/loopback"
)

const serversPatience = 60 * time.Second

// running is a server of a cluster in this process.
type running struct {
	opts Options
	door *control.Client
	stop context.CancelFunc
	done chan error
}

func serverOptions(t *testing.T, name string) Options {
	o := options(t)
	o.Name, o.Listen, o.Peer = name, loopback.Free(t), loopback.Free(t)
	o.Advertise = o.Listen
	return o
}

// begin runs a server until it is stopped, or the test ends.
func beginServer(t *testing.T, o Options) *running {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s := &running{opts: o, door: control.Dial(o.RunDir), stop: stop, done: make(chan error, 1)}
	go func() { s.done <- Run(ctx, o) }()
	t.Cleanup(func() { _ = s.end() })
	return s
}

// end stops the server and returns how it ended.
func (s *running) end() error {
	s.stop()
	err := <-s.done
	s.done <- err
	return err
}

// table is what the server says of all servers.
func (s *running) table(t *testing.T) string {
	r, err := s.door.Report(t.Context())
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, is := range r.Servers {
		state := is.Role
		if is.Silence != "" {
			state = "gone"
		}
		all = append(all, is.Name+" "+state)
	}
	if r.Ready != "" {
		all = append(all, "not ready")
	}
	return strings.Join(all, ", ")
}

func (s *running) until(t *testing.T, wants ...string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(serversPatience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		last = s.table(t)
		for _, want := range wants {
			if last == want {
				return
			}
		}
	}
	t.Fatalf("%s says %q, want one of %q", s.opts.Name, last, wants)
}

// joining are the options of a server that joins another with a new token.
func (s *running) joining(t *testing.T, o Options, token control.TokenOptions) Options {
	t.Helper()
	token.TTL = max(token.TTL, time.Hour)
	text, err := s.door.Token(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	o.Join = members.Target{Server: "https://" + s.opts.Listen.String(), Token: text}
	return o
}

// TestServers makes a cluster of one server one of three, whose data stay, and takes it through what happens to such a cluster.
func TestServers(t *testing.T) {
	server := control.TokenOptions{Server: true}
	a := beginServer(t, serverOptions(t, "a"))
	a.until(t, "a leader")
	before, err := a.door.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, history := before, a.historyOf(t)

	refused := func(what, want string, o Options) {
		t.Helper()
		err := beginServer(t, o).wait(t)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		if left, _ := os.ReadDir(etcdDir(o)); len(left) > 0 {
			t.Errorf("%s: it has data of etcd", what)
		}
		if _, err := vaultOf(o).Read("ca.key"); err == nil {
			t.Errorf("%s: it has the cluster's key", what)
		}
	}
	good := a.joining(t, serverOptions(t, "x"), server)
	refused("a node's token", "is not one for servers", a.joining(t, serverOptions(t, "x"), control.TokenOptions{}))
	refused("another's token", "is another server's",
		a.joining(t, serverOptions(t, "x"), control.TokenOptions{Server: true, ServerName: "y"}))
	wrong := good
	wrong.Join.Token += "x"
	refused("a wrong token", "the token is not valid", wrong)
	wrong = good
	wrong.Join.Token = strings.Repeat("0", 64) + good.Join.Token[64:]
	refused("another CA", "does not have the CA that the token pins", wrong)
	wrong = good
	wrong.Join.Token = "x"
	refused("no token", "is not of the form", wrong)
	wrong = good
	wrong.Cluster = "other"
	refused("another cluster's name", `this cluster's name is "lockstep"`, wrong)
	wrong = good
	wrong.Settings.Domain = "other.local"
	refused("other settings", "the domain is other.local as it was given", wrong)
	wrong = a.joining(t, serverOptions(t, "a"), server)
	refused("a taken name", "there is a server a already", wrong)
	a.until(t, "a leader")

	// The second stands by. It says so, and serves nothing.
	b := beginServer(t, a.joining(t, serverOptions(t, "b"), server))
	a.until(t, "a leader, b stand-by")
	c := beginServer(t, a.joining(t, serverOptions(t, "c"), server))
	for _, s := range []*running{a, b, c} {
		s.until(t, "a leader, b server, c server")
		if s.historyOf(t) != history {
			t.Errorf("%s has other data", s.opts.Name)
		}
	}

	// One that leads stops: another leads, and it comes back.
	if err := a.end(); err != nil {
		t.Fatal(err)
	}
	b.until(t, "a gone, b leader, c server", "a gone, b server, c leader")
	a = beginServer(t, a.opts)
	b.until(t, "a server, b leader, c server", "a server, b server, c leader")

	// One loses its data, is taken out, and joins anew by the same name.
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	lost := serverOptions(t, "c")
	lost.Peer = c.opts.Peer
	a.until(t, "a leader, b server, c gone", "a server, b leader, c gone")
	refused("beside one that is gone", "server c has a vote and does not answer", a.joining(t, serverOptions(t, "d"), server))
	if text, err := a.door.RemoveServer(t.Context(), "c"); err != nil || !strings.Contains(text, "2 servers have a vote") {
		t.Errorf("removed: %s, %v", text, err)
	}
	if _, err := a.door.RemoveServer(t.Context(), "c"); err == nil || !strings.Contains(err.Error(), "there is none of this name") {
		t.Errorf("removed again: %v", err)
	}
	c = beginServer(t, a.joining(t, lost, server))
	c.until(t, "a leader, b server, c server", "a server, b leader, c server", "a server, b server, c leader")

	// Two of three go: what is left says so, and goes on alone where it is told to.
	for _, s := range []*running{b, c} {
		if err := s.end(); err != nil {
			t.Fatal(err)
		}
	}
	eventually.Nil(t, serversPatience, "told that the majority is lost", func() error {
		r, err := a.door.Report(t.Context())
		if err == nil && !strings.Contains(r.Ready, "there is no majority of the 3 servers") {
			err = fmt.Errorf("it is %q", r.Ready)
		}
		return err
	})
}

// wait returns how a server ends that is to end by itself.
func (s *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		return err
	case <-time.After(serversPatience):
		t.Fatalf("%s goes on", s.opts.Name)
		return nil
	}
}

// historyOf is the pin in a token of the server: who has the same data has the same.
func (s *running) historyOf(t *testing.T) string {
	t.Helper()
	text, err := s.door.Token(t.Context(), control.TokenOptions{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	pin, _, _ := strings.Cut(text, ".")
	return pin
}
