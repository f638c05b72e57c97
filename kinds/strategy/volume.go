package strategy

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/core"
)

// volumeStrategy is Kubernetes' own for PersistentVolumes, which asks a clock: here a new volume has no lastPhaseTransitionTime
// until its phase has been decided.
type volumeStrategy struct{ declaredStrategy }

type declaredStrategy interface {
	mainStrategy
	rest.DeclarativeValidationStrategy
}

// PrepareForCreate is Kubernetes' own but for the time.
func (s volumeStrategy) PrepareForCreate(ctx context.Context, o runtime.Object) {
	s.declaredStrategy.PrepareForCreate(ctx, o)
	o.(*core.PersistentVolume).Status.LastPhaseTransitionTime = nil
}
