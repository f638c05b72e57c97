package api

import (
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"lockstep/daemon/api/schema"
	"lockstep/daemon/rights"
	"lockstep/kinds"
)

const (
	// minWatch: a watch without a timeout of its own ends between this and twice this, as in Kubernetes, so that load
	// spreads over servers again.
	minWatch = 30 * time.Minute
	// maxWatch ends every watch, whatever timeout it asks for.
	maxWatch = 2 * minWatch
	// maxBody bounds an object in a request, as in Kubernetes: 1 MiB of etcd and what its encoding adds.
	maxBody = 3 << 20
)

// settingsPath tells what agents need to know of the cluster before anything else; it is no secret of those who are known.
const settingsPath = "/lockstep/v1/settings"

var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType),
}

// routes answer requests that are permitted.
func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	s.discover(mux)
	s.probes(mux)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.opts.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("POST "+rights.JoinPath, s.join)
	if s.opts.Servers != nil {
		mux.Handle("POST "+rights.ServerPath, s.opts.Servers)
	}
	mux.HandleFunc("POST "+rights.RenewPath, s.renew)
	mux.HandleFunc("GET "+rights.TunnelPath, s.tunnel)
	mux.HandleFunc("GET "+rights.RebuildPath, s.rebuildState)
	mux.HandleFunc("POST "+rights.RebuildPath, s.rebuildOffer)
	mux.HandleFunc("GET "+settingsPath, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.opts.Settings.Encode()) })
	if s.opts.Peers != nil {
		mux.Handle(rights.PeersPath, s.opts.Peers)
	}
	if s.opts.Hooks != nil {
		mux.Handle("POST "+rights.HookPath, s.opts.Hooks)
	}
	s.drifts(mux)
	s.issuer(mux)
	s.schemas(mux)
	resources := s.resources()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		info, _ := request.RequestInfoFrom(r.Context())
		if h := resources[routeOf(info)]; info.IsResourceRequest && h != nil && (len(info.Parts) <= 3 || info.Subresource == "proxy") {
			h.ServeHTTP(w, r)
			return
		}
		s.fail(w, r, noSuchPath())
	})
	return mux
}

// schemas answer with the fields of the served kinds.
func (s *server) schemas(mux *http.ServeMux) {
	const release = "v1." + kubernetesMinor + "." + kubernetesPatch
	index := schema.Index(s.groupVersions(), release)
	mux.HandleFunc("GET /openapi/v3", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, index) })
	for _, gv := range s.groupVersions() {
		mux.HandleFunc("GET /openapi/v3/"+schema.Path(gv), func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, schema.Document(gv, release))
		})
	}
	mux.HandleFunc("GET /openapi/v2", s.oldSchema(release))
}

func writeJSON(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// oldSchema answers those that know only OpenAPI 2.0. It is made for one after the other, since making protobuf of it takes
// memory, and nobody waits for another's connection.
func (s *server) oldSchema(release string) http.HandlerFunc {
	const asked, answered = "com.github.proto-openapi.spec.v2", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	var one sync.Mutex
	made := func(asProtobuf bool) ([]byte, error) {
		one.Lock()
		defer one.Unlock()
		document := schema.Old(release)
		if asProtobuf {
			return schema.OldProtobuf(document)
		}
		return document, nil
	}
	return func(w http.ResponseWriter, r *http.Request) {
		asProtobuf := strings.Contains(r.Header.Get("Accept"), asked)
		document, err := made(asProtobuf)
		switch {
		case err != nil:
			s.fail(w, r, apierrors.NewInternalError(err))
		case asProtobuf:
			w.Header().Set("Content-Type", answered)
			_, _ = w.Write(document)
		default:
			writeJSON(w, document)
		}
	}
}

func noSuchPath() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource",
		Details: &metav1.StatusDetails{},
	}}
}

// route is what a handler is found by.
type route struct {
	gvr         apischema.GroupVersionResource
	subresource string
	verb        string
}

func routeOf(info *request.RequestInfo) route {
	return route{
		gvr:         apischema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource},
		subresource: info.Subresource,
		verb:        info.Verb,
	}
}

