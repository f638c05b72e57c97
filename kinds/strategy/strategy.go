// Package strategy applies Kubernetes' own rules to objects: defaulting, validation, what an update may change.
package strategy

import (
	"context"
	"fmt"
	"reflect"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"

	"lockstep/kinds"
)

// registry is what Kubernetes' API server does for one kind around a write, and by what it selects. The objects of main and
// status, and those of which values are allocated, are of its internal types, except for kinds of our own.
type registry struct {
	main   mainStrategy
	status rest.RESTUpdateStrategy // nil for kinds without a status subresource
	// resize is for what an update changes that resizes says is of it; what else it changes is main's.
	resize  rest.RESTUpdateStrategy
	resizes func(new, old kinds.Object) bool // nil: never
	// admit is what default admission does to a new object, and readmit to an update; nil: nothing.
	admit   func(kinds.Object) field.ErrorList
	readmit func(new, old kinds.Object)
	// allocate fills in what Kubernetes does where it allocates, for a new object, which has no old one, and for an update; nil:
	// nothing.
	allocate func(obj, old runtime.Object) field.ErrorList
	// remove is what a deletion makes of an object, as Delete says; nil: it goes at once.
	remove func(o kinds.Object, now time.Time, grace *int64) (changed kinds.Object, gone bool)
	// named says that what is stored has the object's uid in other fields, too; kinds.Unborn stands there until it has one.
	named bool
	// plain says that Kubernetes prints no columns for the kind but the name and when it was created.
	plain bool
	// fields adds those by which field selectors select besides its name and namespace; nil: none.
	fields func(kinds.Object, fields.Set)
}

type mainStrategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

var registries = map[string]registry{
	"sources.lockstep.dev": {main: sourceStrategy{}, status: sourceStatusStrategy{}},
	"namespaces": {
		main: namespace.Strategy, status: namespace.StatusStrategy, admit: admitNamespace, remove: deleteNamespace,
		fields: namespaceFields,
	},
	"nodes":                               {main: node.Strategy, status: node.StatusStrategy, fields: nodeFields},
	"leases.coordination.k8s.io":          {main: lease.Strategy},
	"servicecidrs.networking.k8s.io":      {main: servicecidr.Strategy, status: servicecidr.StatusStrategy},
	"ingressclasses.networking.k8s.io":    {main: ingressclass.Strategy},
	"ingresses.networking.k8s.io":         {main: ingress.Strategy, status: ingress.StatusStrategy},
	"runtimeclasses.node.k8s.io":          {main: runtimeclass.Strategy},
	"priorityclasses.scheduling.k8s.io":   {main: priorityclass.Strategy},
	"storageclasses.storage.k8s.io":       {main: storageclass.Strategy},
	"csidrivers.storage.k8s.io":           {main: csidriver.Strategy},
	"csinodes.storage.k8s.io":             {main: csinode.Strategy, status: csinode.StatusStrategy},
	"volumeattachments.storage.k8s.io":    {main: volumeattachment.Strategy, status: volumeattachment.StatusStrategy},
	"csistoragecapacities.storage.k8s.io": {main: csistoragecapacity.Strategy},
	"persistentvolumes": {
		main: volumeStrategy{persistentvolume.Strategy}, status: persistentvolume.StatusStrategy,
		admit: admitProtected(kinds.VolumeProtection),
	},
	"persistentvolumeclaims": {
		main: persistentvolumeclaim.Strategy, status: persistentvolumeclaim.StatusStrategy,
		admit: admitProtected(kinds.ClaimProtection),
	},
	"limitranges":                 {main: limitrange.Strategy, plain: true},
	"resourcequotas":              {main: resourcequota.Strategy, status: resourcequota.StatusStrategy},
	"serviceaccounts":             {main: serviceaccount.Strategy},
	"secrets":                     {main: secret.Strategy, fields: secretFields},
	"configmaps":                  {main: configmap.Strategy},
	"poddisruptionbudgets.policy": {main: poddisruptionbudget.Strategy, status: poddisruptionbudget.StatusStrategy},
	"services": {
		main: service.Strategy, status: service.StatusStrategy, allocate: allocateService, fields: serviceFields,
	},
	"deployments.apps":         {main: deployment.Strategy, status: deployment.StatusStrategy, remove: deleteController},
	"replicasets.apps":         {main: replicaset.Strategy, status: replicaset.StatusStrategy, remove: deleteController},
	"statefulsets.apps":        {main: statefulset.Strategy, status: statefulset.StatusStrategy, remove: deleteController},
	"daemonsets.apps":          {main: daemonset.Strategy, status: daemonset.StatusStrategy, remove: deleteController},
	"controllerrevisions.apps": {main: controllerrevision.Strategy},
	"replicationcontrollers": {
		main: replicationcontroller.Strategy, status: replicationcontroller.StatusStrategy, fields: replicationControllerFields,
		remove: deleteController,
	},
	"horizontalpodautoscalers.autoscaling": {
		main: horizontalpodautoscaler.Strategy, status: horizontalpodautoscaler.StatusStrategy,
	},
	"podtemplates":   {main: podtemplate.Strategy},
	"cronjobs.batch": {main: cronjob.Strategy, status: cronjob.StatusStrategy, remove: deleteController},
	"jobs.batch":     {main: job.Strategy, status: job.StatusStrategy, named: true, fields: jobFields, remove: deleteController},
	"pods": {
		main: pod.Strategy, status: pod.StatusStrategy, admit: admitPod, readmit: readmitPod, remove: deletePod, fields: podFields,
		resize: pod.ResizeStrategy, resizes: resizesPod,
	},
	"endpoints":                       {main: endpoint.Strategy},
	"endpointslices.discovery.k8s.io": {main: endpointslice.Strategy},
	"events":                          {main: event.Strategy, fields: eventFields},

	"clusterroles.rbac.authorization.k8s.io":        {main: clusterrole.Strategy, plain: true},
	"roles.rbac.authorization.k8s.io":               {main: role.Strategy, plain: true},
	"clusterrolebindings.rbac.authorization.k8s.io": {main: clusterrolebinding.Strategy},
	"rolebindings.rbac.authorization.k8s.io":        {main: rolebinding.Strategy},
}

