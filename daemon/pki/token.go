package pki

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"lockstep/store"
	"lockstep/store/view"
)

// Usages of a token.
const (
	UsageJoin = "join" // buys a node certificate
	UsageView = "view" // reads the API as a viewer
	UsageUser = "user" // reads the API as a user, in groups, that bindings name
	// UsageServer buys the cluster's keys, and a place among its servers.
	UsageServer = "server"
)

// ErrToken: the token is unknown, has expired, is not for this use, or its secret is wrong; which of them is not told.
var ErrToken = errors.New("the token is not valid")

const (
	tokenTable view.Table[TokenRecord] = "token"
	// idBytes: 10 random bytes never collide by accident; they are no secret.
	idBytes = 10
	// secretBytes: 160 bits cannot be guessed, so a fast hash of it may lie in the store.
	secretBytes = 20
)

// Token is a bearer secret. Only its hash is stored.
type Token struct {
	ID     string
	Secret string
}

// Bearer is what an Authorization header and a join request carry: "<id>.<secret>".
func (t Token) Bearer() string { return t.ID + "." + t.Secret }

// Text is what people copy to a new node: "<ca sha256 hex>.<id>.<secret>".
func (t Token) Text(pin string) string { return pin + "." + t.Bearer() }

// ParseBearer reads "<id>.<secret>".
func ParseBearer(bearer string) (Token, error) {
	id, secret, found := strings.Cut(bearer, ".")
	if !found || id == "" || secret == "" || strings.Contains(secret, ".") {
		return Token{}, errors.New("cannot read the token: want <id>.<secret>")
	}
	return Token{ID: id, Secret: secret}, nil
}

// TokenOptions say what a new token is for.
type TokenOptions struct {
	// Usages it is good for. Empty: join.
	Usages []string
	// TTL until it expires. Zero: it does not.
	TTL time.Duration
	// User it stands for, where it is no node's; with UsageView in the viewers' group. Empty: "viewer".
	User string
	// Groups of the user, with UsageUser.
	Groups []string
	// Node is the only name that a node may join under with it. Empty: any that is free.
	Node string
	// Server is the only name that a server may join under with it. Empty: that of the first that does.
	Server string
}

// TokenRecord is what the store keeps of a token, under its id.
type TokenRecord struct {
	// Hash is the SHA-256 of the secret in hex.
	Hash   string   `json:"hash"`
	Usages []string `json:"usages"`
	User   string   `json:"user,omitempty"`
	Groups []string `json:"groups,omitempty"`
	Node   string   `json:"node,omitempty"`
	// Server and Key are who may join as a server with it: the name, and the SHA-256 of the public key that it came with first.
	Server  string    `json:"server,omitempty"`
	Key     string    `json:"key,omitempty"`
	Created time.Time `json:"created"`
	// Expires is zero for a token that does not.
	Expires time.Time `json:"expires,omitzero"`
}

// NewToken draws a token and makes its record.
func NewToken(opts TokenOptions, now time.Time) (Token, TokenRecord) {
	t := Token{ID: random(idBytes), Secret: random(secretBytes)}
	r := TokenRecord{Hash: hash(t.Secret), Usages: opts.Usages, User: opts.User, Groups: opts.Groups, Node: opts.Node, Server: opts.Server,
		Created: now.UTC()}
	if len(r.Usages) == 0 {
		r.Usages = []string{UsageJoin}
	}
	if opts.TTL > 0 {
		r.Expires = r.Created.Add(opts.TTL)
	}
	return t, r
}

// Names are the user and the groups that the token stands for.
func (r TokenRecord) Names() (user string, groups []string) {
	if slices.Contains(r.Usages, UsageView) {
		return cmp.Or(r.User, "system:serviceaccount:kube-system:viewer"), []string{ViewerGroup}
	}
	return r.User, r.Groups
}

