// Package podsecurity says which pods a namespace takes by Kubernetes' Pod Security Standards, which its labels name.
package podsecurity

import (
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// checks are Kubernetes', of all versions. Who uses no label never makes them.
var checks = sync.OnceValue(func() policy.Evaluator {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(fmt.Sprintf("podsecurity: Kubernetes' own checks are wrong: %v", err))
	}
	return evaluator
})

// maxPods is how many pods a new level is checked against, as in Kubernetes: some 30 ms of work.
const maxPods = 3000

// Of returns the standards that a namespace's labels name: pods that violate Enforce are refused, those that violate Audit or
// Warn are told. Without labels all are privileged, which nothing violates. The errors are of labels that are wrong, in whose
// place stands what Kubernetes takes for them.
func Of(labels map[string]string) (api.Policy, field.ErrorList) {
	anything := api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()}
	return api.PolicyToEvaluate(labels, api.Policy{Enforce: anything, Audit: anything, Warn: anything})
}

// Refused says in Kubernetes' words why a namespace with such labels does not take a pod; empty: it does.
func Refused(labels map[string]string, meta *metav1.ObjectMeta, spec *corev1.PodSpec) string {
	standards, _ := Of(labels)
	return violation("violates", standards.Enforce, meta, spec)
}

// Told says what Kubernetes would warn of when a namespace with such labels gets a pod, and what it would note in its audit log;
// what is both is said once.
func Told(labels map[string]string, meta *metav1.ObjectMeta, spec *corev1.PodSpec) []string {
	var told []string
	standards, _ := Of(labels)
	if text := violation("would violate", standards.Warn, meta, spec); text != "" {
		told = append(told, text)
	}
	if standards.Audit != standards.Warn {
		if text := violation("would violate", standards.Audit, meta, spec); text != "" {
			told = append(told, "audit: "+text)
		}
	}
	return told
}

// Telling says that a namespace with such labels may have anything told of a pod.
func Telling(labels map[string]string) bool {
	standards, _ := Of(labels)
	return standards.Warn.Level != api.LevelPrivileged || standards.Audit.Level != api.LevelPrivileged
}

func violation(verb string, of api.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) string {
	if of.Level == api.LevelPrivileged {
		return ""
	}
	result := policy.AggregateCheckResults(checks().EvaluatePod(of, meta, spec))
	if result.Allowed {
		return ""
	}
	return fmt.Sprintf("%s PodSecurity %q: %s", verb, of.String(), result.ForbiddenDetail())
}

// Relabelled says in Kubernetes' words which of the pods that a namespace has violate what its labels enforce now, and did not
// enforce before. The pods stay.
func Relabelled(namespace string, old, new map[string]string, pods []*corev1.Pod) []string {
	before, _ := Of(old)
	now, _ := Of(new)
	enforce := now.Enforce
	if enforce == before.Enforce || enforce.Level == api.LevelPrivileged ||
		enforce.Version == before.Enforce.Version && api.CompareLevels(enforce.Level, before.Enforce.Level) < 1 {
		return nil
	}
	var told []string
	all := len(pods)
	pods = firsts(pods)
	if len(pods) > maxPods {
		pods = pods[:maxPods]
		told = append(told, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods",
			maxPods, all))
	}
	type group struct {
		first string
		count int
	}
	groups := map[string]group{}
	for _, p := range pods {
		result := policy.AggregateCheckResults(checks().EvaluatePod(enforce, &p.ObjectMeta, &p.Spec))
		if result.Allowed {
			continue
		}
		g, ok := groups[result.ForbiddenReason()]
		if !ok || p.Name < g.first {
			g.first = p.Name
		}
		g.count++
		groups[result.ForbiddenReason()] = g
	}
	if len(groups) == 0 {
		return told
	}
	var lines []string
	for reason, g := range groups {
		switch g.count {
		case 1:
			lines = append(lines, fmt.Sprintf("%s: %s", g.first, reason))
		case 2:
			lines = append(lines, fmt.Sprintf("%s (and 1 other pod): %s", g.first, reason))
		default:
			lines = append(lines, fmt.Sprintf("%s (and %d other pods): %s", g.first, g.count-1, reason))
		}
	}
	slices.Sort(lines)
	told = append(told, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q",
		namespace, enforce.String()))
	return append(told, lines...)
}

// firsts puts one pod of each controller, and those of none, before the others.
func firsts(pods []*corev1.Pod) []*corev1.Pod {
	seen := map[types.UID]bool{}
	var first, more []*corev1.Pod
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		switch {
		case ref == nil:
			first = append(first, p)
		case seen[ref.UID]:
			more = append(more, p)
		default:
			seen[ref.UID] = true
			first = append(first, p)
		}
	}
	return append(first, more...)
}
