package reconcilers

import (
	"fmt"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/reconcilers/autoscaler"
	"lockstep/store/view"
)

// scalingSim is a cluster with one autoscaler, whose pods share a load.
type scalingSim struct {
	*sim
	load int64 // in thousandths of a CPU
	// asked is when it was asked what pods use and did not know yet.
	asked bool
}

// gauge measures when it was asked twice.
func (s *scalingSim) gauge(types.UID, time.Time) (autoscaler.Usage, bool) {
	if s.asked = !s.asked; s.asked {
		return nil, false
	}
	used, now := autoscaler.Usage{}, s.clock.Now()
	all, _ := s.active(s.get("web"))
	for _, p := range all {
		if p.Status.Phase == corev1.PodRunning {
			used[p.UID] = &metricsv1beta1.PodMetrics{
				Timestamp: metav1.NewTime(now), Window: metav1.Duration{Duration: 15 * time.Second},
				Containers: []metricsv1beta1.ContainerMetrics{{Name: "main", Usage: corev1.ResourceList{
					corev1.ResourceCPU: *resource.NewMilliQuantity(s.load/int64(len(all)), resource.DecimalSI),
				}}},
			}
		}
	}
	return used, true
}

// rest lets time pass in which everything is done at once.
func (s *scalingSim) rest(d time.Duration) {
	for range d / time.Second {
		for s.step.Step(s.t.Context()) || s.kubelet() {
		}
		s.clock.Step(time.Second)
		s.beat()
	}
}

func (s *scalingSim) hpa() *autoscalingv2.HorizontalPodAutoscaler {
	h, _ := view.Get[*autoscalingv2.HorizontalPodAutoscaler](s.store.View(), "shop", "web")
	return h
}

// TestAutoscalers: a load that changes at random is followed through rollouts, nodes that race, and turns whose outcome is not told.
// The size is never beyond its bounds; in times of peace it becomes what the load takes, and then nothing is written any more.
func TestAutoscalers(t *testing.T) {
	sizes := map[int32]bool{}
	for seed := range short.Of(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := &scalingSim{}
			s.sim = newSimWith(t, seed, Options{Gauge: s.gauge})
			s.put(namespaceOf("shop"))
			d := deploymentOf("web", 1, "one")
			d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
			s.put(d)
			h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
			h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
			h.Spec.MinReplicas, h.Spec.MaxReplicas = new(int32(2)), 8
			h.Spec.Metrics = []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
					Name:   corev1.ResourceCPU,
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(50))},
				},
			}}
			if s.rand.IntN(2) == 0 {
				h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{
					ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(60))},
				}
			}
			s.put(h)
			s.faults = s.rand.IntN(6)
			s.check = func() {
				if n := *s.get("web").Spec.Replicas; s.hpa().Status.LastScaleTime != nil && (n < 2 || n > 8) {
					t.Fatalf("%d replicas, of 2 to 8", n)
				}
			}
			for range 60 {
				switch s.rand.IntN(6) {
				case 0:
					s.load = s.rand.Int64N(600)
				case 1:
					d := s.get("web").DeepCopy()
					d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("image-%d", s.rand.IntN(3))
					s.put(d)
				}
				s.run(25)
				s.clock.Step(5 * time.Second)
				s.beat()
			}

			s.faults = 0
			s.rest(12 * time.Minute)
			want := min(8, max(2, int32((s.load+49)/50)))
			got := *s.get("web").Spec.Replicas
			if per := float64(s.load) / float64(got); got != want && (per < 45 || per > 55) {
				t.Errorf("%d replicas for a load of %d, want %d\n%s", got, s.load, want, s.hpa().Annotations[kinds.AutoscalerMemory])
			}
			sizes[got] = true
			at := s.hpa().ResourceVersion
			s.rest(2 * time.Minute)
			if s.hpa().ResourceVersion != at {
				t.Errorf("it is written although nothing changes")
			}
			if len(s.hpa().Annotations[kinds.AutoscalerMemory]) > 2000 {
				t.Errorf("it remembers %s", s.hpa().Annotations[kinds.AutoscalerMemory])
			}
		})
	}
	if len(sizes) < 3 && !testing.Short() {
		t.Errorf("only the sizes %v were ever reached", sizes)
	}
}
