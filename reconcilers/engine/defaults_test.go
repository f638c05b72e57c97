package engine_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestDefaultsOfWhatIsCreated: an object that is made of a template has the defaults of its kind before anything is derived from
// them, though the template has not.
func TestDefaultsOfWhatIsCreated(t *testing.T) {
	limits := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}
	spec := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers:    []corev1.Container{{Name: "main", Image: "one", Resources: corev1.ResourceRequirements{Limits: limits}}},
	}
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "sum"}
	job := &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}}}
	b := newBench(t, loop.Reconciler{
		Writes: []loop.Write{{Kind: kinds.For[*batchv1.Job](), Create: true}, {Kind: kinds.For[*corev1.Pod](), Create: true}},
		Decide: func(v *view.View, _ kinds.Key, _ time.Time) (d loop.Decision, err error) {
			if _, there := view.Get[*batchv1.Job](v, "shop", "sum"); !there {
				d.Wants = []loop.Want{{Object: job, Reason: "due"}, {Object: &corev1.Pod{ObjectMeta: meta, Spec: spec}, Reason: "due"}}
			}
			return d, nil
		},
	})
	b.drain(t)
	made, ok := view.Get[*batchv1.Job](b.View(), "shop", "sum")
	if !ok {
		t.Fatal("no job was made")
	}
	if s := made.Spec; *s.BackoffLimit != 6 || s.Selector.MatchLabels[batchv1.ControllerUidLabel] != string(made.UID) {
		t.Errorf("the job has %v and %v", *s.BackoffLimit, s.Selector)
	}
	pod, _ := view.Get[*corev1.Pod](b.View(), "shop", "sum")
	if got := pod.Spec.Containers[0].Resources.Requests; !got.Cpu().Equal(limits["cpu"]) {
		t.Errorf("the pod requests %v, with limits of %v", got, limits)
	}
	if pod.Status.QOSClass != corev1.PodQOSGuaranteed {
		t.Errorf("the pod is %s, and what it may use is what it requests", pod.Status.QOSClass)
	}
}

// TestAlikeAreJudgedOnce: of objects that differ in nothing but the name they are to be given one is judged, and the others are as
// it became; one that differs among them is judged by itself.
func TestAlikeAreJudgedOnce(t *testing.T) {
	pod := func(app string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", GenerateName: "web-", Labels: map[string]string{"app": app}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "one"}}},
		}
	}
	apps := []string{"web", "web", "other", "web", "web"}
	b := newBench(t, loop.Reconciler{
		Writes: []loop.Write{{Kind: kinds.For[*corev1.Pod](), Create: true}},
		Decide: func(v *view.View, _ kinds.Key, _ time.Time) (d loop.Decision, err error) {
			if v.Len(kinds.For[*corev1.Pod]().GroupResource()) == 0 {
				for _, app := range apps {
					d.Wants = append(d.Wants, loop.Want{Object: pod(app), Reason: "due"})
				}
			}
			return d, nil
		},
	})
	b.drain(t)
	left := map[string]int{"web": 4, "other": 1}
	uids := map[types.UID]bool{}
	for p := range view.List[*corev1.Pod](b.View(), "shop") {
		left[p.Labels["app"]]--
		uids[p.UID] = true
		want := pod(p.Labels["app"])
		want.Name = p.Name
		strategy.Default(want)
		if err := admission.Admit(want, b.View()); err != nil {
			t.Fatal(err)
		}
		if errs := strategy.PrepareCreate(want); len(errs) > 0 {
			t.Fatal(errs)
		}
		ours, theirs := p.Spec.DeepCopy(), want.Spec.DeepCopy()
		for _, s := range []*corev1.PodSpec{ours, theirs} { // the name of the token's volume is drawn
			s.Volumes[0].Name, s.Containers[0].VolumeMounts[0].Name = "", ""
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("pod %s is not what the rules make of it: -want +got\n%s", p.Name, diff)
		}
		if diff := cmp.Diff(want.Status, p.Status); diff != "" {
			t.Errorf("the status of pod %s: -want +got\n%s", p.Name, diff)
		}
	}
	if left["web"] != 0 || left["other"] != 0 || len(uids) != len(apps) {
		t.Errorf("missing: %v, with %d identities", left, len(uids))
	}
}
