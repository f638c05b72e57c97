package kinds

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

const (
	// Cascade is the annotation by which the manifest of a controller, of a Deployment say, tells what becomes of the objects that
	// it has made once it is deleted: CascadeBackground, which is the default, or CascadeOrphan, as of kubectl delete --cascade.
	Cascade = "lockstep.dev/cascade"
	// CascadeBackground has them deleted.
	CascadeBackground = "background"
	// CascadeOrphan leaves them as they are, without an owner, to whoever selects them next.
	CascadeOrphan = "orphan"
)

// Orphans says that the deletion of o leaves what it owns. What a controller controls does not: a Deployment gives its annotations
// to its replica sets, and removes old ones for good.
func Orphans(o Object) bool {
	return o.GetAnnotations()[Cascade] == CascadeOrphan && metav1.GetControllerOfNoCopy(o) == nil
}