func registryOf(k *kinds.Kind) registry {
	r, ok := registries[k.GroupResource().String()]
	if !ok {
		panic(fmt.Sprintf("strategy: no rules for %v", k.GroupResource()))
	}
	return r
}

// Default fills in, in place, the defaults Kubernetes gives to fields that are not stated. Doing it twice changes
// nothing. It does not fill in what depends on the cluster (see Admit and PrepareCreate).
func Default(o kinds.Object) {
	legacyscheme.Scheme.Default(o)
	if set, ok := o.(*appsv1.StatefulSet); ok { // as conversion leaves them in what Kubernetes stores
		for i := range set.Spec.VolumeClaimTemplates {
			claim := kinds.For[*corev1.PersistentVolumeClaim]()
			set.Spec.VolumeClaimTemplates[i].APIVersion, set.Spec.VolumeClaimTemplates[i].Kind = claim.GroupVersion().String(), claim.Kind
		}
	}
}

// PrepareCreate makes a defaulted object what Kubernetes' API server would store for a create request: in place it
// clears what a creator may not set (status), sets what it must have (a pod's phase and QoS class, a namespace's
// finalizer, a service's address families, generation 1), admits pods as Admit does without their service account, and
// validates. uid, creationTimestamp and generateName are left as they are. A service need not have an address or node
// ports yet. An empty list means that the object is valid.
func PrepareCreate(o kinds.Object) field.ErrorList {
	return PrepareCreateIn(kinds.Of(o).GroupVersion(), o)
}

