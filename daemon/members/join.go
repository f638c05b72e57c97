package members

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"lockstep/daemon/etcd"
	"lockstep/daemon/pki"
	"lockstep/internal/settings"
	"lockstep/store"
)

const (
	// skew is how far the clocks of two servers may be apart, the request's way counted in: what one writes about now must not be
	// over for another.
	skew = 2 * time.Second
	// holdFor is how long a request is held for its answer: shorter than what a client takes for silence.
	holdFor = 10 * time.Second
	// askAgain is how old a request may be until it is written again.
	askAgain = 5 * time.Second
)

// JoinRequest is what a new server sends to one of the cluster.
type JoinRequest struct {
	// Token is "<id>.<secret>".
	Token string `json:"token"`
	// Name of the server, also of its member of etcd.
	Name string `json:"name"`
	// CSR is a certificate request in PEM, whose key is the server's as long as it joins; its subject is of no matter.
	CSR string `json:"csr"`
	// Peer is where its etcd will be reached, https://host:port. Empty: it uses an external one.
	Peer string `json:"peer,omitempty"`
	// Now is its clock.
	Now time.Time `json:"now"`
	// Cluster is the name that it was given; Settings are those that it was given.
	Cluster  string            `json:"cluster"`
	Settings settings.Settings `json:"settings"`
}

// JoinAnswer is what it gets.
type JoinAnswer struct {
	// Wait says what is waited for; the rest is empty then.
	Wait string `json:"wait,omitempty"`
	// Keys are the cluster's, for pki.Import.
	Keys map[string][]byte `json:"keys,omitempty"`
	// Members are the peer URLs by name, with its own; none where etcd is external.
	Members map[string]string `json:"members,omitempty"`
}

// ErrRefused says that a server may not join as it is; the text says what to do.
var ErrRefused = errors.New("refused")

// Door takes the requests of new servers; every server has one.
type Door struct {
	// Etcd whose members are asked for.
	Etcd   *etcd.Etcd
	Store  store.Backend
	Tokens pki.Tokens
	Vault  pki.Vault
	// Cluster and Settings are this cluster's.
	Cluster  string
	Settings settings.Settings
}

// Join takes a request in; it returns after a while at the latest, and is called again where the answer says to wait. Errors match
// ErrRefused, those of pki.Tokens.ServerToken, or the store's.
func (d *Door) Join(ctx context.Context, r JoinRequest) (JoinAnswer, error) {
	if err := d.Tokens.ServerToken(ctx, r.Token, r.Name, []byte(r.CSR)); err != nil {
		return JoinAnswer{}, err
	}
	if err := d.check(r, time.Now()); err != nil {
		return JoinAnswer{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if !d.Etcd.Embedded() {
		keys, err := pki.Export(d.Vault)
		return JoinAnswer{Keys: keys}, err
	}
	if err := d.ask(ctx, r); err != nil {
		return JoinAnswer{}, err
	}
	return d.await(ctx, r)
}

// check says why a request cannot be granted, whoever makes it.
func (d *Door) check(r JoinRequest, now time.Time) error {
	if problems := validation.IsDNS1123Subdomain(r.Name); len(problems) > 0 {
		return fmt.Errorf("%q is no name for a server: %s", r.Name, problems[0])
	}
	if off := r.Now.Sub(now); off.Abs() > skew {
		return fmt.Errorf("its clock is off by %v: servers whose clocks differ by more than %v do not work together; set it by NTP",
			off.Round(time.Second), skew)
	}
	if r.Cluster != d.Cluster {
		return fmt.Errorf("this cluster's name is %q, it was given %q: --cluster is the same for all servers", d.Cluster, r.Cluster)
	}
	if err := settings.Differ("as it was given", r.Settings.Or(d.Settings), "in this cluster", d.Settings); err != nil {
		return err
	}
	u, err := url.Parse(r.Peer)
	switch {
	case !d.Etcd.Embedded() && r.Peer != "":
		return errors.New("this cluster's etcd is external: give --etcd-endpoints")
	case d.Etcd.Embedded() && (err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == ""):
		return errors.New("this cluster's etcd runs in its servers: leave out --etcd-endpoints")
	}
	return nil
}

// ask writes the request for the leader, unless it was a moment ago.
func (d *Door) ask(ctx context.Context, r JoinRequest) error {
	row, found, err := requests.Get(d.Store.View(), r.Name)
	if found && err == nil && row.Value.Peer == r.Peer && row.Value.Refused == "" && time.Since(row.Value.Asked) < askAgain {
		return nil
	}
	is := Request{Peer: r.Peer, Asked: time.Now().UTC()}
	if found && err == nil && row.Value.Peer == r.Peer {
		is.Added = row.Value.Added && d.member(r.Peer) != nil
	}
	w := store.Write{Record: requests.Record(r.Name, is), If: row.Revision, Reason: "a server asks to join"}
	result := d.Store.Commit(ctx, store.Group{w})[0]
	if errors.Is(result.Err, store.ErrConflict) {
		return nil // it was answered meanwhile
	}
	if result.Err != nil {
		return fmt.Errorf("cannot note that server %s wants to join: %w", r.Name, result.Err)
	}
	_, err = d.Store.Wait(ctx, result.Revision)
	return err
}

// await waits for the leader's answer.
func (d *Door) await(ctx context.Context, r JoinRequest) (JoinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, holdFor)
	defer cancel()
	sub := d.Store.Subscribe("join")
	defer sub.Close()
	for {
		row, found, err := requests.Get(d.Store.View(), r.Name)
		switch {
		case err != nil:
			return JoinAnswer{}, err
		case found && row.Value.Refused != "":
			return JoinAnswer{}, fmt.Errorf("%w: %s", ErrRefused, row.Value.Refused)
		case found && row.Value.Added && d.member(r.Peer) != nil:
			keys, err := pki.Export(d.Vault)
			return JoinAnswer{Keys: keys, Members: d.urls(r)}, err
		}
		select {
		case _, ok := <-sub.C:
			if !ok {
				return JoinAnswer{Wait: "the leader"}, nil
			}
		case <-time.After(busyEvery): // this server's etcd may learn of a member after the store does
		case <-ctx.Done():
			return JoinAnswer{Wait: "the leader, or another server that is joining"}, nil
		}
	}
}

func (d *Door) member(peer string) *etcd.Member {
	for _, m := range d.Etcd.Members() {
		if m.PeerURL == peer {
			return &m
		}
	}
	return nil
}

// urls are the members' by name, as etcd wants them of a new one.
func (d *Door) urls(r JoinRequest) map[string]string {
	out := map[string]string{}
	for _, m := range d.Etcd.Members() {
		name := m.Name
		if m.PeerURL == r.Peer {
			name = r.Name
		}
		out[name] = m.PeerURL
	}
	return out
}
