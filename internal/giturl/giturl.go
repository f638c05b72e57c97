// Package giturl says what may stand in the address of a repository, and shows addresses without credentials.
package giturl

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

// Hidden stands where a credential was.
const Hidden = "REDACTED"

var (
	// scp is Git's short form of an SSH address, user@host:path.
	scp = regexp.MustCompile(`^[\w.+-]+@[\w.][\w.-]*:[^/]`)
	// scpPassword is the short form with what ssh would not take, and somebody may write all the same.
	scpPassword = regexp.MustCompile(`[\w.+-]+:[^\s"'@/]+@([\w.-]+:)`)
	// address is an address inside a text: up to what cannot stand in one.
	address = regexp.MustCompile("[a-zA-Z][a-zA-Z0-9+.-]*://[^\\s\"'<>`]+")
	// userinfo is what stands before the last @ of an address' host, also where the address is malformed.
	userinfo = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9+.-]*://)[^/]*@`)
)

// Short says that text is Git's short form of an SSH address, user@host:path.
func Short(text string) bool { return scp.MatchString(text) }

// Check says what is wrong with a repository's address as a person wrote it: a scheme that is none of http, https, ssh and
// file, or a credential in it. An address is shown, logged and stored, so credentials are named by files instead. No error
// repeats the address.
func Check(text string) error {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("is not a URL")
	}
	if Short(text) {
		return nil
	}
	if scpPassword.MatchString(text) && !strings.Contains(text, "://") {
		return errors.New("holds a password; name a file in spec.credentials of a Source instead")
	}
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is not a URL") // the cause would repeat the text, and with it a password
	}
	switch u.Scheme {
	case "http", "https", "ssh", "file":
	default:
		return fmt.Errorf("scheme %q is not http, https, ssh or file", u.Scheme)
	}
	if _, has := u.User.Password(); has {
		return errors.New("holds a password; name a file in spec.credentials.passwordFile of a Source instead")
	}
	if u.User != nil && u.Scheme != "ssh" {
		return errors.New("holds a user name, which may be a token; " +
			"name files in spec.credentials (tokenFile, usernameFile) of a Source instead")
	}
	// What follows is read in another way by who fetches: as a host, or as a part of the path.
	switch user := u.User.Username(); {
	case u.Opaque != "" || !strings.EqualFold(text[:min(len(text), len(u.Scheme)+3)], u.Scheme+"://"):
		return fmt.Errorf("has no // after %s:", u.Scheme)
	case u.Scheme == "file" && u.Host != "" && u.Host != "localhost":
		return errors.New("names a host, which a file has none of: write file:///path")
	case u.Scheme != "file" && (u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-")):
		return errors.New("names no host")
	case strings.ContainsFunc(user, unicode.IsControl), strings.Contains(user, ":"):
		return errors.New("holds a user name with a colon or control characters, which may be a password")
	case u.Fragment != "":
		return errors.New("has a part after #, which means nothing")
	}
	for part := range strings.FieldsFuncSeq(u.RawQuery, separator) {
		name, _, _ := strings.Cut(part, "=")
		if secret(name) {
			return errors.New("holds what looks like a credential in its query; " +
				"name a file in spec.credentials.tokenFile of a Source instead")
		}
	}
	return nil
}

func separator(r rune) bool { return r == '&' || r == ';' }

// secret says that a parameter of that name holds a credential.
func secret(name string) bool {
	if plain, err := url.QueryUnescape(name); err == nil {
		name = plain
	}
	name = strings.ToLower(name)
	for _, part := range []string{
		"token", "secret", "passw", "passphrase", "credential", "auth", "apikey", "api_key", "api-key", "access",
		"private", "signature", "session",
	} {
		if strings.Contains(name, part) {
			return true
		}
	}
	switch name {
	case "key", "sig", "pwd", "pass", "jwt", "sas", "pat":
		return true
	}
	return false
}

// Redact returns an address without user info, except the user name of ssh, and without the values of parameters that
// look like credentials. What is no address is treated as Text treats it.
func Redact(text string) string {
	if Short(text) {
		return text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" && u.User == nil && u.RawQuery == "" {
		return scpPassword.ReplaceAllString(userinfo.ReplaceAllString(text, "${1}"), "$1")
	}
	_, password := u.User.Password()
	hidden := password || u.User != nil && u.Scheme != "ssh"
	switch {
	case u.Scheme == "ssh" && password:
		u.User = url.User(u.User.Username())
	case hidden:
		u.User = nil
	}
	parts := strings.FieldsFunc(u.RawQuery, separator)
	secrets := false
	for i, part := range parts {
		if name, _, has := strings.Cut(part, "="); has && secret(name) {
			parts[i], secrets = name+"="+Hidden, true
		}
	}
	if secrets {
		u.RawQuery = strings.Join(parts, "&")
	}
	if !hidden && !secrets {
		return text // as it was written
	}
	return u.String()
}

// Error returns an error with the text of err as Text shows it; errors.Is and errors.As see err. It is nil for nil.
func Error(err error) error {
	if err == nil {
		return nil
	}
	return redacted{err}
}

type redacted struct{ error }

func (r redacted) Error() string { return Text(r.error.Error()) }
func (r redacted) Unwrap() error { return r.error }

// Text returns a text, such as an error or what a server said, with every address in it redacted. It is harmless to do
// twice.
func Text(text string) string {
	text = address.ReplaceAllStringFunc(text, func(found string) string {
		shown := strings.TrimRight(found, ".,:;)]}")
		return Redact(shown) + found[len(shown):]
	})
	return scpPassword.ReplaceAllStringFunc(text, func(found string) string {
		host := found[strings.LastIndex(found, "@")+1:]
		if strings.HasPrefix(host, "sha256:") || strings.HasPrefix(host, "sha512:") {
			return found // an image by tag and digest
		}
		return host
	})
}
