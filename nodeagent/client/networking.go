package client

import (
	"context"
	"errors"
	"net/http"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Reader lists and watches the objects of a kind, of all namespaces. Of networking.k8s.io a node does no more, for which its client
// with all of its methods is much.
type Reader struct {
	rest     rest.Interface
	resource string
	list     func() runtime.Object
}

// List returns a list of the kind.
func (r Reader) List(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	out := r.list()
	return out, r.rest.Get().Resource(r.resource).VersionedParams(&o, scheme.ParameterCodec).Do(ctx).Into(out)
}

// Watch is that of the kind's client.
func (r Reader) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return r.rest.Get().Resource(r.resource).VersionedParams(&o, scheme.ParameterCodec).Watch(ctx)
}

// Ingresses reads Ingresses and their classes by a client that New has made.
func Ingresses(api Interface) (ingresses, classes Reader, err error) {
	g, ok := api.(*groups)
	if !ok {
		return ingresses, classes, errors.New("cannot read ingresses: the client has no connection for them")
	}
	ingresses = Reader{g.networking, "ingresses", func() runtime.Object { return &networkingv1.IngressList{} }}
	classes = Reader{g.networking, "ingressclasses", func() runtime.Object { return &networkingv1.IngressClassList{} }}
	return ingresses, classes, nil
}

// networking is a connection to its group, as the group's own client makes it.
func networking(config *rest.Config, h *http.Client) (*rest.RESTClient, error) {
	own := rest.CopyConfig(config)
	gv := networkingv1.SchemeGroupVersion
	own.GroupVersion, own.APIPath = &gv, "/apis"
	own.NegotiatedSerializer = rest.CodecFactoryForGeneratedClient(scheme.Scheme, scheme.Codecs).WithoutConversion()
	if own.UserAgent == "" {
		own.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	return rest.RESTClientForConfigAndClient(own, h)
}
