package pki

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"lockstep/internal/plain"
)

// maxName is how long the name of a user or of a group may be in a certificate (RFC 5280, appendix A.1).
const maxName = 64

// CheckNames says what is wrong with the names of a user and of the groups that somebody is to have.
func CheckNames(user string, groups []string) error {
	if err := checkName(user); err != nil {
		return fmt.Errorf("cannot name a user %q: %w", user, err)
	}
	for _, group := range groups {
		if group == ViewerGroup {
			continue
		}
		if err := checkName(group); err != nil {
			return fmt.Errorf("cannot name a group %q: %w", group, err)
		}
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case utf8.RuneCountInString(name) > maxName:
		return fmt.Errorf("a certificate takes %d characters at most", maxName)
	case plain.Text(name) != name || strings.TrimSpace(name) != name:
		return errors.New("it has characters that are not seen")
	case name == "system:masters":
		return errors.New("there is no administrator: who may push to Git changes this cluster, and what is read roles grant")
	case strings.HasPrefix(name, "system:"), strings.HasPrefix(name, "lockstep:"):
		return errors.New("names that begin with system: or lockstep: are those of the cluster's own parts")
	}
	return nil
}
