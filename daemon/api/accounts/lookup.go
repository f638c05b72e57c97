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

// Holds says that what the token is bound to is there: its account, and its pod with that one's node, or its node, or its Secret.
func (k Known) Holds(v *view.View) bool {
	u := k.User
	namespace, name, err := serviceaccount.SplitUsername(u.Name)
	if err != nil {
		return false
	}
	account, ok := view.Get[*corev1.ServiceAccount](v, namespace, name)
	if !ok || string(account.UID) != u.UID {
		return false
	}
	if name := first(u, serviceaccount.PodNameKey); name != "" {
		pod, ok := view.Get[*corev1.Pod](v, namespace, name)
		if !ok || string(pod.UID) != PodUID(u) {
			return false
		}
	}
	if name := first(u, serviceaccount.NodeNameKey); name != "" {
		node, ok := view.Get[*corev1.Node](v, "", name)
		// A pod's token may be older than what is known of its node.
		if uid := first(u, serviceaccount.NodeUIDKey); !ok || PodUID(u) == "" && string(node.UID) != uid {
			return false
		}
	}
	if k.secret != (reference{}) {
		secret, ok := view.Get[*corev1.Secret](v, namespace, k.secret.Name)
		return ok && string(secret.UID) == k.secret.UID
	}
	return true
}

// PodUID is the uid of the pod that a token of this user is bound to; empty: to none.
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