// Admits says whether the record is of this secret, and good for that use at that time.
func (r TokenRecord) Admits(secret, usage string, now time.Time) bool {
	alive := r.Expires.IsZero() || now.Before(r.Expires)
	return r.of(secret) && alive && slices.Contains(r.Usages, usage)
}

// of says whether the record is of this secret.
func (r TokenRecord) of(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(r.Hash), []byte(hash(secret))) == 1
}

func random(n int) string {
	raw := make([]byte, n)
	rand.Read(raw)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw))
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Tokens are the tokens in the store.
type Tokens struct {
	Store  store.Reader
	Commit store.Committer
	// Now tells the time. Nil: time.Now.
	Now func() time.Time
}

// Create stores a new token's record and returns the token, whose secret exists nowhere else. This server accepts it from
// then on, another one as soon as its view has it.
func (s Tokens) Create(ctx context.Context, opts TokenOptions) (Token, error) {
	t, r := NewToken(opts, s.now())
	writes := store.Group{{Record: tokenTable.Record(t.ID, r), Reason: "token created"}}
	for id := range s.expired() {
		writes = append(writes, removal(id, "token expired"))
	}
	result := s.Commit.Commit(ctx, writes)[0]
	if result.Err != nil {
		return Token{}, fmt.Errorf("cannot store token %s: %w", t.ID, result.Err)
	}
	if _, err := s.Store.Wait(ctx, result.Revision); err != nil {
		return Token{}, fmt.Errorf("cannot read token %s back: %w", t.ID, err)
	}
	return t, nil
}

// maxExpired bounds what one creation tidies away, far below what a transaction takes.
const maxExpired = 50

// expired are ids of tokens whose time is over.
func (s Tokens) expired() iter.Seq[string] {
	return func(yield func(string) bool) {
		n, now := 0, s.now()
		for id, r := range s.All() {
			if r.Expires.IsZero() || now.Before(r.Expires) {
				continue
			}
			if n++; n > maxExpired || !yield(id) {
				return
			}
		}
	}
}

// All are the records of all tokens by id, in order of it; one that cannot be read is left out.
func (s Tokens) All() iter.Seq2[string, TokenRecord] {
	return func(yield func(string, TokenRecord) bool) {
		for row, err := range tokenTable.Rows(s.Store.View(), "") {
			if err == nil && !yield(row.Name, row.Value) {
				return
			}
		}
	}
}

func removal(id, reason string) store.Write {
	return store.Write{Record: tokenTable.Gone(id), If: store.Anyway, Reason: reason}
}

// Check returns the record of a token that is good for one of the uses now; otherwise an error that matches ErrToken.
func (s Tokens) Check(t Token, usages ...string) (TokenRecord, error) {
	row, _, err := tokenTable.Get(s.Store.View(), t.ID)
	if err != nil {
		return TokenRecord{}, fmt.Errorf("cannot read token %s: %w", t.ID, err)
	}
	admits := func(usage string) bool { return row.Value.Admits(t.Secret, usage, s.now()) }
	if !slices.ContainsFunc(usages, admits) {
		return TokenRecord{}, fmt.Errorf("cannot accept token %s: %w", t.ID, ErrToken)
	}
	return row.Value, nil
}

// Issued says whether the view has a token of this id, whatever it is good for.
func Issued(v *view.View, id string) bool {
	_, found := v.Record(string(tokenTable), id)
	return found
}

// Delete removes a token; removing one that is not there is no error. This server refuses it from then on, another one as
// soon as its view has it.
func (s Tokens) Delete(ctx context.Context, id string) error {
	result := s.Commit.Commit(ctx, store.Group{removal(id, "token deleted")})[0]
	if result.Err != nil {
		return fmt.Errorf("cannot delete token %s: %w", id, result.Err)
	}
	if _, err := s.Store.Wait(ctx, result.Revision); err != nil {
		return fmt.Errorf("cannot see that token %s is gone: %w", id, err)
	}
	return nil
}

func (s Tokens) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}
