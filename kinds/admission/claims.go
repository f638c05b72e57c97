package admission

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"lockstep/kinds"
)

// DefaultStorageClass returns the StorageClass of claims that name none, or nil: of several that say so the newest, of these the
// first by name, as Kubernetes has it.
func DefaultStorageClass(in Cluster) *storagev1.StorageClass {
	var newest *storagev1.StorageClass
	for o := range in.List(kinds.For[*storagev1.StorageClass]().GroupResource(), "") {
		c := o.(*storagev1.StorageClass)
		if !defaultForClaims(c) {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&c.CreationTimestamp) ||
			newest.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < newest.Name {
			newest = c
		}
	}
	return newest
}

func defaultForClaims(c *storagev1.StorageClass) bool {
	return c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

// classify gives a claim that says nothing of a class the default one, as Kubernetes' plugin DefaultStorageClass does.
func classify(claim *corev1.PersistentVolumeClaim, in Cluster) {
	if volume.PersistentVolumeClaimHasClass(claim) {
		return
	}
	if c := DefaultStorageClass(in); c != nil {
		claim.Spec.StorageClassName = &c.Name
	}
}

// Resize says why a claim may not be changed as it is: one that grows is bound, and its StorageClass allows it, as Kubernetes'
// plugin PersistentVolumeClaimResize has it; and it stays within what LimitRanges allow. Nil: it may.
func Resize(claim, before *corev1.PersistentVolumeClaim, in Cluster) *field.Error {
	asked, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], before.Spec.Resources.Requests[corev1.ResourceStorage]
	if asked.Cmp(was) > 0 {
		name := volume.GetPersistentVolumeClaimClass(claim)
		class, _ := in.Get(kinds.For[*storagev1.StorageClass]().Key("", name)).(*storagev1.StorageClass)
		switch {
		case before.Status.Phase != corev1.ClaimBound:
			return field.Forbidden(storagePath(), "Only bound persistent volume claims can be expanded")
		case name != volume.GetPersistentVolumeClaimClass(before), class == nil, !ptr.Deref(class.AllowVolumeExpansion, false):
			return field.Forbidden(storagePath(), "only dynamically provisioned pvc can be resized and the storageclass that "+
				"provisions the pvc must support resize")
		}
	}
	return claimWithinLimits(claim, limitRanges(claim.Namespace, in))
}

func storagePath() *field.Path {
	return field.NewPath("spec", "resources", "requests").Child(string(corev1.ResourceStorage))
}

// claimWithinLimits refuses a claim whose requests are outside of what a LimitRange allows.
func claimWithinLimits(claim *corev1.PersistentVolumeClaim, ranges []*corev1.LimitRange) *field.Error {
	requests := claim.Spec.Resources.Requests
	for _, r := range ranges {
		var errs []error
		for _, item := range r.Spec.Limits {
			if item.Type != corev1.LimitTypePersistentVolumeClaim {
				continue
			}
			errs = append(errs, outside(corev1.LimitRangeItem{Type: item.Type, Min: item.Min}, requests, nil)...)
			for _, name := range slices.Sorted(maps.Keys(item.Max)) {
				u := use{resource: name, per: item.Type, bound: item.Max[name]}
				if u.request, u.requested = requests[name]; u.requestAboveMax() != "" {
					errs = append(errs, errors.New(u.requestAboveMax()))
				}
			}
		}
		if len(errs) > 0 {
			return field.Forbidden(field.NewPath("spec", "resources"), utilerrors.NewAggregate(errs).Error())
		}
	}
	return nil
}

func (u use) requestAboveMax() string {
	said := fmt.Sprintf("maximum %s usage per %s is %s", u.resource, u.per, u.bound.String())
	switch {
	case !u.requested:
		return said + ".  No request is specified"
	case u.request.Cmp(u.bound) > 0:
		return said + ", but request is " + u.request.String()
	}
	return ""
}

// addClaim adds what a claim uses by the names that quotas have for it, those of its class among them. What its volume was
// expanded to counts where that is more than it asks for by now.
func addClaim(used corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	class := volume.GetPersistentVolumeClaimClass(claim)
	add := func(name corev1.ResourceName, q resource.Quantity) {
		used[name] = q
		if class != "" {
			used[corev1.ResourceName(class)+classSuffix+name] = q
		}
	}
	add(corev1.ResourcePersistentVolumeClaims, *resource.NewQuantity(1, resource.DecimalSI))
	if storage, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		if allocated, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(storage) > 0 {
			storage = allocated
		}
		storage = storage.DeepCopy()
		storage.RoundUp(0)
		add(corev1.ResourceRequestsStorage, storage)
	}
}
