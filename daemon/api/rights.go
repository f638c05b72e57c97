package api

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"lockstep/store/view"
)

// access is one thing a client asks to do.
type access struct {
	// verb as Kubernetes has them: get, list, watch, create, update, patch, delete, deletecollection.
	verb        string
	group       string
	resource    string // empty for a path
	subresource string
	namespace   string
	name        string
	fields      fields.Selector
	path        string // of a request that is not for a resource
	dryRun      bool   // it only asks what a change would do
}

func (a access) read() bool {
	return a.verb == "get" || a.verb == "list" || a.verb == "watch" || a.verb == "head"
}

// String is "get pods/log shop/cart".
func (a access) String() string {
	if a.resource == "" {
		return a.verb + " " + a.path
	}
	out := a.verb + " " + a.what()
	if place := strings.Trim(a.namespace+"/"+a.name, "/"); place != "" {
		out += " " + place
	}
	return out
}

func (a access) what() string {
	out := a.resource
	if a.group != "" {
		out += "." + a.group
	}
	if a.subresource != "" {
		out += "/" + a.subresource
	}
	return out
}

// verdict is the answer to an access.
type verdict int

const (
	allowed verdict = iota
	unauthorized
	forbidden  // a read that this client may not make: 403
	notThisWay // a change that is made by pushing to Git: 405
)

// nodeLeases is the namespace of nodes' heartbeats.
const nodeLeases = corev1.NamespaceNodeLease

// openPaths are for everybody; the last two check what is in their bodies.
var openPaths = map[string]bool{
	"/healthz": true, "/livez": true, "/readyz": true, "/version": true, "/version/": true,
	joinPath: true, hookPath: true,
}

// reviews are asked by POST and change nothing.
var reviews = map[string]bool{
	"authorization.k8s.io/selfsubjectaccessreviews":  true,
	"authorization.k8s.io/selfsubjectrulesreviews":   true,
	"authorization.k8s.io/subjectaccessreviews":      true,
	"authorization.k8s.io/localsubjectaccessreviews": true,
	"authentication.k8s.io/selfsubjectreviews":       true,
	"authentication.k8s.io/tokenreviews":             true,
}

// decide says whether a client may, and why not. The writes of nodes whose object is in the request's body are judged
// again when it is read.
func decide(id identity, a access, v *view.View) (verdict, string) {
	if a.resource == "" {
		return decidePath(id, a)
	}
	switch {
	case id.role == anonymous:
		return unauthorized, "Unauthorized"
	case a.verb == "create" && reviews[a.group+"/"+a.resource]:
		return allowed, ""
	case id.role == node && a.read():
		return nodeReads(id.node, a, v)
	case id.role == node:
		return nodeWrites(id.node, a, v)
	case !a.read():
		return notThisWay, ""
	case a.group == "" && a.resource == "secrets":
		return forbidden, "viewers cannot read Secrets"
	default:
		return allowed, ""
	}
}

func decidePath(id identity, a access) (verdict, string) {
	path := a.path
	for _, probe := range []string{"/healthz/", "/livez/", "/readyz/"} {
		if strings.HasPrefix(path, probe) {
			return allowed, ""
		}
	}
	switch {
	case openPaths[path]:
		return allowed, ""
	case id.role == anonymous:
		return unauthorized, "Unauthorized"
	case path == tunnelPath || path == renewPath:
		if id.role != node {
			return forbidden, "only a node may"
		}
		return allowed, ""
	case !a.read():
		return notThisWay, ""
	default:
		return allowed, ""
	}
}

// nodeReads: nodes, services, endpoint slices and namespaces whole, to run services, names and routes; else only what
// its own pods need.
func nodeReads(self string, a access, v *view.View) (verdict, string) {
	switch a.what() {
	case "nodes", "services", "namespaces", "endpointslices.discovery.k8s.io":
		return allowed, ""
	case "nodes/status":
		return only(a.name == self, "a node reads only its own status")
	case "pods", "pods/status":
		if a.verb == "get" {
			return only(boundTo(self, a, v), "a node reads only the pods that are bound to it")
		}
		return only(selects(a, "spec.nodeName", self), "a node lists only the pods that are bound to it: select spec.nodeName="+self)
	case "secrets":
		return only(refersTo(self, a, v, podutil.VisitPodSecretNames), "no pod that is bound to this node refers to it")
	case "configmaps":
		return only(refersTo(self, a, v, podutil.VisitPodConfigmapNames), "no pod that is bound to this node refers to it")
	case "leases.coordination.k8s.io":
		return only(a.namespace == nodeLeases && a.name == self, "a node reads only its own lease")
	default:
		return forbidden, "nodes have no use for it"
	}
}

func only(ok bool, why string) (verdict, string) {
	if ok {
		return allowed, ""
	}
	return forbidden, why
}

func nodeWrites(self string, a access, v *view.View) (verdict, string) {
	change := a.verb == "update" || a.verb == "patch"
	ok := false
	switch a.what() {
	case "nodes":
		ok = a.verb == "create" || change && a.name == self
	case "nodes/status":
		ok = change && a.name == self
	case "pods/status":
		ok = change && (boundTo(self, a, v) || absent(a, v))
	case "pods":
		ok = a.verb == "delete" && (boundTo(self, a, v) || absent(a, v))
	case "events":
		ok = a.verb == "create" || change
	case "leases.coordination.k8s.io":
		ok = a.namespace == nodeLeases && (a.verb == "create" || change && a.name == self)
	}
	if ok {
		return allowed, ""
	}
	return notThisWay, fmt.Sprintf("node %s may not %s", self, a)
}

// boundTo says whether the pod an access names is bound to the node.
func boundTo(node string, a access, v *view.View) bool {
	p, ok := view.Get[*corev1.Pod](v, a.namespace, a.name)
	return ok && p.Spec.NodeName == node
}

// absent says that there is no such pod: who may write it is then told that, and not that it may not. A pod that comes
// meanwhile is judged again when it is written.
func absent(a access, v *view.View) bool {
	_, ok := view.Get[*corev1.Pod](v, a.namespace, a.name)
	return !ok
}

func selects(a access, field, value string) bool {
	if a.fields == nil {
		return false
	}
	got, ok := a.fields.RequiresExactMatch(field)
	return ok && got == value
}

// refersTo says whether a pod of the node names the object, which a get names, or a list or watch selects by name.
func refersTo(self string, a access, v *view.View, visit func(*corev1.Pod, podutil.Visitor) bool) bool {
	if a.name == "" || a.namespace == "" {
		return false
	}
	for p := range v.PodsOnNode(self) {
		if p.Namespace != a.namespace {
			continue
		}
		found := false
		visit(p, func(name string) bool {
			found = found || name == a.name
			return !found
		})
		if found {
			return true
		}
	}
	return false
}
