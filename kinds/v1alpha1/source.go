// Package v1alpha1 holds the types of lockstep.dev/v1alpha1, Lockstep's own API group.
package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every type in this package.
var GroupVersion = schema.GroupVersion{Group: "lockstep.dev", Version: "v1alpha1"}

// AddToScheme registers this package's types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Source{}, &SourceList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Source is a place manifests come from: a branch or tag and a path of a Git repository, or a folder on disk.
// It is cluster-scoped; its name is part of the context of the commit statuses about it.
type Source struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says where to read and how.
	Spec SourceSpec `json:"spec"`
	// Status is what the daemon last found.
	Status SourceStatus `json:"status,omitzero"`
}

// ShortRevision is a revision as people read it, wherever it is shown to them: the first twelve digits of its hash, by
// which the commits of a large repository are told apart. One that is shorter is returned as it is.
func ShortRevision(revision string) string {
	hash := strings.TrimPrefix(revision, "sha256:") // a folder's
	return hash[:min(len(hash), 12)]
}

// SourceSpec says where to read and how. Exactly one of URL and Folder is set.
type SourceSpec struct {
	// URL of a Git repository: http://, https://, ssh:// (or user@host:path) or file://.
	URL string `json:"url,omitempty"`
	// Folder is an absolute path on the daemon's disk, watched for changes.
	Folder string `json:"folder,omitempty"`
	// Branch to follow. Default, where Tag is empty too: the repository's HEAD.
	Branch string `json:"branch,omitempty"`
	// Tag to follow; excludes Branch.
	Tag string `json:"tag,omitempty"`
	// Path inside the tree, slash-separated, below which manifests are read. Empty: the whole tree.
	Path string `json:"path,omitempty"`
	// Interval between looks at the references (Git) or rescans (folder). Zero: 15 s for Git, 60 s for a folder.
	Interval metav1.Duration `json:"interval,omitzero"`
	// Timeout is how long a Git server may say nothing; a fetch that goes on may take an hour. Zero: 60 s.
	Timeout metav1.Duration `json:"timeout,omitzero"`
	// Credentials name files on the daemon's disk; their contents never enter the store.
	Credentials *Credentials `json:"credentials,omitempty"`
	// IgnoreKinds are kinds to skip wherever they stand in this source: "Kind", "Kind.group", "*.group" for all of a group, or "*"
	// for all that are not served.
	IgnoreKinds []string `json:"ignoreKinds,omitempty"`
	// Prune "allow" lifts the prune budget of this source for good. Empty: the budget holds.
	Prune string `json:"prune,omitempty"`
	// Drift "report" has what is changed or deleted by hand of this source's objects only be told, until a push; an object's annotation
	// lockstep.dev/drift says otherwise of it. Empty or "repair": it is put right.
	Drift string `json:"drift,omitempty"`
	// Forge receives commit statuses. Nil: none are posted (the verdict is still on the status page and in the API).
	Forge *Forge `json:"forge,omitempty"`
}

// Credentials are paths of files; each is read anew at every use, so that a rotation needs no restart.
type Credentials struct {
	// TokenFile holds a token, which is sent as a password.
	TokenFile string `json:"tokenFile,omitempty"`
	// UsernameFile holds the user whose password or token it is. Empty: oauth2.
	UsernameFile string `json:"usernameFile,omitempty"`
	// PasswordFile holds the user's password.
	PasswordFile string `json:"passwordFile,omitempty"`
	// SSHKeyFile holds a private key, for ssh://.
	SSHKeyFile string `json:"sshKeyFile,omitempty"`
	// KnownHostsFile holds the keys of servers that are trusted, for ssh://.
	KnownHostsFile string `json:"knownHostsFile,omitempty"`
	// CAFile holds PEM certificates to trust beside the system's.
	CAFile string `json:"caFile,omitempty"`
}

