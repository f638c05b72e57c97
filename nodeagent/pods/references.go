package pods

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// Resource is a kind of what pods refer to, as the API names it.
type Resource string

// The resources that a node reads for its pods.
const (
	ConfigMaps     Resource = "configmaps"
	Secrets        Resource = "secrets"
	RuntimeClasses Resource = "runtimeclasses"

	PersistentVolumeClaims Resource = "persistentvolumeclaims"
	PersistentVolumes      Resource = "persistentvolumes"
)

// Reference names an object that a pod refers to; the namespace of a RuntimeClass and of a PersistentVolume is empty.
type Reference struct {
	Resource
	Namespace, Name string
}

// References are the objects that a pod names. The PersistentVolumes of its claims are not among them: those the claims name.
func References(p *corev1.Pod) map[Reference]bool {
	out := map[Reference]bool{}
	configMap := func(name string) { out[Reference{ConfigMaps, p.Namespace, name}] = true }
	secret := func(name string) { out[Reference{Secrets, p.Namespace, name}] = true }
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				configMap(e.ConfigMapRef.Name)
			}
			if e.SecretRef != nil {
				secret(e.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				configMap(e.ValueFrom.ConfigMapKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				secret(e.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if claim := kinds.ClaimOf(p, v); claim != "" {
			out[Reference{PersistentVolumeClaims, p.Namespace, claim}] = true
		}
		if v.ConfigMap != nil {
			configMap(v.ConfigMap.Name)
		}
		if v.Secret != nil {
			secret(v.Secret.SecretName)
		}
		if v.CSI != nil && v.CSI.NodePublishSecretRef != nil {
			secret(v.CSI.NodePublishSecretRef.Name)
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					configMap(s.ConfigMap.Name)
				}
				if s.Secret != nil {
					secret(s.Secret.Name)
				}
			}
		}
	}
	for _, s := range p.Spec.ImagePullSecrets {
		secret(s.Name)
	}
	if class := p.Spec.RuntimeClassName; class != nil {
		out[Reference{RuntimeClasses, "", *class}] = true
	}
	return out
}
