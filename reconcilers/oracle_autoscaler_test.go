package reconcilers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/klog/v2"
	upstream "k8s.io/kubernetes/pkg/controller/podautoscaler"
	upstreammetrics "k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	"k8s.io/kubernetes/pkg/features"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/autoscaler"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestAutoscalerIsKubernetes lets Kubernetes' own controller run beside ours, in time that is made up, for twenty minutes each: loads
// rise and fall, pods come and go, are unready or are not measured, and people change sizes. In every turn the size and the status
// must be the same, and what Kubernetes tells, ours tells, too.
func TestAutoscalerIsKubernetes(t *testing.T) {
	// The fake API server counts no revisions, by which the controller would wait for its own writes. An error is told the later the
	// longer it is since the process began, which is in another century.
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.StaleControllerConsistencyHPA, false)
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil
	defer func() { utilruntime.ErrorHandlers = handlers }()
	changed := 0
	for seed := range short.Of(60) {
		synctest.Test(t, func(t *testing.T) {
			w := newScalingWorld(t, seed)
			for range 80 {
				w.turn(t)
			}
			w.told(t)
			changed += w.changed
		})
	}
	if changed == 0 {
		t.Error("no size was ever changed")
	}
}

var podName = regexp.MustCompile(`(in container \w+ of )?Pod web-[0-9]+`)

// scalingWorld is a deployment with pods, what they use, and an autoscaler as Kubernetes and as we have it.
type scalingWorld struct {
	seed   uint64
	rand   *rand.Rand
	client *fake.Clientset
	seen   cache.Store // of the pods, by Kubernetes' informer
	// size is what Kubernetes has made of the deployment, ours what we have; below zero: there is no deployment.
	size, ours int32
	before     int32 // the size that the last change was from
	hpa        *autoscalingv2.HorizontalPodAutoscaler
	pods       []*corev1.Pod
	used       autoscaler.Usage
	load       int64 // of all pods, in thousandths of a CPU, and so many mebibytes
	made       int
	changed    int
	said       map[string]bool
	loop       loop.Reconciler
}

func newScalingWorld(t *testing.T, seed uint64) *scalingWorld {
	r := rand.New(rand.NewPCG(seed, 23))
	w := &scalingWorld{seed: seed, rand: r, size: 1 + r.Int32N(4), load: r.Int64N(400), said: map[string]bool{}}
	w.ours = w.size
	w.hpa = randomAutoscaler(r)
	w.follow()
	w.measure()
	w.loop = autoscaler.New(func(types.UID, time.Time) (autoscaler.Usage, bool) { return w.used, true })

	w.client = fake.NewClientset(w.hpa.DeepCopy())
	factory := informers.NewSharedInformerFactory(w.client, 0)
	mapper := meta.NewDefaultRESTMapper([]apischema.GroupVersion{appsv1.SchemeGroupVersion})
	mapper.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	c := upstream.NewHorizontalController(ctx, w.client.CoreV1(), w, w.client.AutoscalingV2(), mapper,
		upstreammetrics.NewRESTMetricsClient(w, nil, nil), factory.Autoscaling().V2().HorizontalPodAutoscalers(),
		factory.Core().V1().Pods(), 15*time.Second, 5*time.Minute, 0.1, 5*time.Minute, 30*time.Second)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	w.seen = factory.Core().V1().Pods().Informer().GetStore()
	w.show(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx, 1)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		factory.Shutdown()
	})
	return w
}

func randomAutoscaler(r *rand.Rand) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "hpa", Generation: 1}}
	h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	h.Spec.MinReplicas, h.Spec.MaxReplicas = new(1+r.Int32N(3)), 3+r.Int32N(20)
	for range 1 + r.IntN(2) {
		target := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(20 + r.Int32N(120))}
		of := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceCPU, corev1.ResourceMemory}[r.IntN(3)]
		if r.IntN(3) == 0 {
			value := resource.MustParse([]string{"40m", "90m"}[r.IntN(2)])
			if of == corev1.ResourceMemory {
				value = resource.MustParse("60Mi")
			}
			target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &value}
		}
		m := autoscalingv2.MetricSpec{
			Type:     autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{Name: of, Target: target},
		}
		if r.IntN(4) == 0 {
			m = autoscalingv2.MetricSpec{
				Type: autoscalingv2.ContainerResourceMetricSourceType,
				ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
					Name: of, Container: []string{"main", "side", "none"}[r.IntN(3)], Target: target,
				},
			}
		}
		h.Spec.Metrics = append(h.Spec.Metrics, m)
	}
	rules := func() *autoscalingv2.HPAScalingRules {
		if r.IntN(4) == 0 {
			return nil
		}
		rules := &autoscalingv2.HPAScalingRules{}
		if r.IntN(2) == 0 {
			rules.StabilizationWindowSeconds = new([]int32{0, 15, 40, 120}[r.IntN(4)])
		}
		if r.IntN(3) == 0 {
			rules.Tolerance = new(resource.MustParse([]string{"0", "20m", "300m"}[r.IntN(3)]))
		}
		if r.IntN(2) == 0 {
			rules.SelectPolicy = new([]autoscalingv2.ScalingPolicySelect{
				autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect,
			}[r.IntN(3)])
		}
		for range r.IntN(3) {
			rules.Policies = append(rules.Policies, autoscalingv2.HPAScalingPolicy{
				Type:  []autoscalingv2.HPAScalingPolicyType{autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy}[r.IntN(2)],
				Value: 1 + r.Int32N(90), PeriodSeconds: []int32{15, 25, 60, 200}[r.IntN(4)],
			})
		}
		return rules
	}
	if r.IntN(3) > 0 {
		h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(), ScaleDown: rules()}
	}
	strategy.Default(h)
	return h
}

