package rights

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// token says that an access asks for a token of a service account, which changes nothing.
func (a Access) token() bool { return a.Verb == "create" && a.what() == "serviceaccounts/token" }

// TokenPod is the pod that a node asks a token of a service account for: one of its own, which runs as this account and shows
// the token's audience to its programs. Otherwise the error says what is wrong.
func TokenPod(self string, v *view.View, account *corev1.ServiceAccount, r *authenticationv1.TokenRequestSpec) (*corev1.Pod, error) {
	ref := r.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod":
		return nil, errors.New("node requested token not bound to a pod")
	case ref.UID == "":
		return nil, errors.New("node requested token with a pod binding without a uid")
	}
	pod, ok := view.Get[*corev1.Pod](v, account.Namespace, ref.Name)
	switch {
	case !ok || pod.UID != ref.UID:
		return nil, fmt.Errorf("the pod %q is not there, or another one has its name", ref.Name)
	case pod.Spec.NodeName != self:
		return nil, errors.New("node requested token bound to a pod scheduled on a different node")
	case kinds.AccountOf(pod) != account.Name:
		return nil, fmt.Errorf("the pod %q runs as another service account", ref.Name)
	case !projects(pod, r.Audiences):
		return nil, fmt.Errorf("no volume of the pod %q shows a token for %s", ref.Name, strings.Join(r.Audiences, ", "))
	}
	return pod, nil
}

// projects says whether a volume of the pod shows a token for these audiences: for the API itself where there are none.
func projects(pod *corev1.Pod, audiences []string) bool {
	if len(audiences) > 1 {
		return false
	}
	want := strings.Join(audiences, "")
	return slices.ContainsFunc(pod.Spec.Volumes, func(volume corev1.Volume) bool {
		return volume.Projected != nil && slices.ContainsFunc(volume.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.ServiceAccountToken != nil && p.ServiceAccountToken.Audience == want
		})
	})
}
