package kinds

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Key identifies an object: no two objects of the cluster have the same one at the same time.
type Key struct {
	Group     string // empty for the core group
	Resource  string // plural, "pods"
	Namespace string // empty for cluster-scoped kinds
	Name      string
}

// KeyOf returns the key of an object whose Go type is in the table.
func KeyOf(o Object) Key { return Of(o).Key(o.GetNamespace(), o.GetName()) }

// Revision is an object's resource version: the store's revision that it is of, which only grows. Zero for an object that
// did not come from a store.
func Revision(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// GroupResource returns the group and resource of the key.
func (k Key) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// String writes the key as people name objects: "Deployment shop/cart", "Namespace shop".
func (k Key) String() string {
	kind := k.GroupResource().String()
	if row := ForResource(k.GroupResource()); row != nil {
		kind = row.Kind
	}
	if k.Namespace == "" {
		return kind + " " + k.Name
	}
	return kind + " " + k.Namespace + "/" + k.Name
}

// Path writes the key as a slash-separated path, group/resource/namespace/name, with "core" for the core group and "-"
// for no namespace: the part of an etcd key after the prefix.
func (k Key) Path() string {
	group, namespace := k.Group, k.Namespace
	if group == "" {
		group = "core"
	}
	if namespace == "" {
		namespace = "-"
	}
	return group + "/" + k.Resource + "/" + namespace + "/" + k.Name
}

// ParsePath is the inverse of Path.
func ParsePath(path string) (Key, error) {
	parts := strings.SplitN(path, "/", 4)
	if len(parts) != 4 || parts[0] == "" || parts[1] == "" || parts[2] == "" || parts[3] == "" {
		return Key{}, fmt.Errorf("cannot parse object path %q: want group/resource/namespace/name", path)
	}
	k := Key{Group: parts[0], Resource: parts[1], Namespace: parts[2], Name: parts[3]}
	if k.Group == "core" {
		k.Group = ""
	}
	if k.Namespace == "-" {
		k.Namespace = ""
	}
	return k, nil
}

// Compare orders keys by group, resource, namespace and name.
func (k Key) Compare(other Key) int {
	return cmp.Or(
		strings.Compare(k.Group, other.Group),
		strings.Compare(k.Resource, other.Resource),
		strings.Compare(k.Namespace, other.Namespace),
		strings.Compare(k.Name, other.Name),
	)
}