// resources are the handlers of every served resource and verb.
func (s *server) resources() map[route]http.Handler {
	all := map[route]http.Handler{}
	for _, k := range kinds.All {
		at := func(subresource, verb string, h http.Handler) {
			all[route{gvr: k.GroupVersionResource(), subresource: subresource, verb: verb}] = h
		}
		read := &storage{kind: k, server: s}
		scope := scopeOf(k, read)
		at("", "get", handlers.GetResource(read, scope))
		at("", "list", handlers.ListResource(read, read, scope, false, minWatch))
		at("", "watch", handlers.ListResource(read, read, scope, true, minWatch)) // by ?watch, or by a path under /watch/
		if k.Status {
			at("status", "get", handlers.GetResource(read, subscope(scope, "status")))
		}
		if k.Scalable() {
			scale := scopeFor(scaleKind, k.GroupVersionResource(), false)
			scale.TableConvertor = rest.NewDefaultTableConvertor(k.GroupResource())
			at("scale", "get", handlers.GetResource(scales{read}, subscope(scale, "scale")))
		}
		for _, w := range changes(read) {
			sub := subscope(scope, w.subresource)
			sub.MaxRequestBodyBytes = int64(w.body)
			if w.create {
				at(w.subresource, "create", handlers.CreateResource(w, sub, nil))
			}
			if w.delete {
				at(w.subresource, "delete", handlers.DeleteResource(w, true, sub, nil))
			}
			if w.collection {
				at(w.subresource, "deletecollection", handlers.DeleteCollection(w, true, sub, nil))
			}
			if w.update {
				at(w.subresource, "update", handlers.UpdateResource(w, sub, nil))
				at(w.subresource, "patch", w.bodies(s.boundedPatch(k, handlers.PatchResource(w, sub, nil, patchTypes))))
			}
		}
	}
	pods := kinds.ForResource(apischema.GroupResource{Resource: "pods"})
	all[route{gvr: pods.GroupVersionResource(), subresource: "log", verb: "get"}] = http.HandlerFunc(s.podLog)
	nodes := kinds.ForResource(apischema.GroupResource{Resource: "nodes"})
	all[route{gvr: nodes.GroupVersionResource(), subresource: "proxy", verb: "get"}] = http.HandlerFunc(s.nodeProxy)
	maps.Copy(all, s.shownEvents())
	maps.Copy(all, s.reviews())
	maps.Copy(all, s.usages())
	for _, handler := range []func() (route, http.Handler){s.tokenHandler, s.evictionHandler} {
		at, h := handler()
		all[at] = h
	}
	return all
}

// scopeOf describes a kind to Kubernetes' handlers.
func scopeOf(k *kinds.Kind, s *storage) *handlers.RequestScope {
	scope := scopeFor(k.GroupVersionKind, k.GroupVersionResource(), !k.Namespaced)
	scope.TableConvertor = s
	if k.Group == "lockstep.dev" {
		scope.StandardSerializers = withoutProtobuf()
	}
	return scope
}

func scopeFor(gvk apischema.GroupVersionKind, gvr apischema.GroupVersionResource, clusterScoped bool) *handlers.RequestScope {
	fields, err := managedfields.NewDefaultFieldManager(untracked{}, convertor{runtime.UnsafeObjectConvertor(scheme)}, scheme, scheme,
		gvk, gvk.GroupVersion(), "", nil)
	if err != nil {
		panic("api: a field manager needs nothing that could fail: " + err.Error())
	}
	return &handlers.RequestScope{
		FieldManager:     fields,
		Namer:            handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor()), ClusterScoped: clusterScoped},
		Serializer:       boundedCodecs{codecs},
		ParameterCodec:   runtime.NewParameterCodec(scheme),
		Creater:          scheme,
		Convertor:        convertor{scheme},
		UnsafeConvertor:  convertor{runtime.UnsafeObjectConvertor(scheme)},
		Defaulter:        scheme,
		Typer:            scheme,
		Authorizer:       judged{},
		Resource:         gvr,
		Kind:             gvk,
		HubGroupVersion:  gvk.GroupVersion(),
		MetaGroupVersion: metav1.SchemeGroupVersion,

		EquivalentResourceMapper: runtime.NewEquivalentResourceRegistry(),
		MaxRequestBodyBytes:      maxBody,
	}
}

func subscope(scope *handlers.RequestScope, name string) *handlers.RequestScope {
	out := *scope
	out.Subresource = name
	return &out
}

// untracked keeps no record of who set which field, which only server-side apply would read: to the field manager every
// object is empty.
type untracked struct{}

// ObjectToTyped implements managedfields.TypeConverter.
func (untracked) ObjectToTyped(runtime.Object, ...typed.ValidationOptions) (*typed.TypedValue, error) {
	return typed.DeducedParseableType.FromUnstructured(map[string]any{})
}

// TypedToObject implements managedfields.TypeConverter; only server-side apply calls it, which is not served.
func (untracked) TypedToObject(*typed.TypedValue) (runtime.Object, error) {
	return nil, errors.New("fields are not tracked")
}

// withoutProtobuf is for our own kinds, which have no such encoding.
func withoutProtobuf() []runtime.SerializerInfo {
	var out []runtime.SerializerInfo
	for _, info := range codecs.SupportedMediaTypes() {
		if !strings.Contains(info.MediaType, "protobuf") {
			out = append(out, info)
		}
	}
	return out
}
