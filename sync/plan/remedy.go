package plan

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
)

// What is to be done where Kubernetes' rules refuse a change; short, since a commit status has 140 characters. With what has data they
// go, under its name, so that is never renamed or deleted.
const (
	rename      = "rename it"
	anew        = "delete it in one commit and add it in the next"
	keepsClaims = anew + ": its claims stay"
	keepsSize   = "state the size it had"
	movesData   = "add another one, and keep both until its data are moved"
)

// remedyOf says how to make a change that errs refuse.
func remedyOf(s *Step, errs field.ErrorList) string {
	switch o := s.Live.(type) {
	case *corev1.PersistentVolumeClaim:
		switch {
		case neverBound(o):
		case ofSize(errs):
			return keepsSize
		default:
			return movesData
		}
	case *corev1.PersistentVolume:
		return movesData
	case *appsv1.StatefulSet:
		switch whenDeleted, _ := kinds.DeletesClaims(o); {
		case len(o.Spec.VolumeClaimTemplates) == 0:
		case whenDeleted:
			return movesData
		default:
			return keepsClaims
		}
	}
	if s.Live != nil && s.Entry.State != Applied && len(s.Entry.Before) == 0 {
		return rename // no source states it, so none can delete it
	}
	return rename + ", or " + anew
}

// neverBound says that a claim never had a volume, and so no data.
func neverBound(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName == "" && (c.Status.Phase == "" || c.Status.Phase == corev1.ClaimPending)
}

// ofSize says that what is refused is only that a claim gets smaller.
func ofSize(errs field.ErrorList) bool {
	return !slices.ContainsFunc(errs, func(e *field.Error) bool { return e.Field != "spec.resources.requests.storage" })
}
