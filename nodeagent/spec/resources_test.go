package spec

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletqos "k8s.io/kubernetes/pkg/kubelet/qos"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func asks(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func of(containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
}

// itself is a pod with resources of its own.
func itself(pod *corev1.Pod, requests, limits corev1.ResourceList) *corev1.Pod {
	pod.Spec.Resources = &corev1.ResourceRequirements{Requests: requests, Limits: limits}
	return pod
}

// TestPodLimits holds the cgroups of pods, and of their only container, to what the kubelet writes.
func TestPodLimits(t *testing.T) {
	type wants struct {
		tier   string
		shares uint64
		quota  int64 // 0: none
		memory int64 // 0: none
	}
	sidecar := asks(list("100m", "10Mi"), list("200m", "20Mi"))
	sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	withSidecar := of(asks(list("100m", "10Mi"), list("200m", "20Mi")))
	withSidecar.Spec.InitContainers = []corev1.Container{sidecar}
	loose := of(asks(list("100m", "10Mi"), list("200m", "20Mi")))
	loose.Spec.InitContainers = []corev1.Container{asks(list("1", ""), nil)}
	over := of(asks(list("100m", "10Mi"), list("200m", "20Mi")))
	over.Spec.Overhead = list("50m", "5Mi")
	for name, c := range map[string]struct {
		pod       *corev1.Pod
		pods, own wants
	}{
		"best effort": {of(asks(nil, nil)), wants{"besteffort", 2, 0, 0}, wants{shares: 2}},
		"guaranteed":  {of(asks(list("1", "1Mi"), list("1", "1Mi"))), wants{"", 1024, 100_000, 1 << 20}, wants{"", 1024, 100_000, 1 << 20}},
		"requests":    {of(asks(list("500m", "1Mi"), nil)), wants{"burstable", 512, 0, 0}, wants{"", 512, 0, 0}},
		"memory only": {of(asks(list("500m", "1Mi"), list("", "2Mi"))), wants{"burstable", 512, 0, 2 << 20}, wants{"", 512, 0, 2 << 20}},
		"one has none": {of(asks(list("500m", ""), list("1", "1Mi")), asks(nil, nil)),
			wants{"burstable", 512, 0, 0}, wants{"", 512, 100_000, 1 << 20}},
		"sidecar":  {withSidecar, wants{"burstable", 204, 40_000, 40 << 20}, wants{"", 102, 20_000, 20 << 20}},
		"init":     {loose, wants{"burstable", 1024, 0, 0}, wants{"", 102, 20_000, 20 << 20}},
		"overhead": {over, wants{"burstable", 153, 25_000, 25 << 20}, wants{"", 102, 20_000, 20 << 20}},
		"the pod alone": {itself(of(asks(nil, nil)), list("1", "1Mi"), list("1", "1Mi")),
			wants{"", 1024, 100_000, 1 << 20}, wants{"", 1024, 100_000, 1 << 20}},
		"the pod and its container": {itself(of(asks(list("250m", "1Mi"), list("500m", ""))), list("1", "2Mi"), list("2", "4Mi")),
			wants{"burstable", 1024, 200_000, 4 << 20}, wants{"", 256, 50_000, 4 << 20}},
		"the pod's requests": {itself(of(asks(nil, nil)), list("1", "2Mi"), nil), wants{"burstable", 1024, 0, 0}, wants{shares: 2}},
	} {
		check := func(what string, r *specs.LinuxResources, tier string, want wants) {
			got := wants{tier: tier, shares: *r.CPU.Shares}
			if r.CPU.Quota != nil {
				got.quota = *r.CPU.Quota
			}
			if r.Memory != nil && r.Memory.Limit != nil {
				got.memory = *r.Memory.Limit
			}
			if got != want {
				t.Errorf("%s: %s has %+v, want %+v", name, what, got, want)
			}
		}
		check("the pod", PodLimits(c.pod, Node{}), Tier(c.pod), c.pods)
		check("the container", ContainerLimits(c.pod, &c.pod.Spec.Containers[0], Node{}), "", c.own)
	}
}

// TestHugePages: a pod and its containers have of each size that the node knows what they ask for, and else nothing.
func TestHugePages(t *testing.T) {
	n := Node{HugePages: []string{"1Gi", "2Mi"}}
	pages := func(amount string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse(amount)}
	}
	limits := func(large, small uint64) []specs.LinuxHugepageLimit {
		return []specs.LinuxHugepageLimit{{Pagesize: "1GB", Limit: large}, {Pagesize: "2MB", Limit: small}}
	}
	both := of(asks(pages("4Mi"), pages("4Mi")), asks(pages("2Mi"), pages("2Mi")), asks(nil, nil))
	whole := itself(of(asks(pages("2Mi"), pages("2Mi")), asks(nil, nil)), pages("6Mi"), pages("6Mi"))
	for name, c := range map[string]struct{ got, want []specs.LinuxHugepageLimit }{
		"a pod":                       {PodLimits(both, n).HugepageLimits, limits(0, 6<<20)},
		"a container":                 {ContainerLimits(both, &both.Spec.Containers[0], n).HugepageLimits, limits(0, 4<<20)},
		"one that asks for none":      {ContainerLimits(both, &both.Spec.Containers[2], n).HugepageLimits, limits(0, 0)},
		"a pod with its own":          {PodLimits(whole, n).HugepageLimits, limits(0, 6<<20)},
		"its container with its own":  {ContainerLimits(whole, &whole.Spec.Containers[0], n).HugepageLimits, limits(0, 2<<20)},
		"its container without":       {ContainerLimits(whole, &whole.Spec.Containers[1], n).HugepageLimits, limits(0, 6<<20)},
		"a kernel without controller": {PodLimits(both, Node{}).HugepageLimits, nil},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestTiers: what Burstable pods request they have together, and the others of them nothing.
func TestTiers(t *testing.T) {
	got := map[string]uint64{}
	pods := []*corev1.Pod{of(asks(nil, nil)), of(asks(list("1", "1Mi"), list("1", "1Mi"))), of(asks(list("500m", ""), nil)),
		of(asks(list("250m", ""), list("1", ""))), itself(of(asks(nil, nil)), list("1", ""), nil)}
	for name, r := range Tiers(pods, Node{}) {
		got[name] = *r.CPU.Shares
	}
	if diff := cmp.Diff(map[string]uint64{"burstable": 1792, "besteffort": 2}, got); diff != "" {
		t.Error(diff)
	}
}

// TestOOMScores: of whatever pod, the kubelet's own score, but no lower than the process may give.
func TestOOMScores(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	amounts := []string{"", "", "0", "1Ki", "10Mi", "100Mi", "1Gi", "7Gi", "9Gi"}
	some := func() corev1.ResourceList { return list("", amounts[r.IntN(len(amounts))]) }
	scores := map[int]bool{}
	for range 5000 {
		pod := of()
		for range 1 + r.IntN(3) {
			pod.Spec.Containers = append(pod.Spec.Containers, asks(some(), some()))
		}
		for i := range r.IntN(3) {
			c := asks(some(), some())
			c.Name = []string{"first", "second"}[i]
			if r.IntN(2) == 0 {
				c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			}
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		}
		if r.IntN(3) == 0 {
			itself(pod, some(), some())
		}
		if r.IntN(4) == 0 {
			pod.Spec.Priority = new(int32(2_000_000_000 + r.IntN(2)*1000))
			pod.Spec.PriorityClassName = []string{"system-cluster-critical", "system-node-critical"}[r.IntN(2)]
		}
		if r.IntN(4) == 0 { // as it was created, with all that makes it Guaranteed
			pod.Status.QOSClass = corev1.PodQOSGuaranteed
		}
		for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range cs {
				in := Input{Pod: pod, Container: &cs[i], Node: Node{MemoryCapacity: 8 << 30, OOMFloor: -1000}}
				want := kubeletqos.GetContainerOOMScoreAdjust(pod, &cs[i], in.Node.MemoryCapacity)
				if got := oomScoreAdj(in); got != want {
					t.Fatalf("%d, the kubelet has %d: %+v", got, want, pod)
				}
				scores[want] = true
				if in.Node.OOMFloor = 500; oomScoreAdj(in) != max(want, 500) {
					t.Fatalf("%d where no process may have less than 500", oomScoreAdj(in))
				}
			}
		}
	}
	if !scores[-997] || !scores[3] || !scores[999] || !scores[1000] || len(scores) < 20 {
		t.Errorf("only %v", scores)
	}
}
