package pki

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/store"
)

// Why a token is not good for a server, told only to who has its secret; other errors match ErrToken.
var (
	// ErrTokenExpired: its time is over.
	ErrTokenExpired = errors.New("the token has expired: lockstep server token, on a server, makes another")
	// ErrTokenUse: it is a node's or a person's.
	ErrTokenUse = errors.New("the token is not one for servers: lockstep server token, on a server, makes one")
	// ErrTokenBound: another server has come with it, or it is for another name.
	ErrTokenBound = errors.New("the token is another server's: lockstep server token, on a server, makes one for this")
)

// ServerToken says whether the token lets a server of that name join that has the key of the request; from then on it is no
// other's. Errors match ErrToken, ErrTokenExpired, ErrTokenUse, ErrTokenBound, ErrRequest or the store's.
func (s Tokens) ServerToken(ctx context.Context, bearer, server string, csrPEM []byte) error {
	t, err := ParseBearer(bearer)
	if err != nil {
		return ErrToken
	}
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return err
	}
	key := fingerprint(csr.RawSubjectPublicKeyInfo)
	row, found, err := tokenTable.Get(s.Store.View(), t.ID)
	if err != nil {
		return fmt.Errorf("cannot read token %s: %w", t.ID, err)
	}
	if !found {
		return ErrToken
	}
	bound, err := row.Value.admitsServer(t.Secret, server, key, s.now())
	if err != nil || !bound {
		return err
	}
	mine := row.Value
	mine.Server, mine.Key = server, key
	write := store.Write{Record: tokenTable.Record(t.ID, mine), If: row.Revision, Reason: "a server joins with it"}
	result := s.Commit.Commit(ctx, store.Group{write})[0]
	if errors.Is(result.Err, store.ErrConflict) {
		return ErrTokenBound
	}
	if result.Err != nil {
		return fmt.Errorf("cannot note who uses token %s: %w", t.ID, result.Err)
	}
	_, err = s.Store.Wait(ctx, result.Revision)
	return err
}

// admitsServer is nil for one who may join; binds says that nobody has done so with the token before.
func (r TokenRecord) admitsServer(secret, server, key string, now time.Time) (binds bool, err error) {
	switch usages := r.Usages; {
	case len(usages) == 0 || !r.of(secret):
		return false, ErrToken
	case usages[0] != UsageServer:
		return false, ErrTokenUse
	case !r.Expires.IsZero() && !now.Before(r.Expires):
		return false, ErrTokenExpired
	case r.Server != "" && r.Server != server, r.Key != "" && r.Key != key:
		return false, ErrTokenBound
	}
	return r.Key == "", nil
}
