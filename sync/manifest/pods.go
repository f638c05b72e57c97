package manifest

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a pod may be, and ask of where it runs. Programs that write manifests reach a tenth of it.
const (
	// maxPod bounds a pod in bytes, as it is stored: the other half of an object's room is for what its node and the scheduler say of
	// it. Without that it could neither run nor end.
	maxPod = 480 << 10
	// maxContainers bounds its containers: what their states take has that room, too.
	maxContainers = 250
	// maxVolumes and maxSubPaths bound its volumes, and those of its mounts that show a part of one: each may be a mount of the node's,
	// of which the kernel has 100,000 for all pods.
	maxVolumes  = 250
	maxSubPaths = 500
	// maxNear bounds the terms of pod affinity and anti-affinity together. Each is counted for all pods that are decided, those of
	// others too, and on all nodes: 3,000 took 0.4 s of the scheduler for each of these on 100 nodes.
	maxNear = 100
	// maxSpread bounds the constraints of topology: each is compared with each, on all nodes.
	maxSpread = 20
	// maxWords bounds the namespaces, labels and values that these terms and constraints name in all.
	maxWords = 2000
	// maxNodeWords bounds the requirements and values of node affinity, which are compared with each node.
	maxNodeWords = 5000
	// maxTolerations bounds those, which are compared with each taint of each node.
	maxTolerations = 1000
)

// crowded refuses a pod, or a template of pods, that is or asks for more than is any pod's share. at is where its spec is.
func (c *checker) crowded(n *node, meta *metav1.ObjectMeta, spec *corev1.PodSpec, at string) {
	over := func(field string, is, most int, what string) {
		if is > most {
			c.tooMuch(n, at+field, "%d %s are more than the limit of %d", is, what, most)
		}
	}
	over("", meta.Size()+spec.Size(), maxPod, "bytes of a pod, as it is stored,")
	over(".containers", len(spec.InitContainers)+len(spec.Containers), maxContainers, "containers")
	over(".volumes", len(spec.Volumes), maxVolumes, "volumes")
	over(".containers", subPathsOf(spec), maxSubPaths, "mounts with a subPath")
	over(".tolerations", len(spec.Tolerations), maxTolerations, "tolerations")
	over(".topologySpreadConstraints", len(spec.TopologySpreadConstraints), maxSpread, "constraints")
	words := 0
	for i := range spec.TopologySpreadConstraints {
		s := &spec.TopologySpreadConstraints[i]
		words += len(s.MatchLabelKeys) + wordsOf(s.LabelSelector)
	}
	over(".topologySpreadConstraints", words, maxWords, "labels and values of constraints")
	if spec.Affinity == nil {
		return
	}
	terms, words := podWords(spec.Affinity)
	over(".affinity", terms, maxNear, "terms of pod affinity and anti-affinity")
	over(".affinity", words, maxWords, "namespaces, labels and values of pod affinity and anti-affinity")
	over(".affinity.nodeAffinity", nodeWords(spec.Affinity.NodeAffinity), maxNodeWords, "requirements and values of node affinity")
}

// subPathsOf counts the mounts of a pod's containers that show a part of a volume.
func subPathsOf(spec *corev1.PodSpec) (count int) {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			for _, m := range list[i].VolumeMounts {
				if m.SubPath != "" || m.SubPathExpr != "" {
					count++
				}
			}
		}
	}
	return count
}

// podWords counts the terms of pod affinity and anti-affinity, and what they name.
func podWords(a *corev1.Affinity) (terms, words int) {
	count := func(t *corev1.PodAffinityTerm) {
		terms++
		words += len(t.Namespaces) + len(t.MatchLabelKeys) + len(t.MismatchLabelKeys)
		words += wordsOf(t.LabelSelector) + wordsOf(t.NamespaceSelector)
	}
	all := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			count(&required[i])
		}
		for i := range preferred {
			count(&preferred[i].PodAffinityTerm)
		}
	}
	if a := a.PodAffinity; a != nil {
		all(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := a.PodAntiAffinity; a != nil {
		all(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return terms, words
}

func wordsOf(s *metav1.LabelSelector) (words int) {
	if s == nil {
		return 0
	}
	for i := range s.MatchExpressions {
		words += 1 + len(s.MatchExpressions[i].Values)
	}
	return words + len(s.MatchLabels)
}

// nodeWords counts the requirements of node affinity with their values.
func nodeWords(a *corev1.NodeAffinity) (words int) {
	if a == nil {
		return 0
	}
	count := func(t *corev1.NodeSelectorTerm) {
		for _, list := range [][]corev1.NodeSelectorRequirement{t.MatchExpressions, t.MatchFields} {
			for i := range list {
				words += 1 + len(list[i].Values)
			}
		}
	}
	if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		for i := range r.NodeSelectorTerms {
			count(&r.NodeSelectorTerms[i])
		}
	}
	for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		count(&a.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference)
	}
	return words
}
