package strategy

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
	"lockstep/kinds/podsecurity"
)

// defaultTolerationSeconds is how long a pod stays bound to a node that is not ready or not reachable:
// kube-apiserver's --default-not-ready-toleration-seconds.
const defaultTolerationSeconds = 300

// Admit does in place what Kubernetes' default admission does to a new pod: the service account named default where
// none is named, tolerations of 300 s for nodes that are not ready or not reachable, and priority 0 where it has no class.
// What its class and its account have for it, package kinds/admission knows. Doing it twice changes nothing.
func Admit(pod *corev1.Pod) {
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = kinds.DefaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	tolerateBriefly(pod, corev1.TaintNodeNotReady)
	tolerateBriefly(pod, corev1.TaintNodeUnreachable)
	if pod.Spec.PriorityClassName == "" && pod.Spec.Priority == nil {
		pod.Spec.Priority = new(int32(0))
	}
	if pod.Spec.PreemptionPolicy == nil {
		policy := corev1.PreemptLowerPriority
		pod.Spec.PreemptionPolicy = &policy
	}
}

func tolerateBriefly(pod *corev1.Pod, taint string) {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return
		}
	}
	seconds := int64(defaultTolerationSeconds)
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
		Key:               taint,
		Operator:          corev1.TolerationOpExists,
		Effect:            corev1.TaintEffectNoExecute,
		TolerationSeconds: &seconds,
	})
}

// admitNamespace refuses labels of Pod Security Standards that are wrong, as Kubernetes' plugin PodSecurity does.
func admitNamespace(o kinds.Object) field.ErrorList {
	_, wrong := podsecurity.Of(o.GetLabels())
	return wrong
}

// admitProtected gives a new object a finalizer, as Kubernetes' plugin StorageObjectInUseProtection does.
func admitProtected(finalizer string) func(kinds.Object) field.ErrorList {
	return func(o kinds.Object) field.ErrorList {
		if !slices.Contains(o.GetFinalizers(), finalizer) {
			o.SetFinalizers(append(o.GetFinalizers(), finalizer))
		}
		return nil
	}
}

// admitPod admits a new pod.
func admitPod(o kinds.Object) field.ErrorList {
	Admit(o.(*corev1.Pod))
	return nil
}

// readmitPod does what the same admission does to an update, so that a manifest that states some tolerations can be
// applied again: the brief tolerations come back, those that a RuntimeClass may have given stay, as no pod loses any, and so does
// the priority.
func readmitPod(new, old kinds.Object) {
	pod, was := new.(*corev1.Pod), old.(*corev1.Pod)
	if was.Spec.RuntimeClassName != nil {
		for _, t := range was.Spec.Tolerations {
			if !slices.ContainsFunc(pod.Spec.Tolerations, func(o corev1.Toleration) bool { return o.MatchToleration(&t) }) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
			}
		}
	}
	tolerateBriefly(pod, corev1.TaintNodeNotReady)
	tolerateBriefly(pod, corev1.TaintNodeUnreachable)
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = was.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = was.Spec.PreemptionPolicy
	}
}
