// Package rights decides who may do what through the API.
package rights

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"lockstep/kinds"
	"lockstep/store/view"
)

// Role is what rights know to tell apart.
type Role int

const (
	Anonymous Role = iota // nobody who is known
	Viewer
	Node
	Account // a program in a pod, by its service account
)

// Subject is who asks. Its zero value is nobody who is known.
type Subject struct {
	Role Role
	Node string // the node's name, for role Node
}

// Paths that are no resource's and have rights of their own.
const (
	JoinPath   = "/lockstep/v1/join"
	RenewPath  = "/lockstep/v1/renew"
	TunnelPath = "/lockstep/v1/tunnel"
	HookPath   = "/hooks/git"
)

// Access is one thing a client asks to do.
type Access struct {
	// Verb as Kubernetes has them: get, list, watch, create, update, patch, delete, deletecollection.
	Verb        string
	Group       string
	Resource    string // empty for a path
	Subresource string
	Namespace   string          // empty: of the cluster, or of all namespaces
	Name        string          // empty: of all
	Fields      fields.Selector // nil: none
	Path        string          // of a request that is not for a resource
	DryRun      bool            // it only asks what a change would do
}

// Read says that it changes nothing.
func (a Access) Read() bool {
	return a.Verb == "get" || a.Verb == "list" || a.Verb == "watch" || a.Verb == "head"
}

// String is "get pods/log shop/cart".
func (a Access) String() string {
	if a.Resource == "" {
		return a.Verb + " " + a.Path
	}
	out := a.Verb + " " + a.what()
	if place := strings.Trim(a.Namespace+"/"+a.Name, "/"); place != "" {
		out += " " + place
	}
	return out
}

func (a Access) what() string {
	out := a.Resource
	if a.Group != "" {
		out += "." + a.Group
	}
	if a.Subresource != "" {
		out += "/" + a.Subresource
	}
	return out
}

// Kind is the one that an access is to, or nil.
func (a Access) Kind() *kinds.Kind {
	return kinds.ForResource(schema.GroupResource{Group: a.Group, Resource: a.Resource})
}

// Confidential says that an access is to a kind that only nodes read.
func (a Access) Confidential() bool {
	kind := a.Kind()
	return kind != nil && kind.Confidential == kinds.Yes
}

// Object is the one that an access names, or nil.
func (a Access) Object(v *view.View) kinds.Object {
	kind := a.Kind()
	if kind == nil || a.Name == "" {
		return nil
	}
	return v.Get(kind.Key(a.Namespace, a.Name))
}

// Verdict is the answer to an access.
type Verdict int

const (
	Allowed      Verdict = iota
	Unauthorized         // nobody is known who could be judged: 401
	Forbidden            // a read that this client may not make: 403
	NotThisWay           // a change that is made by pushing to Git: 405
)

// nodeLeases is the namespace of nodes' heartbeats.
const nodeLeases = corev1.NamespaceNodeLease

// Open says that a path is for everybody; the last two check what is in their bodies.
func Open(path string) bool {
	switch path {
	case "/healthz", "/livez", "/readyz", "/version", "/version/", JoinPath, HookPath:
		return true
	}
	return false
}

// review says that a resource is a question: it is asked by POST and changes nothing.
func review(group, resource string) bool {
	switch group + "/" + resource {
	case "authorization.k8s.io/selfsubjectaccessreviews", "authorization.k8s.io/selfsubjectrulesreviews",
		"authorization.k8s.io/subjectaccessreviews", "authorization.k8s.io/localsubjectaccessreviews",
		"authentication.k8s.io/selfsubjectreviews", "authentication.k8s.io/tokenreviews":
		return true
	}
	return false
}

// Decide says whether a client may, and why not. The writes of nodes whose object is in the request's body are judged
// again when it is read.
func Decide(who Subject, a Access, v *view.View) (Verdict, string) {
	if a.Resource == "" {
		return decidePath(who, a)
	}
	switch {
	case who.Role == Anonymous:
		return Unauthorized, "Unauthorized"
	case a.Verb == "create" && review(a.Group, a.Resource):
		return Allowed, ""
	case who.Role == Node && a.Read():
		return nodeReads(who.Node, a, v)
	case who.Role == Node:
		return nodeWrites(who.Node, a, v)
	case !a.Read():
		return NotThisWay, ""
	case who.Role == Account:
		return Forbidden, "no role grants it"
	case a.Confidential():
		return Forbidden, "viewers cannot read " + a.Kind().Kind + "s"
	default:
		return Allowed, ""
	}
}

