package v1alpha1

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateSource returns what is wrong with a source, field by field; nil for a valid one. It reads no file and no
// repository.
func ValidateSource(s *Source) field.ErrorList {
	var errs field.ErrorList
	// The name becomes part of etcd keys, URLs and commit status contexts.
	for _, msg := range validation.IsDNS1123Label(s.Name) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), s.Name, msg))
	}
	return append(errs, validateSpec(&s.Spec, field.NewPath("spec"))...)
}

func validateSpec(s *SourceSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case s.URL == "" && s.Folder == "":
		errs = append(errs, field.Required(at.Child("url"), "name a Git repository here, or a folder in folder"))
	case s.URL != "" && s.Folder != "":
		errs = append(errs, field.Invalid(at.Child("folder"), s.Folder, "a source has a url or a folder, not both"))
	case s.Folder != "":
		if !path.IsAbs(s.Folder) {
			errs = append(errs, field.Invalid(at.Child("folder"), s.Folder, "must be an absolute path"))
		}
		if s.Branch != "" {
			errs = append(errs, field.Invalid(at.Child("branch"), s.Branch, "only a Git repository has one"))
		}
		if s.Tag != "" {
			errs = append(errs, field.Invalid(at.Child("tag"), s.Tag, "only a Git repository has one"))
		}
	default:
		if !gitURL(s.URL) {
			errs = append(errs, field.Invalid(at.Child("url"), field.OmitValueType{},
				"must start with http://, https://, ssh:// or file://, or be user@host:path"))
		}
	}
	if s.Branch != "" && s.Tag != "" {
		errs = append(errs, field.Invalid(at.Child("tag"), s.Tag, "a source follows a branch or a tag, not both"))
	}
	if s.Path != "" && (path.IsAbs(s.Path) || strings.HasPrefix(path.Clean(s.Path), "..")) {
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be a path inside the tree"))
	}
	if s.Interval.Duration < 0 {
		errs = append(errs, field.Invalid(at.Child("interval"), s.Interval.Duration.String(), "must not be negative"))
	}
	if s.Timeout.Duration < 0 {
		errs = append(errs, field.Invalid(at.Child("timeout"), s.Timeout.Duration.String(), "must not be negative"))
	}
	for i, pattern := range s.IgnoreKinds {
		if wrong := WrongIgnoreKind(pattern); wrong != "" {
			errs = append(errs, field.Invalid(at.Child("ignoreKinds").Index(i), pattern, wrong))
		}
	}
	if s.Prune != "" && s.Prune != "allow" {
		errs = append(errs, field.NotSupported(at.Child("prune"), s.Prune, []string{"allow"}))
	}
	if f := s.Forge; f != nil && f.Type != "gitea" {
		errs = append(errs, field.NotSupported(at.Child("forge", "type"), f.Type, []string{"gitea"}))
	}
	return errs
}

// WrongIgnoreKind says what is wrong with a pattern of ignoreKinds; empty: nothing.
func WrongIgnoreKind(pattern string) string {
	kind, group, grouped := strings.Cut(pattern, ".")
	switch {
	case kind != "*" && !kindName.MatchString(kind):
		return "must be a kind (Certificate), a kind and its group (Certificate.cert-manager.io), " +
			"all kinds of a group (*.cert-manager.io) or all that are not served (*)"
	case grouped && group == "" && kind == "*":
		return "must name a group after the dot"
	case group != "" && len(validation.IsDNS1123Subdomain(group)) > 0:
		return fmt.Sprintf("must name a group as apiVersion has it, without a version, not %q", group)
	}
	return ""
}

var kindName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

func gitURL(url string) bool {
	for _, scheme := range []string{"http://", "https://", "ssh://", "file://"} {
		if strings.HasPrefix(url, scheme) && len(url) > len(scheme) {
			return true
		}
	}
	// The short form of SSH, user@host:path.
	user, rest, found := strings.Cut(url, "@")
	host, _, colon := strings.Cut(rest, ":")
	return found && colon && user != "" && host != "" && !strings.Contains(user, "/")
}
