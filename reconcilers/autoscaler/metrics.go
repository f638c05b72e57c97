package autoscaler

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/kinds/podstatus"
	"lockstep/kinds/quantity"
)

const (
	// The first two are Kubernetes' (--horizontal-pod-autoscaler-cpu-initialization-period and -initial-readiness-delay): what a
	// pod uses to start says nothing of its load.
	startup        = 5 * time.Minute
	readinessDelay = 30 * time.Second
	// tolerance is Kubernetes' (--horizontal-pod-autoscaler-tolerance), where the behavior states none.
	tolerance = 0.1
)

// metrics is the size that the metric asks for which asks for the most, what that metric is, and what each measured.
func (t *turn) metrics() (replicas int32, metric string, statuses []autoscalingv2.MetricStatus, err error) {
	pods, err := t.pods()
	if err != nil {
		return 0, "", nil, err
	}
	specs := t.hpa.Spec.Metrics
	statuses = make([]autoscalingv2.MetricStatus, len(specs))
	var first *failure
	invalid := 0
	for i := range specs {
		proposed, name, failed := t.metric(&specs[i], pods, &statuses[i])
		if failed != nil {
			t.warn(failed.reason, failed.cause.Error())
			if first == nil {
				first = failed
			}
			invalid++
			continue
		}
		if replicas == 0 || proposed > replicas {
			replicas, metric = proposed, name
		}
	}
	if invalid == len(specs) || invalid > 0 && replicas < t.current {
		t.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, first.reason,
			fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.cause))
		return 0, "", statuses, fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: failed to get %s: %w", invalid,
			len(specs), first.what, first.cause)
	}
	t.set(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound",
		"the HPA was able to successfully calculate a replica count from "+metric)
	return replicas, metric, statuses, nil
}

// failure is why a metric says nothing.
type failure struct {
	reason string
	what   string
	cause  error
}

// metric is the size that one metric asks for.
func (t *turn) metric(spec *autoscalingv2.MetricSpec, pods []*corev1.Pod, status *autoscalingv2.MetricStatus) (int32, string, *failure) {
	switch {
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		r := spec.Resource
		proposed, is, err := t.resource(r.Target, r.Name, "", pods)
		if err != nil {
			return 0, "", &failure{"FailedGetResourceMetric", string(r.Name) + " resource metric value", err}
		}
		status.Type = spec.Type
		status.Resource = &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: is}
		return proposed, named(r.Name, r.Target, ""), nil
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		r := spec.ContainerResource
		proposed, is, err := t.resource(r.Target, r.Name, r.Container, pods)
		if err != nil {
			return 0, "", &failure{"FailedGetContainerResourceMetric", r.Container + " container metric value", err}
		}
		status.Type = spec.Type
		status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: is}
		return proposed, named(r.Name, r.Target, "container "), nil
	}
	return 0, "", &failure{"InvalidMetricSourceType", "metric value", fmt.Errorf("unknown metric source type %q", spec.Type)}
}

func named(of corev1.ResourceName, target autoscalingv2.MetricTarget, container string) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s resource", of)
	}
	return fmt.Sprintf("%s %sresource utilization (percentage of request)", of, container)
}

