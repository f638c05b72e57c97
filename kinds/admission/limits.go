package admission

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podresources "k8s.io/component-helpers/resource"

	"lockstep/kinds"
)

// limitRangerAnnotation of a pod tells which resources it was given.
const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// limitRanges are those of a namespace.
func limitRanges(namespace string, in Cluster) (ranges []*corev1.LimitRange) {
	for o := range in.List(kinds.For[*corev1.LimitRange]().GroupResource(), namespace) {
		ranges = append(ranges, o.(*corev1.LimitRange))
	}
	return ranges
}

// containers are the pod's, with the paths of their fields: the containers, then the init containers.
func containers(pod *corev1.Pod) (list []*corev1.Container, at []*field.Path) {
	spec := field.NewPath("spec")
	for i := range pod.Spec.Containers {
		list, at = append(list, &pod.Spec.Containers[i]), append(at, spec.Child("containers").Index(i))
	}
	for i := range pod.Spec.InitContainers {
		list, at = append(list, &pod.Spec.InitContainers[i]), append(at, spec.Child("initContainers").Index(i))
	}
	return list, at
}

// giveDefaults gives a pod's containers the requests and limits that they do not state and a LimitRange has, as Kubernetes' plugin
// LimitRanger does.
func giveDefaults(pod *corev1.Pod, ranges []*corev1.LimitRange) {
	for _, r := range ranges {
		requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
		for _, item := range r.Spec.Limits {
			if item.Type == corev1.LimitTypeContainer {
				maps.Copy(requests, item.DefaultRequest)
				maps.Copy(limits, item.Default)
			}
		}
		var told []string
		list, _ := containers(pod)
		for i, c := range list {
			what := "container"
			if i >= len(pod.Spec.Containers) {
				what = "init container"
			}
			for _, lacks := range []struct {
				in   *corev1.ResourceList
				from corev1.ResourceList
				what string
			}{{&c.Resources.Requests, requests, "request"}, {&c.Resources.Limits, limits, "limit"}} {
				if names := fill(lacks.in, lacks.from); len(names) > 0 {
					told = append(told, fmt.Sprintf("%s %s for %s %s", strings.Join(names, ", "), lacks.what, what, c.Name))
				}
			}
		}
		if len(told) > 0 {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, limitRangerAnnotation, "LimitRanger plugin set: "+strings.Join(told, "; "))
		}
	}
}

// fill adds what a list lacks, and returns its names, sorted.
func fill(list *corev1.ResourceList, from corev1.ResourceList) (added []string) {
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if _, stated := (*list)[name]; stated {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = from[name].DeepCopy()
		added = append(added, string(name))
	}
	return added
}

// withinLimits refuses a pod of which a container, or all together, are outside of what a LimitRange allows. The error's field is
// that of the first; it tells all that one LimitRange says.
func withinLimits(pod *corev1.Pod, ranges []*corev1.LimitRange) *field.Error {
	for _, r := range ranges {
		var errs []error
		var first *field.Path
		check := func(item corev1.LimitRangeItem, requests, limits corev1.ResourceList, at *field.Path) {
			found := outside(item, requests, limits)
			if len(found) > 0 && first == nil {
				first = at
			}
			errs = append(errs, found...)
		}
		for _, item := range r.Spec.Limits {
			switch item.Type {
			case corev1.LimitTypeContainer:
				list, at := containers(pod)
				for i, c := range list {
					check(item, c.Resources.Requests, c.Resources.Limits, at[i].Child("resources"))
				}
			case corev1.LimitTypePod:
				all := podresources.PodResourcesOptions{}
				check(item, podresources.PodRequests(pod, all), podresources.PodLimits(pod, all), field.NewPath("spec"))
			}
		}
		if len(errs) > 0 {
			return field.Forbidden(first, utilerrors.NewAggregate(errs).Error())
		}
	}
	return nil
}

// outside says, in Kubernetes' words, what is outside of an item's limits; the resources in the order of their names.
func outside(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for _, rule := range []struct {
		bounds  corev1.ResourceList
		refuses func(use) string
	}{{item.Min, use.belowMin}, {item.Max, use.aboveMax}, {item.MaxLimitRequestRatio, use.aboveRatio}} {
		for _, name := range slices.Sorted(maps.Keys(rule.bounds)) {
			u := use{resource: name, per: item.Type, bound: rule.bounds[name]}
			u.request, u.requested = requests[name]
			u.limit, u.limited = limits[name]
			if reason := rule.refuses(u); reason != "" {
				errs = append(errs, errors.New(reason))
			}
		}
	}
	return errs
}

// use is what is asked for of a resource that a bound is set for.
type use struct {
	resource           corev1.ResourceName
	per                corev1.LimitType
	bound              resource.Quantity
	request, limit     resource.Quantity
	requested, limited bool
}

func (u use) belowMin() string {
	said := fmt.Sprintf("minimum %s usage per %s is %s", u.resource, u.per, u.bound.String())
	switch {
	case !u.requested:
		return said + ".  No request is specified"
	case u.request.Cmp(u.bound) < 0:
		return said + ", but request is " + u.request.String()
	case u.limited && u.limit.Cmp(u.bound) < 0:
		return said + ", but limit is " + u.limit.String()
	}
	return ""
}

func (u use) aboveMax() string {
	said := fmt.Sprintf("maximum %s usage per %s is %s", u.resource, u.per, u.bound.String())
	switch {
	case !u.limited:
		return said + ".  No limit is specified"
	case u.limit.Cmp(u.bound) > 0:
		return said + ", but limit is " + u.limit.String()
	case u.requested && u.request.Cmp(u.bound) > 0:
		return said + ", but request is " + u.request.String()
	}
	return ""
}

func (u use) aboveRatio() string {
	said := fmt.Sprintf("%s max limit to request ratio per %s is %s", u.resource, u.per, u.bound.String())
	switch {
	case u.request.IsZero():
		return said + ", but no request is specified or request is 0"
	case u.limit.IsZero():
		return said + ", but no limit is specified or limit is 0"
	}
	// In thousandths, unless these are more than fit: so decimals divide as they look.
	request, limit, bound := u.request.Value(), u.limit.Value(), float64(u.bound.Value())
	if max(request, limit, u.bound.Value()) <= resource.MaxMilliValue {
		request, limit = u.request.MilliValue(), u.limit.MilliValue()
	}
	ratio, scale := float64(limit)/float64(request), 1.0
	if u.bound.Value() <= resource.MaxMilliValue {
		bound, scale = float64(u.bound.MilliValue()), 1000
	}
	if ratio*scale > bound {
		return fmt.Sprintf("%s, but provided ratio is %f", said, ratio)
	}
	return ""
}
