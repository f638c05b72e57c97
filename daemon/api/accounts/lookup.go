package accounts

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"lockstep/kinds"
	"lockstep/store/view"
)

// Holds says that what a token of this user is bound to is there: its account, its pod, and the pod's node.
func Holds(v *view.View, u user.DefaultInfo) bool {
	namespace, name, err := serviceaccount.SplitUsername(u.Name)
	if err != nil {
		return false
	}
	account, ok := view.Get[*corev1.ServiceAccount](v, namespace, name)
	if !ok || string(account.UID) != u.UID {
		return false
	}
	pod, ok := view.Get[*corev1.Pod](v, namespace, first(u, serviceaccount.PodNameKey))
	if !ok || string(pod.UID) != PodUID(u) {
		return false
	}
	_, ok = view.Get[*corev1.Node](v, "", first(u, serviceaccount.NodeNameKey))
	return ok
}

// PodUID is the uid of the pod that a token of this user is bound to.
func PodUID(u user.DefaultInfo) string { return first(u, serviceaccount.PodUIDKey) }

func first(u user.DefaultInfo, key string) string {
	if values := u.Extra[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// lookup reads from a view what tokens are bound to.
type lookup struct{ view func() *view.View }

func get[T kinds.Object](l lookup, namespace, name string) (T, error) {
	o, ok := view.Get[T](l.view(), namespace, name)
	if !ok {
		return o, apierrors.NewNotFound(kinds.For[T]().GroupResource(), name)
	}
	return o, nil
}

func (l lookup) GetServiceAccount(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return get[*corev1.ServiceAccount](l, namespace, name)
}

func (l lookup) GetPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	return get[*corev1.Pod](l, namespace, name)
}

func (l lookup) GetSecret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return get[*corev1.Secret](l, namespace, name)
}

func (l lookup) GetNode(_ context.Context, name string) (*corev1.Node, error) {
	return get[*corev1.Node](l, "", name)
}

// Webhooks are not served, and no token is bound to one.
func (lookup) GetValidatingWebhookConfiguration(_ context.Context,
	name string) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	return nil, apierrors.NewNotFound(webhooks("validating"), name)
}

func (lookup) GetMutatingWebhookConfiguration(_ context.Context,
	name string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	return nil, apierrors.NewNotFound(webhooks("mutating"), name)
}

func webhooks(which string) schema.GroupResource {
	return schema.GroupResource{Group: admissionregistrationv1.GroupName, Resource: which + "webhookconfigurations"}
}
