package pods

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"lockstep/kinds/podstatus"
)

// News is what has changed around a pod, which a step that failed may have waited for.
type News int

const (
	// NetworkChanged says that pods get addresses now, or others.
	NetworkChanged News = iota
	// ContentChanged says that a ConfigMap, Secret or claim has changed that the pod refers to.
	ContentChanged
	// CredentialsChanged is ContentChanged of a Secret that the pod's images are pulled with.
	CredentialsChanged
	// RuntimeChanged says that the RuntimeClass has changed that the pod names.
	RuntimeChanged
)

// ContentNews is what the change of an object means to a pod that refers to it.
func ContentNews(pod *corev1.Pod, changed Reference) News {
	if changed.Resource == RuntimeClasses {
		return RuntimeChanged
	}
	pulls := func(s corev1.LocalObjectReference) bool { return s.Name == changed.Name }
	if changed.Resource == Secrets && slices.ContainsFunc(pod.Spec.ImagePullSecrets, pulls) {
		return CredentialsChanged
	}
	return ContentChanged
}

// Ends says whether a failure of a step is outdated after the news: the step is tried again at once.
func (n News) Ends(k Key, f Failure) bool {
	switch n {
	case NetworkChanged, RuntimeChanged:
		return k.Kind == Setup
	case ContentChanged:
		return k.Kind == Volumes || f.Reason == reasonConfig
	case CredentialsChanged:
		return true
	}
	return false
}

// Urgent says whether somebody waits for a status that follows on old: others may be coalesced with what follows.
func Urgent(old, s corev1.PodStatus) bool {
	return s.Phase != corev1.PodPending && s.Phase != old.Phase || podstatus.Ready(&old) != podstatus.Ready(&s)
}

// KeepAgain says whether a pod that is kept as old is outdated by its newer object, for an agent that starts without the API.
func KeepAgain(old, pod *corev1.Pod) bool {
	return old.Status.Phase != pod.Status.Phase || old.Status.PodIP != pod.Status.PodIP ||
		!old.DeletionTimestamp.Equal(pod.DeletionTimestamp) || Relabelled(old, pod) || !equality.Semantic.DeepEqual(old.Spec, pod.Spec)
}

// Relabelled says whether labels or annotations differ, which volumes may show.
func Relabelled(old, pod *corev1.Pod) bool {
	return !equality.Semantic.DeepEqual(old.Labels, pod.Labels) || !equality.Semantic.DeepEqual(old.Annotations, pod.Annotations)
}

// Killing is what the kubelet says of why a container is stopped.
func Killing(step Step, pod *corev1.Pod) string {
	switch step.Cause {
	case HookFailed:
		return string(HookFailed)
	case Outgrew:
		return step.Reason()
	case Changed:
		return step.Reason() + ", will be restarted"
	case RestartsAll:
		return "killing"
	case Unhealthy:
		if !restartsAfterKill(pod, step.Container) {
			return step.Reason()
		}
		return step.Reason() + ", will be restarted"
	}
	return "Stopping container " + step.Container
}

// restartsAfterKill says whether a container whose probe gave up gets a successor.
func restartsAfterKill(pod *corev1.Pod, name string) bool {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == name && c.RestartPolicy != nil {
			return *c.RestartPolicy != corev1.ContainerRestartPolicyNever
		}
	}
	return pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}