// turn compares what both make of the moment, and then lets fifteen seconds pass, in which the world changes.
func (w *scalingWorld) turn(t *testing.T) {
	now := time.Now()
	time.Sleep(time.Millisecond) // its timers are due at the same moment
	synctest.Wait()
	theirs, err := w.client.AutoscalingV2().HorizontalPodAutoscalers("shop").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.decide(t, now)
	if w.ours != w.size {
		t.Fatalf("%v: Kubernetes has made it %d, we %d\n%s", time.Now(), w.size, w.ours, w)
	}
	if diff := cmp.Diff(plainStatus(theirs), plainStatus(w.hpa)); diff != "" {
		t.Fatalf("%v: status of Kubernetes (-) and ours (+)\n%s\nof\n%s", time.Now(), diff, w)
	}
	time.Sleep(8 * time.Second)
	w.change(t)
	time.Sleep(now.Add(15 * time.Second).Sub(time.Now()))
}

// told wants ours to have told what Kubernetes has. Events of one moment have one name in made up time, so the fake API server may
// have a reason with another's message.
func (w *scalingWorld) told(t *testing.T) {
	events, err := w.client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if strings.HasPrefix(e.Message, "(combined from") {
			continue
		}
		if !w.said[e.Reason] || !w.said[plainText(e.Message)] {
			t.Errorf("Kubernetes tells, and ours does not: %s: %s\n%s", e.Reason, e.Message, w)
		}
	}
}

func plainText(message string) string { return podName.ReplaceAllString(message, "Pod web") }

// plainStatus is a status without what the store rounds, and without which of several pods is at fault, which is chance in
// Kubernetes.
func plainStatus(h *autoscalingv2.HorizontalPodAutoscaler) autoscalingv2.HorizontalPodAutoscalerStatus {
	s := *h.Status.DeepCopy()
	for i := range s.Conditions {
		s.Conditions[i].Message = plainText(s.Conditions[i].Message)
		s.Conditions[i].LastTransitionTime = metav1.NewTime(s.Conditions[i].LastTransitionTime.UTC().Truncate(time.Second))
	}
	if s.LastScaleTime != nil {
		s.LastScaleTime = &metav1.Time{Time: s.LastScaleTime.UTC().Truncate(time.Second)}
	}
	return s
}

