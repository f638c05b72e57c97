package plan

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/plain"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/podsecurity"
	"lockstep/kinds/v1alpha1"
)

// enforceLevel is the label that existing pods are told at.
const enforceLevel = "metadata.labels[pod-security.kubernetes.io/enforce]"

// maxWarning bounds a warning, in characters: it names each container up to five times, and all of them are in one status.
const maxWarning = 1000

// standards are what the namespaces' Pod Security Standards have told of the pods that the source states or makes, and of those
// that exist where a namespace is given a new level.
func (d *decision) standards(steps []Step, then *after) Problems {
	var warnings Problems
	telling := map[string]bool{}
	for i := range d.inventory {
		entry := &d.inventory[i]
		namespace := entry.Key.Namespace
		if namespace == "" || entry.State == Pruning {
			continue
		}
		if _, known := telling[namespace]; !known {
			telling[namespace] = podsecurity.Telling(admission.LabelsOf(namespace, then))
		}
		if !telling[namespace] {
			continue
		}
		o, err := decode(entry.Key, entry.Object)
		if err != nil {
			continue
		}
		d.in.Rules.Default(o)
		meta, spec, at := kinds.Of(o).Pods(o)
		if spec == nil {
			continue
		}
		for _, text := range podsecurity.Told(admission.LabelsOf(namespace, then), meta, spec) {
			warnings = append(warnings, Problem{Origin: entry.Origin, Key: entry.Key, Field: at, Message: at + ": " + text})
		}
	}
	for i := range steps {
		s := &steps[i]
		ns, ok := s.Object.(*corev1.Namespace)
		if !ok || s.Verb != Update {
			continue
		}
		var pods []*corev1.Pod
		for o := range d.in.View.List(kinds.For[*corev1.Pod]().GroupResource(), ns.Name) {
			pods = append(pods, o.(*corev1.Pod))
		}
		for _, text := range podsecurity.Relabelled(ns.Name, s.Live.GetLabels(), ns.Labels, pods) {
			warnings = append(warnings, Problem{Origin: s.Entry.Origin, Key: s.Key, Field: enforceLevel, Message: text})
		}
	}
	return warnings
}

// insecure says that an update gives a pod another image, which its namespace's standards would refuse it for, as Kubernetes
// looks at these only.
func insecure(s *Step, then *after) (reason string) {
	pod, itself := s.Object.(*corev1.Pod)
	if !itself || s.Verb != Update {
		return ""
	}
	was := s.Live.(*corev1.Pod)
	if sameImages(pod.Spec.Containers, was.Spec.Containers) && sameImages(pod.Spec.InitContainers, was.Spec.InitContainers) {
		return ""
	}
	return podsecurity.Refused(admission.LabelsOf(pod.Namespace, then), &pod.ObjectMeta, &pod.Spec)
}

func sameImages(a, b []corev1.Container) bool {
	return slices.EqualFunc(a, b, func(a, b corev1.Container) bool { return a.Image == b.Image })
}

// WarningTexts are the warnings as they are kept and shown, v1alpha1.MaxWarnings of them and how many more there are.
func (p *Plan) WarningTexts() []string {
	var texts []string
	for i, w := range p.Warnings {
		if i == v1alpha1.MaxWarnings {
			return append(texts, fmt.Sprintf("and %d more", len(p.Warnings)-i))
		}
		text := plain.Text(w.Error())
		if runes := []rune(text); len(runes) > maxWarning {
			text = string(runes[:maxWarning-1]) + "…"
		}
		texts = append(texts, text)
	}
	return texts
}
