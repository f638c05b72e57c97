package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/store/view"
)

// BenchmarkDecide places 10,000 pods of 100 owners on 5,000 nodes.
func BenchmarkDecide(b *testing.B) { benchmarkDecide(b, 100) }

// BenchmarkDecideMany places 10,000 pods of 1,000 owners on 5,000 nodes.
func BenchmarkDecideMany(b *testing.B) { benchmarkDecide(b, 1000) }

// BenchmarkDecideUnlike places 10,000 pods that are all different on 5,000 nodes.
func BenchmarkDecideUnlike(b *testing.B) { benchmarkDecide(b, 10000) }

// BenchmarkDecideAway places 10,000 pods of 1,000 applications that keep away from their own hosts.
func BenchmarkDecideAway(b *testing.B) {
	benchmarkConstrained(b, func(p *corev1.Pod, name string) { away(name)(p) })
}

// BenchmarkDecideZones places such that are spread over zones.
func BenchmarkDecideZones(b *testing.B) {
	benchmarkConstrained(b, func(p *corev1.Pod, name string) {
		spreadBy(corev1.LabelTopologyZone)(p)
		p.Labels = app(name)
		p.Spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels = app(name)
	})
}

// BenchmarkDecideNear places such that prefer to be near their own.
func BenchmarkDecideNear(b *testing.B) {
	benchmarkConstrained(b, func(p *corev1.Pod, name string) {
		term := byApp(name)[0]
		term.TopologyKey = corev1.LabelTopologyZone
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 50, PodAffinityTerm: term}},
		}}
	})
}

func benchmarkConstrained(b *testing.B, constrain func(*corev1.Pod, string)) {
	var objs []kinds.Object
	for i := range 5000 {
		objs = append(objs, node(fmt.Sprintf("node-%04d", i), "cpu=32 memory=64Gi pods=110", func(n *corev1.Node) {
			n.Labels[corev1.LabelTopologyZone] = fmt.Sprint("z", i%3)
		}))
	}
	s := NewState(view.Of(objs...))
	var pods []*corev1.Pod
	for i := range 10000 {
		name := fmt.Sprint("web-", i%1000)
		pods = append(pods, pod(fmt.Sprintf("pod-%05d", i), "cpu=100m memory=128Mi", func(p *corev1.Pod) {
			owned("rs-" + name)(p)
			p.Namespace, p.Labels = fmt.Sprintf("ns-%02d", i%50), app(name)
			constrain(p, name)
		}))
	}
	for b.Loop() {
		if plan := Decide(s, pods, 1); len(plan.Bindings) != len(pods) {
			b.Fatalf("%d bound", len(plan.Bindings))
		}
	}
	b.ReportMetric(float64(len(pods))*float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}

func benchmarkDecide(b *testing.B, owners int) {
	var objs []kinds.Object
	for i := range 5000 {
		objs = append(objs, node(fmt.Sprintf("node-%04d", i), "cpu=32 memory=64Gi pods=110", zone(fmt.Sprint("z", i%3))))
	}
	s := NewState(view.Of(objs...))
	var pods []*corev1.Pod
	for i := range 10000 {
		pods = append(pods, pod(fmt.Sprintf("pod-%05d", i), "cpu=250m memory=256Mi", owned(fmt.Sprint("rs", i%owners))))
	}
	for b.Loop() {
		if plan := Decide(s, pods, 1); len(plan.Bindings) != len(pods) {
			b.Fatalf("%d bound", len(plan.Bindings))
		}
	}
	b.ReportMetric(float64(len(pods))*float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}

// BenchmarkDecideLocalVolumes places 1,000 pods, each with a claim of its own, on the 5,000 nodes that have a volume each.
func BenchmarkDecideLocalVolumes(b *testing.B) {
	objs := []kinds.Object{storageClass("late", volume.NotSupportedProvisioner, nil)}
	var pods []*corev1.Pod
	for i := range 5000 {
		name := fmt.Sprintf("node-%04d", i)
		objs = append(objs, node(name, "cpu=32 memory=64Gi pods=110", nil),
			persistent("pv-"+name, "late", 1, at("kubernetes.io/hostname", name)))
	}
	for i := range 1000 {
		name := fmt.Sprint("c", i)
		objs = append(objs, claim(name, "late", 1, nil))
		pods = append(pods, pod(fmt.Sprintf("pod-%05d", i), "cpu=250m", mounting(name)))
	}
	s := NewState(view.Of(objs...))
	for b.Loop() {
		if plan := Decide(s, pods, 1); len(plan.Reservations) != len(pods) {
			b.Fatalf("%d reserved", len(plan.Reservations))
		}
	}
	b.ReportMetric(float64(len(pods))*float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}

// BenchmarkTakeUp takes up 5,000 nodes with 150,000 pods of 1,000 owners, as a scheduler does that starts.
func BenchmarkTakeUp(b *testing.B) {
	var objs []kinds.Object
	for i := range 5000 {
		objs = append(objs, node(fmt.Sprintf("node-%04d", i), "cpu=32 memory=64Gi pods=110", nil))
	}
	for i := range 150_000 {
		objs = append(objs, pod(fmt.Sprintf("pod-%06d", i), "cpu=100m memory=128Mi", func(p *corev1.Pod) {
			p.Namespace, p.Labels = fmt.Sprintf("ns-%02d", i%50), app(fmt.Sprint("web-", i%1000))
			owned(fmt.Sprint("rs-", i%1000))(p)
			on(fmt.Sprintf("node-%04d", i%5000))(p)
		}))
	}
	v := view.Of(objs...)
	for b.Loop() {
		NewState(v)
	}
}