// decide lets ours decide, and carries it out.
func (w *scalingWorld) decide(t *testing.T, now time.Time) {
	objects := []kinds.Object{w.hpa}
	if w.ours >= 0 {
		objects = append(objects, w.deployment())
	}
	for _, p := range w.pods {
		objects = append(objects, p)
	}
	d, err := w.loop.Decide(view.Of(objects...), kinds.KeyOf(w.hpa), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range d.Wants {
		w.before, w.ours = w.ours, *want.Object.(*appsv1.Deployment).Spec.Replicas
		w.said[want.Done.Reason], w.said[want.Done.Message] = true, true
		w.changed++
	}
	for _, e := range d.Events {
		w.said[e.Reason], w.said[plainText(e.Message)] = true, true
	}
	if d.Status != nil {
		w.hpa = d.Status.(*autoscalingv2.HorizontalPodAutoscaler)
	}
}

func (w *scalingWorld) deployment() *appsv1.Deployment {
	d := deploymentOf("web", w.ours, "one")
	d.UID = "web"
	return d
}

// change lets the load change, and pods, and sometimes the size by somebody else's hand.
func (w *scalingWorld) change(t *testing.T) {
	switch n := w.rand.IntN(100); {
	case n < 10:
		w.load = w.rand.Int64N(2000)
	case n < 40:
		w.load += w.rand.Int64N(1+w.load/2) - w.load/4
	case n < 43 && w.size >= 0:
		if size := w.rand.Int32N(12); size != w.before {
			w.size, w.ours = size, size
		}
	case n < 44:
		w.size, w.ours = -1, -1
	case w.size < 0 && n < 70:
		w.size, w.ours = 1+w.rand.Int32N(4), w.size
		w.ours = w.size
	}
	w.follow()
	w.show(t)
	w.measure()
}

// show has Kubernetes see the pods.
func (w *scalingWorld) show(t *testing.T) {
	t.Helper()
	list := make([]any, len(w.pods))
	for i, p := range w.pods {
		list[i] = p.DeepCopy()
	}
	if err := w.seen.Replace(list, ""); err != nil {
		t.Fatal(err)
	}
}

// follow has as many pods as there should be, of which some are late, start, end or fail.
func (w *scalingWorld) follow() {
	now := metav1.Now()
	w.pods = w.pods[max(0, len(w.pods)-int(max(0, w.size))-w.rand.IntN(2)):]
	for i, p := range w.pods {
		p = p.DeepCopy()
		w.pods[i] = p
		ready := &p.Status.Conditions[0]
		switch n := w.rand.IntN(60); {
		case p.Status.Phase == corev1.PodPending:
			p.Status.Phase = corev1.PodRunning
		case n < 12 && ready.Status == corev1.ConditionFalse, n == 0:
			ready.Status, ready.LastTransitionTime = corev1.ConditionTrue, now
		case n == 1 && ready.Status == corev1.ConditionTrue:
			ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, now
		case n == 2:
			p.Status.Phase = corev1.PodFailed
		case n == 3:
			p.DeletionTimestamp = &now
		case n == 4:
			p.Status.Phase = corev1.PodSucceeded
		}
	}
	for len(w.pods) < int(w.size) && w.rand.IntN(8) > 0 {
		w.made++
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprintf("web-%d", w.made), UID: types.UID(fmt.Sprint(w.made)),
			Labels: map[string]string{"app": "web"},
		}}
		for _, name := range []string{"main", "side"}[:1+w.rand.IntN(2)] {
			c := corev1.Container{Name: name, Image: "one"}
			if w.rand.IntN(200) > 0 {
				c.Resources.Requests = corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi"),
				}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
		p.Status.StartTime = &now
		p.Status.Phase = []corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodPending}[w.rand.IntN(3)]
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodReady, LastTransitionTime: now,
			Status: []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionTrue, corev1.ConditionFalse}[w.rand.IntN(3)],
		}}
		w.pods = append(w.pods, p)
	}
}

// measure has measured what the pods use: most of those that run.
func (w *scalingWorld) measure() {
	w.used = autoscaler.Usage{}
	for _, p := range w.pods {
		if p.Status.Phase != corev1.PodRunning || w.rand.IntN(30) == 0 {
			continue
		}
		m := &metricsv1beta1.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels},
			Timestamp:  metav1.Now(), Window: metav1.Duration{Duration: 15 * time.Second},
		}
		share := w.load / int64(len(w.pods))
		for _, c := range p.Spec.Containers {
			m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewScaledQuantity(share*1_000_000+w.rand.Int64N(9_000_000), resource.Nano),
				corev1.ResourceMemory: *resource.NewQuantity(share<<20+w.rand.Int64N(1<<20), resource.BinarySI),
			}})
		}
		w.used[p.UID] = m
	}
}

func (w *scalingWorld) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %+v\nload %d, size %d\n", w.seed, w.hpa.Spec, w.load, w.size)
	for _, p := range w.pods {
		fmt.Fprintf(&b, "%s %s since %v, %v", p.Name, p.Status.Phase, p.Status.StartTime, p.Status.Conditions)
		if m := w.used[p.UID]; m != nil {
			fmt.Fprintf(&b, ", uses %v", m.Containers)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Scales is Kubernetes' way to the deployment's size.
func (w *scalingWorld) Scales(string) scale.ScaleInterface { return scaling{world: w} }

type scaling struct {
	scale.ScaleInterface
	world *scalingWorld
}

func (s scaling) Get(_ context.Context, of apischema.GroupResource, name string, _ metav1.GetOptions) (*autoscalingv1.Scale, error) {
	if s.world.size < 0 {
		return nil, apierrors.NewNotFound(of, name)
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       autoscalingv1.ScaleSpec{Replicas: s.world.size},
		Status:     autoscalingv1.ScaleStatus{Replicas: s.world.size, Selector: "app=web"},
	}, nil
}

func (s scaling) Update(_ context.Context, _ apischema.GroupResource, to *autoscalingv1.Scale, _ metav1.UpdateOptions) (
	*autoscalingv1.Scale, error) {
	s.world.size = to.Spec.Replicas
	return to, nil
}

// PodMetricses is Kubernetes' way to what pods use.
func (w *scalingWorld) PodMetricses(string) metricsclient.PodMetricsInterface {
	return measuring{world: w}
}

type measuring struct {
	metricsclient.PodMetricsInterface
	world *scalingWorld
}

func (m measuring) List(_ context.Context, opts metav1.ListOptions) (*metricsv1beta1.PodMetricsList, error) {
	s, err := labels.Parse(opts.LabelSelector)
	if err != nil {
		return nil, err
	}
	list := &metricsv1beta1.PodMetricsList{}
	for _, one := range m.world.used {
		if s.Matches(labels.Set(one.Labels)) {
			list.Items = append(list.Items, *one)
		}
	}
	return list, nil
}
