// Package rights decides who may do what through the API.
package rights

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"lockstep/internal/recall"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/ingress"
	"lockstep/store/view"
)

// Role is what rights know to tell apart.
type Role int

const (
	Anonymous Role = iota // nobody who is known
	Node
	Person  // or a program that a person gave a credential to
	Account // a program in a pod, by its service account
	Server  // another server of the cluster
)

// Subject is who asks. Its zero value is nobody who is known.
type Subject struct {
	Role Role
	Node string           // the node's name, for role Node
	User user.DefaultInfo // whom bindings name
}

// Bound says that what the subject may is what bindings grant.
func (s Subject) Bound() bool { return s.Role == Person || s.Role == Account }

// Paths that are no resource's and have rights of their own.
const (
	JoinPath   = "/lockstep/v1/join"
	RenewPath  = "/lockstep/v1/renew"
	TunnelPath = "/lockstep/v1/tunnel"
	// ServerPath is where servers ask to join.
	ServerPath = "/lockstep/v1/servers/join"
	HookPath   = "/hooks/git"
	// PeersPath is below which servers ask each other for what agents answer.
	PeersPath = "/lockstep/v1/peers/"
	// DriftPath is read by people, and told by nodes.
	DriftPath = "/lockstep/v1/drift"
	// RebuildPath is recall.Path.
	RebuildPath = recall.Path
)

