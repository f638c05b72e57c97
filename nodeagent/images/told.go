package images

import (
	"regexp"
	"strings"
)

// maxTold bounds in bytes what is told of why a pull failed: registries answer what they like.
const maxTold = 8 << 10

var (
	queries = regexp.MustCompile(`(https?://[^\s"?]*\?)[^\s"]*`)
	users   = regexp.MustCompile(`(https?://)[^\s"/?@]*@`)
)

// told is why a pull failed, for events and statuses, which everybody reads: an address to which a registry sends those that it
// trusts has what opens it in its query, and it may have a password.
func told(err error) string {
	text := users.ReplaceAllString(queries.ReplaceAllString(err.Error(), "${1}[REDACTED]"), "${1}[REDACTED]@")
	if len(text) > maxTold {
		text = strings.ToValidUTF8(text[:maxTold], "") + "…"
	}
	return text
}
