package strategy

import (
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	coreservice "k8s.io/kubernetes/pkg/registry/core/service"

	"lockstep/kinds"
)

// referenceFields returns what Kubernetes selects an object by.
func referenceFields(t *testing.T, o kinds.Object) fields.Set {
	t.Helper()
	attrs, ok := map[string]func(runtime.Object) (labels.Set, fields.Set, error){
		"pods":                   pod.GetAttrs,
		"nodes":                  node.GetAttrs,
		"namespaces":             namespace.GetAttrs,
		"secrets":                secret.GetAttrs,
		"configmaps":             configmap.GetAttrs,
		"services":               coreservice.GetAttrs,
		"replicasets.apps":       replicaset.GetAttrs,
		"replicationcontrollers": replicationcontroller.GetAttrs,
		"events":                 event.GetAttrs,
		"jobs.batch":             job.GetAttrs,
		"persistentvolumes":      persistentvolume.GetAttrs,
		"persistentvolumeclaims": persistentvolumeclaim.GetAttrs,
		// These have none of their own.
		"sources.lockstep.dev":                storage.DefaultClusterScopedAttr,
		"runtimeclasses.node.k8s.io":          storage.DefaultClusterScopedAttr,
		"ingressclasses.networking.k8s.io":    storage.DefaultClusterScopedAttr,
		"ingresses.networking.k8s.io":         storage.DefaultNamespaceScopedAttr,
		"servicecidrs.networking.k8s.io":      storage.DefaultClusterScopedAttr,
		"priorityclasses.scheduling.k8s.io":   storage.DefaultClusterScopedAttr,
		"storageclasses.storage.k8s.io":       storage.DefaultClusterScopedAttr,
		"csidrivers.storage.k8s.io":           storage.DefaultClusterScopedAttr,
		"csinodes.storage.k8s.io":             storage.DefaultClusterScopedAttr,
		"volumeattachments.storage.k8s.io":    storage.DefaultClusterScopedAttr,
		"csistoragecapacities.storage.k8s.io": storage.DefaultNamespaceScopedAttr,
		"leases.coordination.k8s.io":          storage.DefaultNamespaceScopedAttr,
		"limitranges":                         storage.DefaultNamespaceScopedAttr,
		"resourcequotas":                      storage.DefaultNamespaceScopedAttr,
		"serviceaccounts":                     storage.DefaultNamespaceScopedAttr,
		"daemonsets.apps":                     storage.DefaultNamespaceScopedAttr,
		"deployments.apps":                    storage.DefaultNamespaceScopedAttr,
		"cronjobs.batch":                      storage.DefaultNamespaceScopedAttr,
		"statefulsets.apps":                   storage.DefaultNamespaceScopedAttr,
		"controllerrevisions.apps":            storage.DefaultNamespaceScopedAttr,
		"podtemplates":                        storage.DefaultNamespaceScopedAttr,
		"endpoints":                           storage.DefaultNamespaceScopedAttr,
		"endpointslices.discovery.k8s.io":     storage.DefaultNamespaceScopedAttr,

		"clusterroles.rbac.authorization.k8s.io":        storage.DefaultClusterScopedAttr,
		"poddisruptionbudgets.policy":                   storage.DefaultNamespaceScopedAttr,
		"roles.rbac.authorization.k8s.io":               storage.DefaultNamespaceScopedAttr,
		"clusterrolebindings.rbac.authorization.k8s.io": storage.DefaultClusterScopedAttr,
		"rolebindings.rbac.authorization.k8s.io":        storage.DefaultNamespaceScopedAttr,
		"horizontalpodautoscalers.autoscaling":          storage.DefaultNamespaceScopedAttr,
	}[kinds.Of(o).GroupResource().String()]
	if !ok {
		t.Fatalf("say by which function of its registry Kubernetes selects %s", kinds.Of(o).Kind)
	}
	internal, err := toInternal(o.DeepCopyObject().(kinds.Object))
	if err != nil {
		t.Fatal(err)
	}
	_, set, err := attrs(internal)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