// Access is one thing a client asks to do.
type Access struct {
	// Verb as Kubernetes has them: get, list, watch, create, update, patch, delete, deletecollection.
	Verb        string
	Group       string
	Resource    string // empty for a path
	Subresource string
	Namespace   string          // empty: of the cluster, or of all namespaces; a namespace itself is in the one of its name
	Name        string          // empty: of all
	Fields      fields.Selector // nil: none
	Labels      labels.Selector // nil: none
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
	if place := strings.Trim(a.place()+"/"+a.Name, "/"); place != "" {
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

// place is the namespace that the object is in which an access names.
func (a Access) place() string {
	if kind := a.Kind(); kind != nil && !kind.Namespaced {
		return ""
	}
	return a.Namespace
}

// Attributes are what Kubernetes calls an access of somebody.
func (a Access) Attributes(who *user.DefaultInfo) authorizer.Attributes {
	return authorizer.AttributesRecord{
		User: who, Verb: a.Verb, Namespace: a.Namespace, APIGroup: a.Group, Resource: a.Resource, Subresource: a.Subresource,
		Name: a.Name, ResourceRequest: a.Resource != "", Path: a.Path,
	}
}

// Kind is the one that an access is to, or nil; for events that are shown otherwise, that of what is shown.
func (a Access) Kind() *kinds.Kind {
	if a.Group == eventsv1.GroupName {
		a.Group = corev1.GroupName
	}
	return kinds.ForResource(schema.GroupResource{Group: a.Group, Resource: a.Resource})
}

// Confidential says that an access is to a kind that viewers do not read.
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
	return v.Get(kind.Key(a.place(), a.Name))
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

// Joins says that a path is for those who have a token in what they send, and are nobody yet.
func Joins(path string) bool { return path == JoinPath || path == ServerPath }

// Open says that a path is for everybody; the last three check what is in their bodies.
func Open(path string) bool {
	switch path {
	case "/healthz", "/livez", "/readyz", "/version", "/version/", JoinPath, ServerPath, HookPath:
		return true
	}
	return false
}

// reviews are resources that are questions: they are asked by creating one, which changes nothing.
func reviews() []schema.GroupResource {
	const mayDo, whoIs = "authorization.k8s.io", "authentication.k8s.io"
	return []schema.GroupResource{
		{Group: mayDo, Resource: "selfsubjectaccessreviews"}, {Group: mayDo, Resource: "selfsubjectrulesreviews"},
		{Group: mayDo, Resource: "subjectaccessreviews"}, {Group: mayDo, Resource: "localsubjectaccessreviews"},
		{Group: whoIs, Resource: "selfsubjectreviews"}, {Group: whoIs, Resource: "tokenreviews"},
	}
}

// Decide says whether a client may, and why or why not. Nodes may what is theirs; everybody else reads, and asks, what the
// policy grants, tokens of service accounts too, and programs write what they may be granted (see Verbs); to nodes and nobody the
// policy may be nil. The writes whose object is in the request's body are judged again when it is read.
func Decide(who Subject, a Access, v *view.View, p *Policy) (Verdict, string) {
	asks := a.Verb == "create" && a.Subresource == "" &&
		slices.Contains(reviews(), schema.GroupResource{Group: a.Group, Resource: a.Resource})
	switch {
	case a.Resource == "":
		return decidePath(who, a, p)
	case who.Role == Anonymous:
		return Unauthorized, "Unauthorized"
	case who.Role == Server:
		return Forbidden, "servers ask each other only for what agents answer"
	case who.Role == Node && asks:
		return Allowed, ""
	case who.Role == Node && a.Read():
		return nodeReads(who.Node, a, v)
	case who.Role == Node:
		return nodeWrites(who.Node, a, v)
	case who.Role == Account && a.programs():
		return programWrites(who, a, p)
	case !a.Read() && !asks && !a.token():
		return NotThisWay, ""
	default:
		return granted(p.grants(&who.User, a))
	}
}

func decidePath(who Subject, a Access, p *Policy) (Verdict, string) {
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
	case strings.HasPrefix(path, PeersPath):
		return only(who.Role == Server, "only a server of this cluster may")
	case who.Role == Server:
		return Forbidden, "servers ask each other only for what agents answer"
	case path == TunnelPath || path == RenewPath || path == RebuildPath:
		return only(who.Role == Node, "only a node may")
	case path == DriftPath && who.Role == Node:
		return only(a.Verb == "post", "nodes have no use for it")
	case !a.Read():
		return NotThisWay, ""
	case who.Role == Node:
		return Allowed, ""
	default:
		return granted(p.grants(&who.User, a))
	}
}

// nodeReads: services, endpoint slices, Ingresses and namespaces whole, and of nodes what routes need, to run services, names, ingress
// and routes; else only what its own pods need.
func nodeReads(self string, a Access, v *view.View) (Verdict, string) {
	switch a.what() {
	case "nodes", "services", "namespaces", "endpointslices.discovery.k8s.io", "runtimeclasses.node.k8s.io",
		"csidrivers.storage.k8s.io", "ingresses.networking.k8s.io", "ingressclasses.networking.k8s.io":
		return Allowed, ""
	case "nodes/status":
		return only(a.Name == self, "a node reads only its own status")
	case "pods", "pods/status":
		if a.Verb == "get" {
			return only(boundTo(self, a, v), "a node reads only the pods that are bound to it")
		}
		return only(selectsField(a, "spec.nodeName", self), "a node lists only the pods that are bound to it: select spec.nodeName="+self)
	case "secrets":
		return only(refersTo(self, a, v, podutil.VisitPodSecretNames) || mountsBy(self, a, v) || shows(self, a, v),
			"no pod that is bound to this node refers to it, nor an Ingress that it serves")
	case "configmaps":
		return only(refersTo(self, a, v, podutil.VisitPodConfigmapNames), "no pod that is bound to this node refers to it")
	case "persistentvolumeclaims":
		return only(refersTo(self, a, v, visitClaims), "no pod that is bound to this node refers to it")
	case "persistentvolumes":
		if a.Verb == "get" {
			return only(mounts(self, a.Name, v) || keeps(self, a, v), "no claim of a pod that is bound to this node is bound to it")
		}
		return only(selectsLabel(a, kinds.LocalPathNode, self),
			"a node lists only the volumes that it keeps: select "+kinds.LocalPathNode+"="+self)
	case "csinodes.storage.k8s.io":
		return only(a.Name == self, "a node reads only its own CSINode")
	case "volumeattachments.storage.k8s.io":
		return only(attachesTo(self, a, v), "no volume is attached to this node by it")
	case "leases.coordination.k8s.io":
		return only(a.Namespace == nodeLeases && a.Name == self, "a node reads only its own lease")
	default:
		return Forbidden, "nodes have no use for it"
	}
}

// only allows where ok is; why is why not.
func only(ok bool, why string) (Verdict, string) {
	if ok {
		return Allowed, ""
	}
	return Forbidden, why
}

// granted is the verdict of a policy, with why either way.
func granted(ok bool, why string) (Verdict, string) {
	if ok {
		return Allowed, why
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
	case "persistentvolumeclaims/status":
		ok = change && refersTo(self, a, v, visitClaims)
	case "persistentvolumes":
		ok = change && (keeps(self, a, v) || a.Name != "" && a.Object(v) == nil)
	case "csinodes.storage.k8s.io":
		ok = a.Verb == "create" || change && a.Name == self
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

// keeps says whether the volume that an access names is a directory of the node.
func keeps(node string, a Access, v *view.View) bool {
	pv, ok := view.Get[*corev1.PersistentVolume](v, "", a.Name)
	return ok && node != "" && kinds.LocalPathOf(pv) == node
}

// attachesTo says whether the attachment that an access names is to the node. One that is not there yet may be asked for, not waited for.
func attachesTo(node string, a Access, v *view.View) bool {
	attachment, ok := view.Get[*storagev1.VolumeAttachment](v, "", a.Name)
	if !ok {
		return a.Verb == "get" && a.Name != ""
	}
	return attachment.Spec.NodeName == node
}

func selectsLabel(a Access, label, value string) bool {
	if a.Labels == nil {
		return false
	}
	got, ok := a.Labels.RequiresExactMatch(label)
	return ok && got == value
}

func selectsField(a Access, field, value string) bool {
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

// shows says whether a get names, or a list or watch selects by name, a Secret that an Ingress has for TLS which the node serves: it says
// that it serves ingress, and the Ingress's class is Lockstep's own and for this node.
func shows(self string, a Access, v *view.View) bool {
	n, ok := view.Get[*corev1.Node](v, "", self)
	if a.Name == "" || a.Namespace == "" || !ok || n.DeletionTimestamp != nil || kinds.NodeCondition(n, kinds.NodeIngress) == nil {
		return false
	}
	classes := admission.IngressClasses(v)
	for i := range view.List[*networkingv1.Ingress](v, a.Namespace) {
		if c := classes.Of(i); ingress.Owned(c) && ingress.Selects(c, n.Labels) && slices.Contains(ingress.Secrets(i), a.Name) {
			return true
		}
	}
	return false
}

// visitClaims visits the claims that a pod names, and those that are made for its ephemeral volumes.
func visitClaims(p *corev1.Pod, visit podutil.Visitor) bool {
	for i := range p.Spec.Volumes {
		if claim := kinds.ClaimOf(p, &p.Spec.Volumes[i]); claim != "" && !visit(claim) {
			return false
		}
	}
	return true
}

// mounts says whether a claim of a pod of the node is bound to the volume.
func mounts(self, volume string, v *view.View) bool {
	return volume != "" && claims(self, v, func(c *corev1.PersistentVolumeClaim) bool { return c.Spec.VolumeName == volume })
}

// claims says whether a claim of a pod of the node is like that.
func claims(self string, v *view.View, like func(*corev1.PersistentVolumeClaim) bool) bool {
	for p := range v.PodsOnNode(self) {
		none := visitClaims(p, func(claim string) bool {
			c, ok := view.Get[*corev1.PersistentVolumeClaim](v, p.Namespace, claim)
			return !ok || !like(c)
		})
		if !none {
			return true
		}
	}
	return false
}

// mountsBy says whether the node's CSI drivers are told of the secret that a get names, to mount a volume for a pod of the node.
func mountsBy(self string, a Access, v *view.View) bool {
	return a.Verb == "get" && a.Name != "" && claims(self, v, func(c *corev1.PersistentVolumeClaim) bool {
		pv, ok := view.Get[*corev1.PersistentVolume](v, "", c.Spec.VolumeName)
		if !ok || pv.Spec.CSI == nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != c.UID {
			return false
		}
		csi := pv.Spec.CSI
		for _, ref := range []*corev1.SecretReference{csi.NodeStageSecretRef, csi.NodePublishSecretRef, csi.NodeExpandSecretRef} {
			if ref != nil && ref.Namespace == a.Namespace && ref.Name == a.Name {
				return true
			}
		}
		return false
	})
}
