package api

import (
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"lockstep/daemon/store/view"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
)

// refusal is the answer to every change that is not a node's own business: how this cluster is changed, and where.
func (s *server) refusal(v *view.View, a access, why string) error {
	message := "this cluster is changed by pushing to Git, not through its API: " + s.where(v, a)
	if why != "" {
		message = why + "; " + message
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusMethodNotAllowed,
		Reason:  metav1.StatusReasonMethodNotAllowed,
		Message: message,
		Details: &metav1.StatusDetails{Group: a.group, Kind: a.resource, Name: a.name},
	}}
}

// impersonates refuses to answer as somebody else: the answer would be to who asks, and taken for another's.
func impersonates(id identity, header http.Header) error {
	name := header.Get(authenticationv1.ImpersonateUserHeader)
	for key := range header {
		if strings.HasPrefix(key, "Impersonate-") {
			return forbiddenError(id, access{verb: "impersonate", resource: "users", name: name}, "nobody may act as somebody else in this cluster")
		}
	}
	return nil
}

// where says which file states an object, or else which sources there are.
func (s *server) where(v *view.View, a access) string {
	gr := schema.GroupResource{Group: a.group, Resource: a.resource}
	if kind := kinds.ForResource(gr); kind != nil && a.name != "" {
		if o := v.Get(kind.Key(a.namespace, a.name)); o != nil {
			if origin, ok := s.hub.origins.Of(v, o); ok {
				return fmt.Sprintf("%s comes from %s in %s", kinds.KeyOf(o), origin.Place(), sourceText(v, origin.Source))
			}
		}
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

// sourceText is "source shop (https://git.example/shop.git, branch main)".
func sourceText(v *view.View, name string) string {
	source, ok := view.Get[*v1alpha1.Source](v, "", name)
	if !ok {
		return "source " + name
	}
	place := source.Spec.Folder
	if place == "" {
		place = withoutUser(source.Spec.URL)
	}
	if source.Spec.Branch != "" {
		place += ", branch " + source.Spec.Branch
	}
	return fmt.Sprintf("source %s (%s)", name, place)
}