// PrepareCreateIn is PrepareCreate of a request for a group's version that shows the kind, whose rules may be others.
func PrepareCreateIn(gv schema.GroupVersion, o kinds.Object) field.ErrorList {
	k := kinds.Of(o)
	r := registryOf(k)
	ctx := requestContext(gv, k, o, "create", "")

	if r.named && o.GetUID() == "" {
		o.SetUID(kinds.Unborn)
		defer func() { o.SetUID("") }()
	}
	var admitted field.ErrorList
	if r.admit != nil {
		admitted = r.admit(o)
	}
	return append(admitted, change(o, func(obj runtime.Object, meta metav1.Object) field.ErrorList {
		allocated := r.allocated(obj, nil)
		r.main.PrepareForCreate(ctx, obj)
		errs := append(allocated, r.main.Validate(ctx, obj)...)
		// As in rest.ValidateCreate: a kind's own checks come first, for they say more.
		if len(errs) == 0 {
			errs = validation.ValidateObjectMetaAccessor(meta, r.main.NamespaceScoped(), validPathSegment, field.NewPath("metadata"))
		}
		if len(errs) == 0 {
			errs = declared(ctx, r.main, obj, nil)
		}
		if len(errs) == 0 {
			r.main.Canonicalize(obj)
		}
		return errs
	})...)
}

// PrepareUpdate makes new what Kubernetes' API server would store for an update of old's main resource: in place it
// keeps old's status, uid and timestamps, bumps the generation where Kubernetes does, keeps what was allocated for a
// service and is not stated, and validates. What it changes of the resources of a pod's containers is what a request of the
// resize subresource may change. Where new has no resourceVersion it takes old's. An empty list means that
// the update is allowed; old is not changed.
func PrepareUpdate(new, old kinds.Object) field.ErrorList {
	return PrepareUpdateIn(kinds.Of(new).GroupVersion(), new, old)
}

// PrepareUpdateIn is PrepareUpdate of a request for a group's version that shows the kind, whose rules may be others.
func PrepareUpdateIn(gv schema.GroupVersion, new, old kinds.Object) field.ErrorList {
	k := kinds.Of(new)
	r := registryOf(k)
	if r.readmit != nil {
		r.readmit(new, old)
	}
	if r.resizes != nil && r.resizes(new, old) {
		between := new.DeepCopyObject().(kinds.Object)
		if errs := r.update(r.resize, requestContext(gv, k, new, "update", "resize"), between, old); len(errs) > 0 {
			return errs
		}
		old = between
	}
	return r.update(r.main, requestContext(gv, k, new, "update", ""), new, old)
}

// PrepareStatus makes new what Kubernetes' API server would store for an update of old's status subresource: in place
// it takes the spec (and a pod's owner references and deletion) from old, and validates. It panics for a kind without
// a status.
func PrepareStatus(new, old kinds.Object) field.ErrorList {
	k := kinds.Of(new)
	r := registryOf(k)
	if r.status == nil {
		panic(fmt.Sprintf("strategy: %s has no status", k.Kind))
	}
	return r.update(r.status, requestContext(k.GroupVersion(), k, new, "update", "status"), new, old)
}

// update does what rest.BeforeUpdate does, with field errors instead of an API status.
func (r registry) update(s rest.RESTUpdateStrategy, ctx context.Context, new, old kinds.Object) field.ErrorList {
	if new.GetResourceVersion() == "" {
		new.SetResourceVersion(old.GetResourceVersion())
	}
	// The strategies let the new object share memory with the old one, which belongs to a view: work on a copy.
	was, err := toInternal(old.DeepCopyObject().(kinds.Object))
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return change(new, func(obj runtime.Object, meta metav1.Object) field.ErrorList {
		allocated := r.allocated(obj, was)
		meta.SetGeneration(old.GetGeneration())
		s.PrepareForUpdate(ctx, obj, was)
		keepSystemFields(meta, old)

		errs := append(allocated, validation.ValidateObjectMetaAccessor(meta, s.NamespaceScoped(), validPathSegment,
			field.NewPath("metadata"))...)
		errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(meta, old, field.NewPath("metadata"))...)
		errs = append(errs, s.ValidateUpdate(ctx, obj, was)...)
		if len(errs) == 0 {
			errs = declared(ctx, s, obj, was)
		}
		if len(errs) == 0 {
			s.Canonicalize(obj)
		}
		return distinct(errs)
	})
}

