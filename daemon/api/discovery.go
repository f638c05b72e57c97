package api

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	authenticationv1 "k8s.io/api/authentication/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"lockstep/daemon/rights"
	"lockstep/kinds"
)

// kubernetesMinor is the Kubernetes release whose types, rules and columns these are (go.mod's k8s.io/kubernetes).
const (
	kubernetesMinor = "37"
	kubernetesPatch = "2"
)

// served is every kind, in the order in which discovery lists resources.
func served() []*kinds.Kind {
	out := kinds.Served()
	slices.SortStableFunc(out, func(a, b *kinds.Kind) int { return strings.Compare(a.Resource, b.Resource) })
	return out
}

// readVerbs is what anybody may find useful; a node's writes are no verbs of the cluster.
var readVerbs = metav1.Verbs{"get", "list", "watch"}

// verbsOf are what anybody may do with a kind's objects, in Kubernetes' order.
func verbsOf(k *kinds.Kind) metav1.Verbs {
	verbs := append(rights.Verbs(k.GroupResource(), ""), readVerbs...)
	slices.Sort(verbs)
	return verbs
}

// resourcesOf lists a group version's resources and subresources.
func (s *server) resourcesOf(gv schema.GroupVersion) []metav1.APIResource {
	var out []metav1.APIResource
	for _, k := range served() {
		if k.GroupVersion() != gv {
			continue
		}
		main := metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind,
			Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories,
		}
		out = append(out, main)
		if k.Status {
			out = append(out, metav1.APIResource{
				Name:       k.Resource + "/status",
				Namespaced: k.Namespaced,
				Kind:       k.Kind,
				Verbs:      append(metav1.Verbs{"get"}, rights.Verbs(k.GroupResource(), "status")...),
			})
		}
		if k.Scalable() {
			out = append(out, metav1.APIResource{
				Name: k.Resource + "/scale", Namespaced: true, Group: scaleKind.Group, Version: scaleKind.Version, Kind: scaleKind.Kind,
				Verbs: metav1.Verbs{"get"},
			})
		}
		switch k.Resource {
		case "serviceaccounts":
			out = append(out, metav1.APIResource{
				Name: "serviceaccounts/token", Namespaced: true, Group: authenticationv1.GroupName,
				Version: authenticationv1.SchemeGroupVersion.Version, Kind: "TokenRequest", Verbs: metav1.Verbs{"create"},
			})
		case "pods":
			out = append(out, metav1.APIResource{
				Name: "pods/eviction", Namespaced: true, Group: policyv1.GroupName, Version: policyv1.SchemeGroupVersion.Version,
				Kind: "Eviction", Verbs: metav1.Verbs{"create"},
			}, metav1.APIResource{Name: "pods/log", Namespaced: true, Kind: "Pod", Verbs: metav1.Verbs{"get"}})
		case "nodes":
			out = append(out, metav1.APIResource{Name: "nodes/proxy", Kind: "NodeProxyOptions", Verbs: metav1.Verbs{"get"}})
		}
	}
	for _, r := range s.reviewTable() {
		if r.gvk.GroupVersion() == gv {
			out = append(out, metav1.APIResource{
				Name: r.resource, SingularName: strings.TrimSuffix(r.resource, "s"), Namespaced: r.namespaced, Kind: r.gvk.Kind,
				Verbs: metav1.Verbs{"create"},
			})
		}
	}
	if slices.Contains(usageVersions, gv) {
		for _, r := range s.usageTable() {
			out = append(out, metav1.APIResource{
				Name: r.resource, Namespaced: r.namespaced, Kind: r.kind, Verbs: metav1.Verbs{"get", "list"},
			})
		}
	}
	return out
}

// groupVersions are those served, the core group first, and of a group the preferred version.
func (s *server) groupVersions() []schema.GroupVersion {
	var out []schema.GroupVersion
	add := func(gv schema.GroupVersion) {
		if !slices.Contains(out, gv) {
			out = append(out, gv)
		}
	}
	for _, k := range kinds.Served() {
		add(k.GroupVersion())
	}
	for _, r := range s.reviewTable() {
		add(r.gvk.GroupVersion())
	}
	for _, gv := range usageVersions {
		add(gv)
	}
	slices.SortStableFunc(out, func(a, b schema.GroupVersion) int { return strings.Compare(a.Group, b.Group) })
	return out
}

