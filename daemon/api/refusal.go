package api

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"lockstep/daemon/provenance"
	"lockstep/daemon/rights"
	"lockstep/internal/giturl"
	"lockstep/internal/plain"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
)

// refusal is the answer to every change that is not a node's or a program's own business: how this cluster is changed, where, and
// what to do instead.
func (s *server) refusal(v *view.View, a rights.Access, why string) error {
	message := "this cluster is changed by " + s.way(v, a).changed + ", not through its API: " + s.where(v, a)
	if hint := s.instead(v, a); hint != "" {
		message += "; " + hint
	}
	if why != "" {
		message = why + "; " + message
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusMethodNotAllowed,
		Reason:  metav1.StatusReasonMethodNotAllowed,
		Message: plain.Text(message),
		Details: &metav1.StatusDetails{Group: a.Group, Kind: a.Resource, Name: a.Name},
	}}
}

// instead says what leads to what the request wanted; nothing where nothing does.
func (s *server) instead(v *view.View, a rights.Access) string {
	push := s.way(v, a).push
	switch a.Subresource {
	case "exec", "attach", "ephemeralcontainers":
		return "what is done inside a container no commit would tell, so nobody may: kubectl logs and kubectl describe say what it does"
	case "eviction":
		return "the manifest of a node drains it: its annotation " + kinds.DrainNode + `: "true"` + s.way(v, nodes(a)).push +
			"; a program evicts pods where a role grants its service account to create pods/eviction"
	case "portforward", "proxy":
		return "connections go by Services: from outside the cluster, state one of type NodePort"
	case "scale":
		return "change spec.replicas there" + push
	}
	kind := a.Kind()
	if kind != nil && kind.Kind == "Node" {
		return s.insteadOfNode(v, a)
	}
	if kind == nil || !kind.Declarable {
		return ""
	}
	if a.Verb == "deletecollection" {
		return "remove them there" + push
	}
	if a.DryRun {
		return "lockstep validate checks manifests, and lockstep plan shows what a push would change"
	}
	o, deletes := a.Object(v), a.Verb == "delete"
	switch {
	case o == nil && deletes:
		return ""
	case o == nil:
		return "add it there" + push
	case !s.declared(v, o):
		for ; o != nil; o = provenance.Controller(v, o) {
			if s.declared(v, o) {
				return fmt.Sprintf("it is made for %s: change that one", kinds.KeyOf(o)) + push
			}
		}
		if deletes {
			return "none of them states it"
		}
		return "none of them states it yet: add it there" + push
	case deletes:
		return "remove it there" + push
	default:
		return "change it there" + push
	}
}

// insteadOfNode says what there is to do with a node.
func (s *server) insteadOfNode(v *view.View, a rights.Access) string {
	switch {
	case a.Verb == "create":
		return "a machine becomes one by lockstep agent, with a token of lockstep token create"
	case a.Verb == "delete" || a.Verb == "deletecollection":
		return fmt.Sprintf("lockstep node remove %s, on a server, takes the node out of the cluster, as does the annotation %s: \"true\" "+
			"in its manifest, and its pods are replaced elsewhere", cmp.Or(a.Name, "NAME"), kinds.RemoveNode)
	}
	return fmt.Sprintf("a manifest of kind Node, with this name, sets its labels, annotations and taints, spec.unschedulable (cordon) and "+
		"the annotation %s: \"true\" (drain)", kinds.DrainNode) + s.way(v, a).push
}

// nodes is the access of who asks, to nodes.
func nodes(a rights.Access) rights.Access {
	a.Resource, a.Subresource, a.Namespace, a.Name = "nodes", "", "", ""
	return a
}

// declared says whether a manifest states the object itself.
func (s *server) declared(v *view.View, o kinds.Object) bool {
	_, ok := s.hub.Origins().Declared(v, kinds.KeyOf(o))
	return ok
}

// secretUnread says why a viewer gets no Secret, and what leads to what kubectl apply, edit and diff want, which read before
// they write. Where this very one is stated is left out: that it is there is its readers' to know.
func (s *server) secretUnread(v *view.View, a rights.Access) string {
	a.Name = ""
	w := s.way(v, a)
	return fmt.Sprintf("viewers cannot read %ss, which kubectl apply, edit and diff begin with; a Secret is stated in %s as everything "+
		"else: %s; add or change it there%s",
		a.Kind().Kind, w.stated, s.where(v, a), w.push)
}

// impersonates refuses to answer as somebody else: the answer would be to who asks, and taken for another's. Paths that are
// for everybody alike are answered.
func impersonates(id identity, r *http.Request) error {
	if info, ok := request.RequestInfoFrom(r.Context()); ok && !info.IsResourceRequest {
		return nil
	}
	name := r.Header.Get(authenticationv1.ImpersonateUserHeader)
	for key := range r.Header {
		if strings.HasPrefix(key, "Impersonate-") {
			return forbiddenError(id, rights.Access{Verb: "impersonate", Resource: "users", Name: name},
				"nobody may act as somebody else in this cluster")
		}
	}
	return nil
}

// where says which file states an object, or else which sources there are.
func (s *server) where(v *view.View, a rights.Access) string {
	if o := a.Object(v); o != nil {
		if origin, ok := s.hub.Origins().Of(v, o); ok {
			return fmt.Sprintf("%s comes from %s in %s", kinds.KeyOf(o), origin.Place(), sourceText(v, origin.Source))
		}
	}
	if kind := a.Kind(); kind != nil && !kind.Declarable {
		makers := "the cluster itself"
		if len(rights.Verbs(kind.GroupResource(), "")) > 0 {
			makers += " and by programs that a role lets"
		}
		return kind.Resource + " are made by " + makers + ", no manifest states them"
	}
	var names []string
	for source := range view.List[*v1alpha1.Source](v, "") {
		names = append(names, sourceText(v, source.Name))
	}
	if len(names) == 0 {
		return "it has no source yet"
	}
	return "its manifests are in " + strings.Join(names, ", ")
}

// way is how manifests are changed, in words: "changed by …", "stated in …", and what follows "change it there".
type way struct{ changed, stated, push string }

// way is that of the source which states an object, else that of all sources: where they are folders, nothing is pushed.
func (s *server) way(v *view.View, a rights.Access) way {
	git, folder := way{"pushing to Git", "Git", " and push"}, way{"editing its manifests", "a manifest", ""}
	if o := a.Object(v); o != nil {
		if origin, ok := s.hub.Origins().Of(v, o); ok {
			if source, ok := view.Get[*v1alpha1.Source](v, "", origin.Source); ok && source.Spec.Folder != "" {
				return folder
			}
			return git
		}
	}
	out := git
	for source := range view.List[*v1alpha1.Source](v, "") {
		if source.Spec.Folder == "" {
			return git
		}
		out = folder
	}
	return out
}

// sourceText is "source shop (https://git.example/shop.git, branch main)".
func sourceText(v *view.View, name string) string {
	source, ok := view.Get[*v1alpha1.Source](v, "", name)
	if !ok {
		return "source " + name
	}
	place := source.Spec.Folder
	if place == "" {
		place = giturl.Redact(source.Spec.URL)
	}
	if source.Spec.Branch != "" {
		place += ", branch " + source.Spec.Branch
	}
	return fmt.Sprintf("source %s (%s)", name, place)
}