func (r registry) allocated(obj, old runtime.Object) field.ErrorList {
	if r.allocate == nil {
		return nil
	}
	return r.allocate(obj, old)
}

// declared returns what breaks the rules that a type's fields declare; old is nil for an object that is made. It is asked where
// the written rules found nothing: Kubernetes' API server compares all errors of both with each other, which takes the square
// of their number.
func declared(ctx context.Context, s any, obj, old runtime.Object) field.ErrorList {
	d, ok := s.(rest.DeclarativeValidationStrategy)
	if !ok {
		return nil
	}
	op := operation.Create
	if old != nil {
		op = operation.Update
	}
	return d.ValidateDeclaratively(ctx, obj, old, nil, op, d.DeclarativeValidationConfig(ctx, obj, old))
}

func keepSystemFields(new, old metav1.Object) {
	if new.GetUID() == "" {
		new.SetUID(old.GetUID())
	}
	if t := old.GetCreationTimestamp(); !t.IsZero() {
		new.SetCreationTimestamp(t)
	}
	if t := old.GetDeletionTimestamp(); !t.IsZero() {
		new.SetDeletionTimestamp(t)
	}
	if s := old.GetDeletionGracePeriodSeconds(); s != nil && new.GetDeletionGracePeriodSeconds() == nil {
		new.SetDeletionGracePeriodSeconds(s)
	}
}

// distinct drops errors that say the same twice: the metadata is checked by the generic rules and by most kinds' own.
func distinct(errs field.ErrorList) field.ErrorList {
	seen := map[string]bool{}
	out := errs[:0]
	for _, e := range errs {
		if text := e.Error(); !seen[text] {
			seen[text] = true
			out = append(out, e)
		}
	}
	return out
}

// change converts o to its internal type, lets f change that, and writes the result back into o.
func change(o kinds.Object, f func(runtime.Object, metav1.Object) field.ErrorList) field.ErrorList {
	internal, err := toInternal(o)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := f(internal, internal.(metav1.Object))
	if internal == runtime.Object(o) {
		return errs
	}
	// Into a fresh object: conversion leaves fields that have no internal form (a secret's stringData) as they were.
	fresh := kinds.Of(o).New()
	if err := legacyscheme.Scheme.Convert(internal, fresh, nil); err != nil {
		return append(errs, field.InternalError(nil, err))
	}
	fresh.GetObjectKind().SetGroupVersionKind(o.GetObjectKind().GroupVersionKind())
	reflect.ValueOf(o).Elem().Set(reflect.ValueOf(fresh).Elem())
	return errs
}

// toInternal returns Kubernetes' internal form of o, which may share memory with it; kinds of our own are returned as
// they are.
func toInternal(o kinds.Object) (runtime.Object, error) {
	k := kinds.Of(o)
	if !legacyscheme.Scheme.IsGroupRegistered(k.Group) {
		return o, nil
	}
	gvk := o.GetObjectKind().GroupVersionKind()
	internal, err := legacyscheme.Scheme.UnsafeConvertToVersion(o, runtime.InternalGroupVersioner)
	o.GetObjectKind().SetGroupVersionKind(gvk)
	if err != nil {
		return nil, fmt.Errorf("cannot convert %s: %w", k.Key(o.GetNamespace(), o.GetName()), err)
	}
	return internal, nil
}

func validPathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// requestContext is the context of the API request that the write stands for: some strategies ask it for the version.
func requestContext(gv schema.GroupVersion, k *kinds.Kind, o kinds.Object, verb, subresource string) context.Context {
	ctx := genericapirequest.WithNamespace(context.Background(), o.GetNamespace())
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		IsResourceRequest: true,
		Verb:              verb,
		APIGroup:          gv.Group,
		APIVersion:        gv.Version,
		Resource:          k.Resource,
		Subresource:       subresource,
		Namespace:         o.GetNamespace(),
		Name:              o.GetName(),
	})
}

// Unconditional says that an update of a kind's objects need not say of which resourceVersion it is.
func Unconditional(k *kinds.Kind) bool {
	return registryOf(k).main.AllowUnconditionalUpdate(context.Background())
}
