package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// signer is a key that signs, with its certificate.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// keys are those of an authority at one time. They are never changed: a step of a replacement makes others.
type keys struct {
	is *signer
	// next is trusted, and will sign; nil: none.
	next *signer
	// old signed before, and is trusted; nil: none. Cross is a certificate of is by it, in PEM, for who knows only old.
	old   *x509.Certificate
	cross []byte

	mark    string        // see Authority.Mark
	changed chan struct{} // closed when there are others
}

// set makes them those of the authority; a.mu is held.
func (a *Authority) set(k keys) {
	was := a.keys.changed
	k.mark, k.changed = markOf(k.trusted()...), make(chan struct{})
	a.keys = k
	if was != nil {
		close(was)
	}
}

// markOf is another one for each list of certificates: the first 16 digits of a hash.
func markOf(certs ...*x509.Certificate) string {
	all := sha256.New()
	for _, c := range certs {
		all.Write(c.Raw)
	}
	return hex.EncodeToString(all.Sum(nil)[:8])
}

func (a *Authority) current() keys {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.keys
}

// trusted are the certificates whose signatures hold, that which signs first.
func (k keys) trusted() []*x509.Certificate {
	out := []*x509.Certificate{k.is.cert}
	if k.next != nil {
		out = append(out, k.next.cert)
	}
	if k.old != nil {
		out = append(out, k.old)
	}
	return out
}

func (k keys) bundle() []byte {
	var out []byte
	for _, cert := range k.trusted() {
		out = append(out, certPEM(cert)...)
	}
	return out
}

// chain is what servers show after their own certificates: for who trusts or pins any of the authority's.
func (k keys) chain() []byte {
	out := bytes.Clone(k.is.pem)
	if k.old != nil {
		out = append(append(out, k.cross...), certPEM(k.old)...)
	}
	return out
}

func certPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// resume takes up a replacement of the authority where the vault has one under way.
func (k *keys) resume(vault Vault) error {
	next, err := vault.Read(nextKeyFile)
	if err == nil && len(next) > 0 {
		if k.next, err = parse(next); err != nil {
			return fmt.Errorf("cannot read the next authority: %w", err)
		}
		if k.next.cert.Equal(k.is.cert) { // it signs already
			k.next = nil
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the next authority: %w", err)
	}
	was, err := vault.Read(oldCertFile)
	if err == nil && len(was) > 0 {
		if k.old, k.cross, err = parseOld(was); err != nil {
			return err
		}
		if k.old.Equal(k.is.cert) { // it signs still
			k.old, k.cross = nil, nil
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the authority of before: %w", err)
	}
	return nil
}

func parseOld(data []byte) (old *x509.Certificate, cross []byte, err error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, nil, errors.New("cannot read the authority of before: want PEM")
	}
	if old, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, nil, fmt.Errorf("cannot read the authority of before: %w", err)
	}
	return old, rest, nil
}

// Mark is another one whenever another authority signs or is trusted, of 16 digits.
func (a *Authority) Mark() string { return a.current().mark }

// Changed is closed when Mark is another one.
func (a *Authority) Changed() <-chan struct{} { return a.current().changed }

// Next makes the authority that is to sign next, with its key, in PEM, where there is none yet, and trusts it from now on. It may be
// called again.
func (a *Authority) Next() ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keys.old != nil {
		return nil, errors.New("cannot replace the cluster's authority: the last one is trusted still")
	}
	if a.keys.next == nil {
		bundle, err := newAuthority(a.keys.is.cert.Subject.CommonName, a.now())
		if err != nil {
			return nil, err
		}
		if err := a.trust(bundle); err != nil {
			return nil, err
		}
	}
	return a.vault.Read(nextKeyFile)
}

// Trust takes the authority that is to sign next, with its key, which another server made. It may be called again.
func (a *Authority) Trust(bundle []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.trust(bundle)
}

func (a *Authority) trust(bundle []byte) error {
	next, err := parse(bundle)
	if err != nil {
		return fmt.Errorf("cannot take the next authority: %w", err)
	}
	if next.cert.Equal(a.keys.is.cert) {
		return nil
	}
	if err := a.vault.Replace(nextKeyFile, bundle); err != nil {
		return fmt.Errorf("cannot take the next authority: %w", err)
	}
	k := a.keys
	k.next = next
	a.set(k)
	return nil
}

// Switch has the next authority sign from now on; the one before is trusted still. Where there is no next one nothing happens.
func (a *Authority) Switch() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	next, was := a.keys.next, a.keys.is
	if next == nil {
		return nil
	}
	template := authorityTemplate(next.cert.Subject.CommonName, next.cert.NotBefore, was.cert.NotAfter)
	template.SubjectKeyId = next.cert.SubjectKeyId
	cross, err := sign(template, was.cert, &next.key.PublicKey, was.key)
	if err != nil {
		return fmt.Errorf("cannot certify the next authority by the present one: %w", err)
	}
	bundle, err := a.vault.Read(nextKeyFile)
	if err == nil {
		err = a.vault.Replace(oldCertFile, append(certPEM(was.cert), cross...))
	}
	if err == nil { // from here on it signs, also after a crash
		err = a.vault.Replace(caKeyFile, bundle)
	}
	if err != nil {
		return fmt.Errorf("cannot have the next authority sign: %w", err)
	}
	a.set(keys{is: next, old: was.cert, cross: cross})
	return errors.Join(a.vault.Replace(caCertFile, a.keys.bundle()), a.vault.Replace(nextKeyFile, nil))
}

// Drop trusts the authority of before no more. Where there is none nothing happens.
func (a *Authority) Drop() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.keys.old == nil {
		return nil
	}
	if err := a.vault.Replace(oldCertFile, nil); err != nil {
		return fmt.Errorf("cannot drop the authority of before: %w", err)
	}
	a.set(keys{is: a.keys.is})
	return a.vault.Replace(caCertFile, a.keys.bundle())
}

// Trusts says whether a certificate is one of the authority's that are trusted.
func (a *Authority) Trusts(root *x509.Certificate) bool {
	return slices.ContainsFunc(a.current().trusted(), root.Equal)
}
