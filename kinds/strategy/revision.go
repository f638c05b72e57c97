package strategy

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"lockstep/kinds/template"
)

// A ControllerRevision keeps a template as it was defaulted when it was made. What a later version of Kubernetes defaults is
// filled in as it is in the object that has the template: so that version makes no new revision, and rolls nothing.
func init() {
	legacyscheme.Scheme.AddTypeDefaultingFunc(&appsv1.ControllerRevision{}, func(o any) {
		defaultRevision(o.(*appsv1.ControllerRevision))
	})
}

// defaultRevision leaves a revision that keeps no template, or one that lacks nothing, as it is, byte for byte.
func defaultRevision(r *appsv1.ControllerRevision) {
	was, err := template.Of(r)
	if err != nil {
		return
	}
	now := &corev1.PodTemplate{Template: *was.DeepCopy()}
	legacyscheme.Scheme.Default(now)
	if equality.Semantic.DeepEqual(was, &now.Template) {
		return
	}
	if data, err := template.Encode(&now.Template); err == nil {
		r.Data = data
	}
}