// Forge is where commit statuses are posted.
type Forge struct {
	// Type of the forge's API: "gitea" (also Forgejo).
	Type string `json:"type"`
	// URL of the forge. Empty: scheme and host of the source's URL.
	URL string `json:"url,omitempty"`
	// Repository as owner/name. Empty: the path of the source's URL.
	Repository string `json:"repository,omitempty"`
	// TokenFile holds the API token.
	TokenFile string `json:"tokenFile,omitempty"`
	// CAFile holds PEM certificates to trust beside the system's.
	CAFile string `json:"caFile,omitempty"`
	// WebhookSecretFile holds the secret that signs POST /hooks/git. Empty: webhooks are refused for this source.
	WebhookSecretFile string `json:"webhookSecretFile,omitempty"`
}

// What is done about drift in the store: by a Source's spec.drift, or by an object's annotation AnnotationDrift.
const (
	AnnotationDrift = "lockstep.dev/drift"
	DriftRepair     = "repair"
	DriftReport     = "report"
)

// SourceStatus is what the daemon last found; only the daemon writes it.
type SourceStatus struct {
	// Seen is the newest revision of the source, accepted or not.
	Seen string `json:"seen,omitempty"`
	// Accepted is the newest revision that was accepted; its objects are the desired ones.
	Accepted string `json:"accepted,omitempty"`
	// Applied is the newest revision whose plan was carried out to the end.
	Applied string `json:"applied,omitempty"`
	// State is the verdict on Seen: pending, success, failure or error; empty before the first look.
	State string `json:"state,omitempty"`
	// Message is the verdict's text, at most 140 characters.
	Message string `json:"message,omitempty"`
	// Errors are all errors of Seen, each with file:line:column, at most 100, or why it is held, with all that the hold names.
	Errors []string `json:"errors,omitempty"`
	// Objects counts the objects of Accepted.
	Objects int32 `json:"objects,omitempty"`
	// Healthy counts those of them that are healthy.
	Healthy int32 `json:"healthy,omitempty"`
	// Drift is what the accepted revision has lost since it was healthy; empty: nothing. State is not changed by it.
	Drift string `json:"drift,omitempty"`
	// LeftOut is how many objects of the accepted revision IgnoreKinds has skipped, and of which kinds; empty: none.
	LeftOut string `json:"leftOut,omitempty"`
	// Warnings are what is told of the accepted revision's objects though it is accepted, each with file:line:column: MaxWarnings,
	// and how many more.
	Warnings []string `json:"warnings,omitempty"`
	// FetchError is why the source could not be read last time; empty when it could.
	FetchError string `json:"fetchError,omitempty"`
	// ForgeError is why commit statuses wait, with how many; empty when the forge took the last one.
	ForgeError string `json:"forgeError,omitempty"`
	// Since is when State last changed.
	Since metav1.Time `json:"since,omitzero"`
}

// MaxWarnings bounds the warnings of a revision that are kept and shown: who has more mends these first.
const MaxWarnings = 20

// UntoldLeftOut is LeftOut where Message does not tell it already.
func (s *SourceStatus) UntoldLeftOut() string {
	if strings.Contains(s.Message, s.LeftOut) {
		return ""
	}
	return s.LeftOut
}

// SourceList is a list of sources.
type SourceList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items are the sources.
	Items []Source `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (s *Source) DeepCopyObject() runtime.Object { return s.DeepCopy() }

// DeepCopy returns a copy that shares nothing with s; nil for nil.
func (s *Source) DeepCopy() *Source {
	if s == nil {
		return nil
	}
	out := *s
	out.ObjectMeta = *s.ObjectMeta.DeepCopy()
	out.Spec.IgnoreKinds = append([]string(nil), s.Spec.IgnoreKinds...)
	out.Status.Errors = append([]string(nil), s.Status.Errors...)
	out.Status.Warnings = append([]string(nil), s.Status.Warnings...)
	out.Status.Since = *s.Status.Since.DeepCopy()
	if s.Spec.Credentials != nil {
		c := *s.Spec.Credentials
		out.Spec.Credentials = &c
	}
	if s.Spec.Forge != nil {
		f := *s.Spec.Forge
		out.Spec.Forge = &f
	}
	return &out
}

// DeepCopyObject implements runtime.Object.
func (l *SourceList) DeepCopyObject() runtime.Object {
	if l == nil {
		return nil
	}
	out := &SourceList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopy())
	}
	return out
}
