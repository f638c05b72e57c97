// Package template reads and writes the pod template that a ControllerRevision keeps.
package template

import (
	"bytes"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// patch is what kubectl applies to the owner to go back to a revision: a strategic merge patch that replaces its template
// (Kubernetes, pkg/controller/statefulset and pkg/controller/daemon).
type patch struct {
	Spec struct {
		Template json.RawMessage `json:"template"`
	} `json:"spec"`
}

// Encode returns a revision's data for a template. It is byte for byte Kubernetes'.
func Encode(t *corev1.PodTemplateSpec) (runtime.RawExtension, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return runtime.RawExtension{}, fmt.Errorf("cannot write a pod template: %w", err)
	}
	fields := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return runtime.RawExtension{}, fmt.Errorf("cannot write a pod template: %w", err)
	}
	fields["$patch"] = "replace"
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
	if err != nil {
		return runtime.RawExtension{}, fmt.Errorf("cannot write a pod template: %w", err)
	}
	return runtime.RawExtension{Raw: data}, nil
}

// Of returns the template that a revision keeps. It is an error where the revision keeps something else.
func Of(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var p patch
	if err := json.Unmarshal(r.Data.Raw, &p); err != nil {
		return nil, fmt.Errorf("cannot read the template of ControllerRevision %s/%s: %w", r.Namespace, r.Name, err)
	}
	if len(p.Spec.Template) == 0 {
		return nil, fmt.Errorf("cannot read the template of ControllerRevision %s/%s: it keeps none", r.Namespace, r.Name)
	}
	t := &corev1.PodTemplateSpec{}
	if err := json.Unmarshal(p.Spec.Template, t); err != nil {
		return nil, fmt.Errorf("cannot read the template of ControllerRevision %s/%s: %w", r.Namespace, r.Name, err)
	}
	return t, nil
}