func decidePath(who Subject, a Access) (Verdict, string) {
	path := a.Path
	for _, probe := range []string{"/healthz/", "/livez/", "/readyz/"} {
		if strings.HasPrefix(path, probe) {
			return Allowed, ""
		}
	}
	switch {
	case Open(path):
		return Allowed, ""
	case who.Role == Anonymous:
		return Unauthorized, "Unauthorized"
	case path == TunnelPath || path == RenewPath:
		if who.Role != Node {
			return Forbidden, "only a node may"
		}
		return Allowed, ""
	case !a.Read():
		return NotThisWay, ""
	case who.Role == Account && !known(path):
		return Forbidden, "no role grants it"
	default:
		return Allowed, ""
	}
}

// nodeReads: services, endpoint slices and namespaces whole, and of nodes what routes need, to run services, names and
// routes; else only what its own pods need.
func nodeReads(self string, a Access, v *view.View) (Verdict, string) {
	switch a.what() {
	case "nodes", "services", "namespaces", "endpointslices.discovery.k8s.io":
		return Allowed, ""
	case "nodes/status":
		return only(a.Name == self, "a node reads only its own status")
	case "pods", "pods/status":
		if a.Verb == "get" {
			return only(boundTo(self, a, v), "a node reads only the pods that are bound to it")
		}
		return only(selects(a, "spec.nodeName", self), "a node lists only the pods that are bound to it: select spec.nodeName="+self)
	case "secrets":
		return only(refersTo(self, a, v, podutil.VisitPodSecretNames), "no pod that is bound to this node refers to it")
	case "configmaps":
		return only(refersTo(self, a, v, podutil.VisitPodConfigmapNames), "no pod that is bound to this node refers to it")
	case "leases.coordination.k8s.io":
		return only(a.Namespace == nodeLeases && a.Name == self, "a node reads only its own lease")
	default:
		return Forbidden, "nodes have no use for it"
	}
}

func only(ok bool, why string) (Verdict, string) {
	if ok {
		return Allowed, ""
	}
	return Forbidden, why
}

func nodeWrites(self string, a Access, v *view.View) (Verdict, string) {
	change := a.Verb == "update" || a.Verb == "patch"
	ok := false
	switch a.what() {
	case "nodes":
		ok = a.Verb == "create" || change && a.Name == self
	case "nodes/status":
		ok = change && a.Name == self
	case "pods/status":
		ok = change && (boundTo(self, a, v) || absent(a, v))
	case "pods":
		ok = a.Verb == "delete" && (boundTo(self, a, v) || absent(a, v))
	case "events":
		ok = a.Verb == "create" || change
	case "serviceaccounts/token":
		ok = a.Verb == "create"
	case "leases.coordination.k8s.io":
		ok = a.Namespace == nodeLeases && (a.Verb == "create" || change && a.Name == self)
	}
	if ok {
		return Allowed, ""
	}
	return NotThisWay, fmt.Sprintf("node %s may not %s", self, a)
}

// boundTo says whether the pod an access names is bound to the node.
func boundTo(node string, a Access, v *view.View) bool {
	p, ok := view.Get[*corev1.Pod](v, a.Namespace, a.Name)
	return ok && p.Spec.NodeName == node
}

// absent says that there is no such pod: who may write it is then told that, and not that it may not. A pod that comes
// meanwhile is judged again when it is written.
func absent(a Access, v *view.View) bool {
	_, ok := view.Get[*corev1.Pod](v, a.Namespace, a.Name)
	return !ok
}

func selects(a Access, field, value string) bool {
	if a.Fields == nil {
		return false
	}
	got, ok := a.Fields.RequiresExactMatch(field)
	return ok && got == value
}

// refersTo says whether a pod of the node names the object, which a get names, or a list or watch selects by name.
func refersTo(self string, a Access, v *view.View, visit func(*corev1.Pod, podutil.Visitor) bool) bool {
	if a.Name == "" || a.Namespace == "" {
		return false
	}
	for p := range v.PodsOnNode(self) {
		if p.Namespace != a.Namespace {
			continue
		}
		found := false
		visit(p, func(name string) bool {
			found = found || name == a.Name
			return !found
		})
		if found {
			return true
		}
	}
	return false
}
