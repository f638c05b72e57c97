package pki

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/store"
	"lockstep/store/view"
)

// Phases of the replacement of the cluster's authority. Each begins when nobody needs the one before any more.
const (
	// PhaseTrust: all servers learn the new authority, and trust both; the old one signs.
	PhaseTrust = "trust"
	// PhaseSign: the new one signs, all certificates are made anew, and both are trusted.
	PhaseSign = "sign"
	// PhaseDone: the old one is trusted no more.
	PhaseDone = "done"
)

// Rotation is the row pki/rotation: how far the replacement of the authority has come, by what leads the cluster.
type Rotation struct {
	Phase string `json:"phase"`
	// Old and New are the certificates in PEM.
	Old   string    `json:"old"`
	New   string    `json:"new"`
	Since time.Time `json:"since"` // of the phase
}

// holder is the row pki/rotation/<server>: which mark the authority of a server has.
type holder struct {
	Mark string `json:"mark"`
}

// issued is the row pki/issued/<serial>: a certificate that somebody was given.
type issued struct {
	User  string    `json:"user"`
	By    string    `json:"by"` // the pin of the authority
	Until time.Time `json:"until"`
}

const (
	rotationTable view.Table[Rotation] = pkiTable
	holderTable   view.Table[holder]   = pkiTable
	issuedTable   view.Table[issued]   = pkiTable

	rotationName, holderPrefix, issuedPrefix = "rotation", "rotation/", "issued/"
)

// ErrRotating says that the authority is being replaced already.
var ErrRotating = errors.New("it is being replaced already")

// Rotating is the replacement that is under way, or the last one; not ok: there was none.
func Rotating(v *view.View) (r Rotation, ok bool, err error) {
	row, ok, err := rotationTable.Get(v, rotationName)
	return row.Value, ok, err
}

// marks are those of an authority in the phases of a rotation.
func (r Rotation) marks() (trust, sign, done string, err error) {
	was, err := certificate(r.Old)
	if err != nil {
		return "", "", "", err
	}
	is, err := certificate(r.New)
	if err != nil {
		return "", "", "", err
	}
	return markOf(was, is), markOf(is, was), markOf(is), nil
}

func certificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("cannot read a certificate of the rotation: want PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Standing is who has what of an authority.
type Standing struct {
	// Servers have their marks, empty where one has told none, and Nodes those that they have told.
	Servers, Nodes map[string]string
	// Users are whose certificates the old authority signed, with until when they hold.
	Users map[string]time.Time
	// Peers says that servers have etcds inside, which trust what they began with.
	Peers bool
}

// StandingIn reads from a view who has what: of these servers, and of nodes by what they say.
func StandingIn(v *view.View, servers []string, nodes map[string]string, now time.Time) Standing {
	old := ""
	if r, found, err := Rotating(v); err == nil && found {
		if cert, err := certificate(r.Old); err == nil {
			old = Pin(cert)
		}
	}
	s := Standing{Servers: map[string]string{}, Nodes: nodes, Users: map[string]time.Time{}}
	for _, name := range servers {
		row, _, _ := holderTable.Get(v, holderPrefix+name) // what cannot be read was not told
		s.Servers[name] = row.Value.Mark
	}
	for row, err := range issuedTable.Rows(v, issuedPrefix) {
		if c := row.Value; err == nil && c.By == old && c.Until.After(now) && c.Until.After(s.Users[c.User]) {
			s.Users[c.User] = c.Until
		}
	}
	return s
}

// Waits says who keeps a rotation from its next phase, in words, sorted; none: nobody does.
func (r Rotation) Waits(s Standing) ([]string, error) {
	trust, sign, _, err := r.marks()
	if err != nil {
		return nil, err
	}
	var out []string
	behind := func(what string, have map[string]string, want, lacks string) {
		for name, mark := range have {
			if mark != want {
				out = append(out, fmt.Sprintf("%s %s %s", what, name, lacks))
			}
		}
	}
	switch r.Phase {
	case PhaseTrust:
		behind("server", s.Servers, trust, "does not trust the new CA yet")
	case PhaseSign:
		behind("server", s.Servers, sign, "does not sign by the new CA yet")
		behind("node", s.Nodes, sign, "has a certificate of the old CA")
		for user, until := range s.Users {
			out = append(out, fmt.Sprintf("user %s has a certificate of the old CA until %s", user, until.Format(time.DateOnly)))
		}
		if s.Peers && len(s.Servers) > 1 {
			out = append(out, "the servers' etcds know each other by the old CA until these have been started again: "+
				"start one after the other, then lockstep ca rotate --drop-old")
		}
	}
	slices.Sort(out)
	return out, nil
}

// after is the phase that follows one.
func after(phase string) string {
	if phase == PhaseTrust {
		return PhaseSign
	}
	return PhaseDone
}

// Rotate begins to replace the authority: it makes the next one here, and tells all servers. Where one is being replaced the error matches
// ErrRotating.
func (a *Authority) Rotate(ctx context.Context, v *view.View, commit store.Committer) error {
	row, found, err := rotationTable.Get(v, rotationName)
	if err == nil && found && row.Value.Phase != PhaseDone {
		err = ErrRotating
	}
	if err != nil {
		return fmt.Errorf("cannot replace the cluster's CA: %w", err)
	}
	if _, err := a.Next(); err != nil {
		return err
	}
	k := a.current()
	r := Rotation{Phase: PhaseTrust, Old: string(certPEM(k.is.cert)), New: string(certPEM(k.next.cert)), Since: a.now().UTC()}
	w := store.Write{Record: rotationTable.Record(rotationName, r), If: row.Revision, Reason: "the CA is to be replaced"}
	err = commit.Commit(ctx, store.Group{w})[0].Err
	if errors.Is(err, store.ErrConflict) { // somebody was quicker
		err = ErrRotating
	}
	if err != nil {
		return fmt.Errorf("cannot replace the cluster's CA: %w", err)
	}
	return nil
}

// Advance brings a rotation to its next phase where nobody keeps it from that, or by force, and says whether it did. It is the leader's.
func Advance(ctx context.Context, v *view.View, commit store.Committer, s Standing, force bool, now time.Time) (bool, error) {
	row, found, err := rotationTable.Get(v, rotationName)
	if err != nil || !found || row.Value.Phase == PhaseDone {
		return false, err
	}
	waits, err := row.Value.Waits(s)
	if err != nil || len(waits) > 0 && !force {
		return false, err
	}
	next := row.Value
	next.Phase, next.Since = after(next.Phase), now.UTC()
	w := store.Write{Record: rotationTable.Record(rotationName, next), If: row.Revision, Reason: "the CA's replacement goes on"}
	if err := commit.Commit(ctx, store.Group{w})[0].Err; err != nil {
		return false, fmt.Errorf("cannot go on with the replacement of the CA: %w", err)
	}
	return true, nil
}

// DropOld ends a rotation although nodes or users have certificates of the old authority still: they are refused from then on.
func DropOld(ctx context.Context, v *view.View, commit store.Committer, s Standing, now time.Time) error {
	r, found, err := Rotating(v)
	if err != nil {
		return err
	}
	if !found || r.Phase != PhaseSign {
		return errors.New("cannot drop the old CA: none is dropped before all servers sign by a new one; " +
			"lockstep ca status says how far that is")
	}
	servers := Standing{Servers: s.Servers}
	waits, err := r.Waits(servers)
	if err != nil {
		return err
	}
	if len(waits) > 0 {
		return fmt.Errorf("cannot drop the old CA: %s", strings.Join(waits, "; "))
	}
	_, err = Advance(ctx, v, commit, servers, true, now)
	return err
}

// Until is when the certificate of the authority that signs runs out.
func (a *Authority) Until() time.Time { return a.current().is.cert.NotAfter }

// Follow has the authority of a server of that name as a rotation wants it, and tells so. Fetch gets the next authority, with its key,
// from another server.
func (a *Authority) Follow(ctx context.Context, v *view.View, commit store.Committer, name string,
	fetch func(context.Context) ([]byte, error)) error {
	r, found, err := Rotating(v)
	if err != nil || !found {
		return err
	}
	if err := a.follow(ctx, r, fetch); err != nil {
		return fmt.Errorf("cannot follow the replacement of the CA: %w", err)
	}
	row, _, _ := holderTable.Get(v, holderPrefix+name)
	if row.Value.Mark == a.Mark() {
		return nil
	}
	mine := holderTable.Record(holderPrefix+name, holder{Mark: a.Mark()})
	w := store.Write{Record: mine, If: row.Revision, Reason: "the CA of this server"}
	return commit.Commit(ctx, store.Group{w})[0].Err
}

func (a *Authority) follow(ctx context.Context, r Rotation, fetch func(context.Context) ([]byte, error)) error {
	next, err := certificate(r.New)
	if err != nil {
		return err
	}
	if k := a.current(); !k.is.cert.Equal(next) && (k.next == nil || !k.next.cert.Equal(next)) {
		bundle, err := fetch(ctx)
		if err != nil {
			return err
		}
		given, err := parse(bundle)
		if err == nil && !given.cert.Equal(next) {
			err = errors.New("another server gave another CA than the cluster is to have")
		}
		if err != nil {
			return err
		}
		if err := a.Trust(bundle); err != nil {
			return err
		}
	}
	if r.Phase == PhaseTrust {
		return nil
	}
	if err := a.Switch(); err != nil || r.Phase == PhaseSign {
		return err
	}
	return a.Drop()
}

// Incoming is the authority that is to sign next or signs since a replacement, with its key, for another server that lacks it.
func (a *Authority) Incoming() ([]byte, error) {
	file := caKeyFile
	if a.current().next != nil {
		file = nextKeyFile
	}
	return a.vault.Read(file)
}

// Issued records that a user was given a certificate.
func (a *Authority) Issued(ctx context.Context, commit store.Committer, certificatePEM []byte) error {
	cert, err := certificate(string(certificatePEM))
	if err != nil {
		return err
	}
	c := issued{User: cert.Subject.CommonName, By: a.Pin(), Until: cert.NotAfter.UTC()}
	w := store.Write{Record: issuedTable.Record(issuedPrefix+cert.SerialNumber.Text(16), c), Reason: "a user has a certificate"}
	if err := commit.Commit(ctx, store.Group{w})[0].Err; err != nil {
		return fmt.Errorf("cannot record a certificate: %w", err)
	}
	return nil
}
