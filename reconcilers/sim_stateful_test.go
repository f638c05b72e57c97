package reconcilers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/store"
	"lockstep/store/view"
)

func statefulSetOf(replicas int32, image string) *appsv1.StatefulSet {
	labels := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}
	set.Spec.Replicas = &replicas
	set.Spec.ServiceName = "peers"
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	set.Spec.Template.Labels = labels
	set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main", Image: image}}
	return set
}

// members are the pods of the set by their names, and how many of them are available and not ending.
func (s *sim) members(set *appsv1.StatefulSet) (images map[string]string, available int) {
	images = map[string]string{}
	for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
		images[p.Name] = p.Spec.Containers[0].Image
		ok, _ := podstatus.Available(&p.Status, time.Duration(set.Spec.MinReadySeconds)*time.Second, s.clock.Now())
		if ok && p.DeletionTimestamp == nil {
			available++
		}
	}
	return images, available
}

// TestStatefulRollouts drives updates of random shapes, broken ones among them, through random orders of events. After every
// single write no more replicas than allowed are missing, and in the end the last template is in all of them, whatever was
// pushed before: none of it has to be cleared away by hand.
func TestStatefulRollouts(t *testing.T) {
	for seed := range short.Of(120) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSim(t, seed)
			s.put(namespaceOf("shop"))
			set := statefulSetOf(1+s.rand.Int32N(6), "one")
			set.Spec.MinReadySeconds = s.rand.Int32N(3)
			if s.rand.IntN(2) == 0 {
				set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
			}
			most := intstr.FromInt32(1 + s.rand.Int32N(3))
			set.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
			set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &most}
			s.put(set)
			s.settle()

			least := int(*set.Spec.Replicas) - most.IntValue()
			s.check = func() {
				if _, available := s.members(set); available < least {
					t.Fatalf("%d pods available, at least %d must be", available, least)
				}
			}
			s.broken = "broken"
			s.faults = s.rand.IntN(30)
			for range 1 + s.rand.IntN(5) {
				set.Spec.Template.Spec.Containers[0].Image = []string{"one", "two", "broken"}[s.rand.IntN(3)]
				s.put(set)
				s.run(s.rand.IntN(200))
			}
			set.Spec.Template.Spec.Containers[0].Image = "last"
			s.put(set)
			s.settle()
			images, available := s.members(set)
			for n := range int(*set.Spec.Replicas) {
				if image := images[fmt.Sprint("db-", n)]; image != "last" {
					t.Errorf("db-%d has the image %q", n, image)
				}
			}
			live, _ := view.Get[*appsv1.StatefulSet](s.store.View(), "shop", "db")
			want := *set.Spec.Replicas
			if st := live.Status; len(images) != available || available != int(want) || st.UpdatedReplicas != want ||
				st.CurrentRevision != st.UpdateRevision {
				t.Errorf("%v, %d available, status %+v", images, available, st)
			}
		})
	}
}

// TestStatefulSetOnASilentNode: a pod whose node is silent stays the only one of its ordinal, also when it is told to end;
// another is made when the node is removed.
func TestStatefulSetOnASilentNode(t *testing.T) {
	for _, policy := range []appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement} {
		t.Run(string(policy), func(t *testing.T) {
			s := newSim(t, 3)
			s.put(namespaceOf("shop"))
			set := statefulSetOf(6, "one")
			set.Spec.PodManagementPolicy = policy
			s.put(set)
			s.settle()
			var there []*corev1.Pod
			for p := range s.store.View().PodsOnNode("n1") {
				there = append(there, p)
			}
			if len(there) == 0 {
				t.Fatal("no pod is on n1")
			}
			s.pass(45*time.Second, "n0", "n2")
			set.Spec.Template.Spec.Containers[0].Image = "two"
			s.put(set)
			s.pass(10*time.Minute, "n0", "n2")
			for _, was := range there {
				if p, ok := view.Get[*corev1.Pod](s.store.View(), "shop", was.Name); !ok || p.UID != was.UID {
					t.Errorf("another %s was made while its node is silent", was.Name)
				}
			}
			s.write(store.Write{Key: kinds.For[*corev1.Node]().Key("", "n1"), If: store.Anyway, Reason: "test"})
			s.settle()
			images, available := s.members(set)
			names := []string{}
			for name, image := range images {
				if image == "two" {
					names = append(names, name)
				}
			}
			if slices.Sort(names); len(names) != 6 || available != 6 {
				t.Errorf("%v have the new template, %d are available", names, available)
			}
		})
	}
}