// resource is the size at which the pods use on average what the target says, of a resource, in all containers or one.
func (t *turn) resource(target autoscalingv2.MetricTarget, of corev1.ResourceName, container string, pods []*corev1.Pod) (
	proposed int32, is autoscalingv2.MetricValueStatus, err error) {
	format := resource.DecimalSI
	if of == corev1.ResourceMemory {
		format = resource.BinarySI
	}
	if target.AverageValue == nil && target.AverageUtilization == nil {
		return 0, is, errors.New(
			"invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	what := "usage"
	if target.AverageValue == nil {
		what = "utilization"
	}
	u := usage{of: of, current: t.current, up: tolerance, down: tolerance}
	u.tolerate(t.hpa.Spec.Behavior)
	if err = u.group(pods, t.used, container, t.now); err == nil {
		if target.AverageValue != nil {
			u.raw(quantity.Milli(target.AverageValue))
		} else {
			err = u.utilization(pods, container, *target.AverageUtilization)
		}
	}
	if err != nil {
		return 0, is, fmt.Errorf("failed to get %s %s: %w", of, what, err)
	}
	is.AverageValue = resource.NewMilliQuantity(u.average, format)
	if target.AverageValue == nil {
		is.AverageUtilization = &u.percent
	}
	return u.proposed, is, nil
}

// usage is what pods use of one resource, in thousandths, and what follows from it.
type usage struct {
	of       corev1.ResourceName
	current  int32
	up, down float64

	// used is what pods use that count, by name; ready are those that count without assumptions.
	used  map[string]int64
	ready int
	// unready do not count, for what they use is no load; missing were not measured.
	unready, missing []string

	proposed int32
	average  int64
	percent  int32
}

func (u *usage) tolerate(b *autoscalingv2.HorizontalPodAutoscalerBehavior) {
	if b == nil {
		return
	}
	if b.ScaleDown.Tolerance != nil {
		u.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	if b.ScaleUp.Tolerance != nil {
		u.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
}

// group sorts pods by what their measurements are worth.
func (u *usage) group(pods []*corev1.Pod, used Usage, container string, now time.Time) error {
	if !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return used[p.UID] != nil }) {
		return fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", u.of)
	}
	u.used = map[string]int64{}
	for _, p := range pods {
		switch value, ok := measured(used[p.UID], u.of, container); {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
		case p.Status.Phase == corev1.PodPending:
			u.unready = append(u.unready, p.Name)
		case !ok:
			u.missing = append(u.missing, p.Name)
		case u.of == corev1.ResourceCPU && starts(p, used[p.UID], now):
			u.unready = append(u.unready, p.Name)
		default:
			u.used[p.Name] = value
			u.ready++
		}
	}
	if len(u.used) == 0 {
		return errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	return nil
}

// measured is what a pod, or one of its containers, uses.
func measured(m *metricsv1beta1.PodMetrics, of corev1.ResourceName, container string) (milli int64, ok bool) {
	if m == nil {
		return 0, false
	}
	for _, c := range m.Containers {
		if container != "" && c.Name != container {
			continue
		}
		value, has := c.Usage[of]
		if !has {
			return 0, false
		}
		milli, ok = milli+quantity.Milli(&value), true
	}
	return milli, ok
}

// starts says that what a pod was measured to use is not its load: it is not ready, or was not for the whole measurement.
func starts(p *corev1.Pod, m *metricsv1beta1.PodMetrics, now time.Time) bool {
	c := podstatus.Condition(&p.Status, corev1.PodReady)
	if c == nil || p.Status.StartTime == nil {
		return true
	}
	began := p.Status.StartTime.Time
	if began.Add(startup).After(now) {
		return c.Status == corev1.ConditionFalse || m.Timestamp.Time.Before(c.LastTransitionTime.Add(m.Window.Duration))
	}
	// One that has been ready may be unready of its load.
	return c.Status == corev1.ConditionFalse && began.Add(readinessDelay).After(c.LastTransitionTime.Time)
}

// raw proposes a size by what pods use on average.
func (u *usage) raw(target int64) {
	ratio := func() (float64, int64) {
		total := int64(0)
		for _, value := range u.used {
			total += value
		}
		average := total / int64(len(u.used))
		return float64(average) / float64(target), average
	}
	now, average := ratio()
	u.average = average
	if u.certain(now) {
		return
	}
	u.assume(now, func(string) int64 { return target })
	then, _ := ratio()
	u.uncertain(now, then)
}

// utilization proposes a size by what pods use of what they request.
func (u *usage) utilization(pods []*corev1.Pod, container string, target int32) error {
	requests, err := requested(pods, u.of, container)
	if err != nil {
		return err
	}
	ratio := func() (ratio float64, percent int32, average int64, err error) {
		used, of := int64(0), int64(0)
		for name, value := range u.used {
			used += value
			of += requests[name]
		}
		if of == 0 {
			return 0, 0, 0, errors.New("no metrics returned matched known pods")
		}
		percent = int32(used * 100 / of)
		return float64(percent) / float64(target), percent, used / int64(len(u.used)), nil
	}
	now, percent, average, err := ratio()
	if err != nil {
		return err
	}
	u.percent, u.average = percent, average
	if u.certain(now) {
		return nil
	}
	u.assume(now, func(name string) int64 { return requests[name] * int64(max(100, target)) / 100 })
	then, _, _, err := ratio()
	if err != nil {
		return err
	}
	u.uncertain(now, then)
	return nil
}

func (u *usage) tolerable(ratio float64) bool { return 1-u.down <= ratio && ratio <= 1+u.up }

// certain proposes a size where all pods count that would change it.
func (u *usage) certain(ratio float64) bool {
	if len(u.missing) > 0 || len(u.unready) > 0 && ratio > 1 {
		return false
	}
	u.proposed = u.current
	if !u.tolerable(ratio) {
		u.proposed = clamp(math.Ceil(ratio * float64(u.ready)))
	}
	return true
}

// assume counts the other pods, too, as what makes the change smaller: before the target shrinks, what was not measured uses
// what it may; before it grows, neither that nor an unready pod uses anything.
func (u *usage) assume(ratio float64, most func(pod string) int64) {
	for _, name := range u.missing {
		switch {
		case ratio < 1:
			u.used[name] = most(name)
		case ratio > 1:
			u.used[name] = 0
		}
	}
	if ratio > 1 {
		for _, name := range u.unready {
			u.used[name] = 0
		}
	}
}

// uncertain proposes a size by the ratio with assumptions, unless that is none, or the other way round.
func (u *usage) uncertain(before, ratio float64) {
	u.proposed = u.current
	if u.tolerable(ratio) || before < 1 && ratio > 1 || before > 1 && ratio < 1 {
		return
	}
	size := clamp(math.Ceil(ratio * float64(len(u.used))))
	if ratio < 1 && size > u.current || ratio > 1 && size < u.current {
		return
	}
	u.proposed = size
}

// requested is what each pod, or one container of it, requests, in thousandths.
func requested(pods []*corev1.Pod, of corev1.ResourceName, container string) (map[string]int64, error) {
	out := make(map[string]int64, len(pods))
	for _, p := range pods {
		if container == "" && resourcehelper.IsPodLevelRequestsSet(p) {
			request, ok := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})[of]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", of, p.Name)
			}
			out[p.Name] = quantity.Milli(&request)
			continue
		}
		found := container == ""
		for _, c := range lasting(p) {
			if container != "" && c.Name != container {
				continue
			}
			request, ok := c.Resources.Requests[of]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", of, c.Name, p.Name)
			}
			found = true
			out[p.Name] += quantity.Milli(&request)
		}
		if !found {
			return nil, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
		}
	}
	return out, nil
}

// lasting are the containers that run as long as the pod does.
func lasting(p *corev1.Pod) []corev1.Container {
	list := slices.Clone(p.Spec.Containers)
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; podstatus.Sidecar(c) {
			list = append(list, *c)
		}
	}
	return list
}