// discover mounts what tells clients what there is, in the legacy and the aggregated form.
func (s *server) discover(mux *http.ServeMux) {
	var core, named apidiscoveryv2.APIGroupDiscoveryList
	groups := discovery.NewRootAPIsHandler(noAddresses{}, codecs)
	// Each of these paths may end in a slash, as in Kubernetes.
	at := func(path string, h http.Handler) {
		mux.Handle("GET "+path, h)
		mux.Handle("GET "+path+"/{$}", h)
	}
	for _, gv := range s.groupVersions() {
		list := s.resourcesOf(gv)
		lister := discovery.APIResourceListerFunc(func() []metav1.APIResource { return list })
		items, path := &named.Items, "/apis/"+gv.String()
		if gv.Group == "" {
			items, path = &core.Items, "/api/"+gv.Version
		}
		at(path, discovery.NewAPIVersionHandler(codecs, gv, lister))
		if n := len(*items); n == 0 || (*items)[n-1].Name != gv.Group {
			*items = append(*items, apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: gv.Group}})
		}
		group := &(*items)[len(*items)-1]
		group.Versions = append(group.Versions, apidiscoveryv2.APIVersionDiscovery{
			Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: aggregate(gv, list),
		})
	}
	for _, whole := range named.Items {
		group := metav1.APIGroup{Name: whole.Name}
		for _, v := range whole.Versions {
			gv := schema.GroupVersion{Group: whole.Name, Version: v.Version}
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: v.Version})
		}
		group.PreferredVersion = group.Versions[0]
		groups.AddGroup(group)
		at("/apis/"+whole.Name, discovery.NewAPIGroupHandler(codecs, group))
	}
	at("/api", aggregatedOr(core, discovery.NewLegacyRootAPIHandler(noAddresses{}, codecs, "/api")))
	at("/apis", aggregatedOr(named, groups))
	at("/version", http.HandlerFunc(s.version))
}

// aggregatedType is how clients since Kubernetes 1.30 ask for everything at once; older ones get the legacy form.
const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

func aggregatedOr(list apidiscoveryv2.APIGroupDiscoveryList, legacy http.Handler) http.Handler {
	list.TypeMeta = metav1.TypeMeta{APIVersion: "apidiscovery.k8s.io/v2", Kind: "APIGroupDiscoveryList"}
	body, err := json.Marshal(list)
	if err != nil {
		panic("api: discovery is plain data and must be encodable: " + err.Error())
	}
	etag := fmt.Sprintf("%q", fmt.Sprintf("%X", sha256.Sum256(body)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		accepted, ok := negotiation.NegotiateMediaTypeOptions(r.Header.Get("Accept"), codecs.SupportedMediaTypes(),
			aggregated.DiscoveryEndpointRestrictions)
		if !ok || accepted.Convert == nil || accepted.Convert.Version != "v2" || accepted.Accepted.MediaType != "application/json" {
			legacy.ServeHTTP(w, r)
			return
		}
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", aggregatedType)
		_, _ = w.Write(body)
	})
}

func aggregate(gv schema.GroupVersion, list []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	for _, r := range list {
		kind := &metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
		if r.Version != "" {
			kind.Group, kind.Version = r.Group, r.Version
		}
		main, sub, isSub := strings.Cut(r.Name, "/")
		if isSub && len(out) > 0 && out[len(out)-1].Resource == main {
			last := &out[len(out)-1]
			last.Subresources = append(last.Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub, ResponseKind: kind, Verbs: r.Verbs,
			})
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		out = append(out, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, ResponseKind: kind, Scope: scope, SingularResource: r.SingularName,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
	}
	return out
}

// version answers as a Kubernetes API server of the release whose behaviour this is, with Lockstep's own behind it.
func (s *server) version(w http.ResponseWriter, r *http.Request) {
	responsewriters.WriteRawJSON(http.StatusOK, version.Info{
		Major: "1", Minor: kubernetesMinor,
		GitVersion:   "v1." + kubernetesMinor + "." + kubernetesPatch + "+lockstep-" + buildPart(s.opts.Version),
		GitTreeState: "clean",
		GoVersion:    runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}, w)
}

// buildPart keeps what a semantic version's build part may have.
func buildPart(v string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '-' {
			return c
		}
		return '-'
	}, strings.TrimPrefix(v, "v"))
}

// noAddresses: clients keep to the address that they know.
type noAddresses struct{}

// ServerAddressByClientCIDRs implements discovery.Addresses.
func (noAddresses) ServerAddressByClientCIDRs(net.IP) []metav1.ServerAddressByClientCIDR { return nil }