// TestStatefulSetWithoutPods: a set whose pods are refused, or whose name somebody else has, says why, until it has them.
func TestStatefulSetWithoutPods(t *testing.T) {
	s := newSim(t, 12)
	s.put(namespaceOf("shop"))
	set := statefulSetOf(3, "one")
	failure := func() string {
		live, _ := view.Get[*appsv1.StatefulSet](s.store.View(), "shop", "db")
		for _, c := range live.Status.Conditions {
			if c.Type == kinds.StatefulSetReplicaFailure {
				return c.Reason + ": " + c.Message
			}
		}
		return ""
	}
	set.Spec.Template.Spec.PriorityClassName = "no-such-class"
	s.put(set)
	for range 50 {
		s.step.Step(t.Context())
	}
	if got := failure(); !strings.HasPrefix(got, "FailedCreate: ") || !strings.Contains(got, "no-such-class") {
		t.Errorf("conditions tell %q", got)
	}
	s.expectEvents(`FailedCreate: Create Pod db-0 in StatefulSet db failed error: pods "db-0" is forbidden: ` +
		`no PriorityClass with name no-such-class was found`)

	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-0"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "main", Image: "other"}},
	}}
	s.put(other)
	set.Spec.Template.Spec.PriorityClassName = ""
	s.put(set)
	s.settle()
	if got := failure(); got != `FailedCreate: pods "db-0" already exists` {
		t.Errorf("conditions tell %q", got)
	}
	s.delete(kinds.KeyOf(other))
	s.settle()
	if images, available := s.members(set); failure() != "" || len(images) != 3 || available != 3 || images["db-0"] != "one" {
		t.Errorf("conditions tell %q, pods %v", failure(), images)
	}
}

// TestStatefulSetTakesItsHistoryWithIt: with the set go its pods and its revisions.
func TestStatefulSetTakesItsHistoryWithIt(t *testing.T) {
	s := newSim(t, 4)
	s.put(namespaceOf("shop"))
	set := statefulSetOf(2, "one")
	limit := int32(1)
	set.Spec.RevisionHistoryLimit = &limit
	for _, image := range []string{"one", "two", "three", "four"} {
		set.Spec.Template.Spec.Containers[0].Image = image
		s.put(set)
		s.settle()
	}
	var numbers []int64
	for r := range view.List[*appsv1.ControllerRevision](s.store.View(), "shop") {
		numbers = append(numbers, r.Revision)
	}
	if slices.Sort(numbers); !slices.Equal(numbers, []int64{3, 4}) {
		t.Errorf("revisions %v, want the last and one before", numbers)
	}
	s.delete(kinds.KeyOf(set))
	s.settle()
	for r := range view.List[*appsv1.ControllerRevision](s.store.View(), "shop") {
		t.Errorf("ControllerRevision %s is left", r.Name)
	}
	for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
		t.Errorf("pod %s is left", p.Name)
	}
}

// TestStatefulSetClaims: whatever races, each replica has its claim, claims go when and only when the retention policy says so, and
// what is retained stays the same.
func TestStatefulSetClaims(t *testing.T) {
	const retain, gone = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	for seed := range short.Of(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSim(t, seed)
			s.put(namespaceOf("shop"))
			policy := &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: retain, WhenScaled: retain}
			if seed%2 == 1 {
				policy.WhenDeleted = gone
			}
			if seed%4 > 1 {
				policy.WhenScaled = gone
			}
			set := statefulSetOf(2, "one")
			set.Spec.PersistentVolumeClaimRetentionPolicy = policy
			var claim corev1.PersistentVolumeClaim
			claim.Name = "data"
			claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
			claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
			set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{claim}
			if seed%3 == 0 {
				set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
			}
			s.faults = s.rand.IntN(30)
			known := map[string]types.UID{}
			s.check = func() {
				for p := range view.List[*corev1.Pod](s.store.View(), "shop") {
					if len(p.Spec.Volumes) == 0 || p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-"+p.Name {
						t.Fatalf("%s mounts %+v", p.Name, p.Spec.Volumes)
					}
				}
			}
			for range 1 + s.rand.IntN(5) {
				*set.Spec.Replicas = int32(s.rand.IntN(6))
				s.put(set)
				s.run(s.rand.IntN(300))
				if s.rand.IntN(2) == 0 {
					continue
				}
				s.settle()
				claims := s.claims(map[string]types.UID{})
				for n := range 6 {
					c := claims[fmt.Sprint("data-db-", n)]
					switch wanted := n < int(*set.Spec.Replicas); {
					case wanted && (c == nil || c.DeletionTimestamp != nil):
						t.Errorf("replica %d has no claim", n)
					case wanted && len(c.OwnerReferences) != map[bool]int{false: 0, true: 1}[policy.WhenDeleted == gone]:
						t.Errorf("the claim of replica %d is owned by %+v", n, c.OwnerReferences)
					case !wanted && policy.WhenScaled == gone && c != nil:
						t.Errorf("the claim of replica %d is still there", n)
					}
				}
				for name, uid := range known {
					if c := claims[name]; policy.WhenScaled == retain && (c == nil || c.UID != uid) {
						t.Errorf("claim %s is gone", name)
					}
				}
				s.claims(known)
			}
			*set.Spec.Replicas = 3
			s.put(set)
			s.settle()
			known = map[string]types.UID{}
			s.claims(known)
			s.delete(kinds.KeyOf(set))
			s.settle()
			left := s.claims(map[string]types.UID{})
			if policy.WhenDeleted == gone && len(left) > 0 {
				t.Errorf("%d claims outlive their set", len(left))
			}
			for name, uid := range known {
				if c := left[name]; policy.WhenDeleted == retain && (c == nil || c.UID != uid) {
					t.Errorf("claim %s has gone with its set", name)
				}
			}
		})
	}
}

// claims are those of the set, which are noted.
func (s *sim) claims(known map[string]types.UID) map[string]*corev1.PersistentVolumeClaim {
	out := map[string]*corev1.PersistentVolumeClaim{}
	for c := range view.List[*corev1.PersistentVolumeClaim](s.store.View(), "shop") {
		out[c.Name], known[c.Name] = c, c.UID
	}
	return out
}
