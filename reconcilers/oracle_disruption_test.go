package reconcilers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	upstream "k8s.io/kubernetes/pkg/controller/disruption"

	"lockstep/internal/short"
	"lockstep/kinds"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/disruption"
	"lockstep/reconcilers/loop"
	"lockstep/store/view"
)

// TestDisruptionIsKubernetes lets Kubernetes' own controller count the pods of random budgets beside ours: the status and what is
// told must be the same. Our condition of budgets that share a pod is not Kubernetes'.
func TestDisruptionIsKubernetes(t *testing.T) {
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil
	defer func() { utilruntime.ErrorHandlers = handlers }()
	allowed, expired := 0, 0
	for seed := range short.Of(400) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newBudgetWorld(rand.New(rand.NewPCG(seed, 31)))
				w.theirs(t)
				var late []string // of pods
				for _, b := range w.budgets {
					d, err := disruption.New().Decide(view.Of(w.objects...), kinds.KeyOf(b), time.Now())
					if err != nil {
						t.Fatal(err)
					}
					ours := b
					if d.Status != nil {
						ours = d.Status.(*policyv1.PodDisruptionBudget)
					}
					if diff := cmp.Diff(plainBudget(w.counted[b.Name]), plainBudget(ours)); diff != "" {
						t.Errorf("status of %s of Kubernetes (-) and ours (+)\n%s\nof\n%s", b.Name, diff, w)
					}
					var told []string
					for _, e := range d.Events {
						switch {
						case e.About != nil:
							late = append(late, e.About.GetName()+" "+e.Type+" "+e.Reason+" "+e.Message)
						case e.Reason != kinds.BudgetsShare:
							told = append(told, b.Name+" "+e.Type+" "+e.Reason+" "+e.Message)
						}
					}
					said := slices.DeleteFunc(slices.Clone(w.said), func(e string) bool { return !strings.HasPrefix(e, b.Name+" ") })
					if diff := cmp.Diff(strings.Join(slices.Compact(said), "\n"), strings.Join(told, "\n")); diff != "" {
						t.Errorf("Kubernetes tells (-) and ours (+)\n%s\nof\n%s", diff, w)
					}
					allowed += int(ours.Status.DisruptionsAllowed)
				}
				said := slices.DeleteFunc(w.said, func(e string) bool { return !strings.Contains(e, " NotDeleted ") })
				slices.Sort(said)
				slices.Sort(late)
				if diff := cmp.Diff(slices.Compact(said), slices.Compact(late), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("Kubernetes tells of pods (-) and ours (+)\n%s\nof\n%s", diff, w)
				}
				expired += len(late)
			})
		})
	}
	if allowed == 0 {
		t.Error("nothing was ever allowed")
	}
	if expired == 0 {
		t.Error("no pod was ever late to end")
	}
}

// plainBudget is a status without moments, and without our own condition.
func plainBudget(b *policyv1.PodDisruptionBudget) policyv1.PodDisruptionBudgetStatus {
	s := *b.Status.DeepCopy()
	meta.RemoveStatusCondition(&s.Conditions, kinds.BudgetsShare)
	for i := range s.Conditions {
		s.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	if len(s.DisruptedPods) == 0 {
		s.DisruptedPods = nil
	}
	return s
}

// budgetWorld has budgets, and pods of every kind of controller.
type budgetWorld struct {
	objects []kinds.Object
	budgets []*policyv1.PodDisruptionBudget
	counted map[string]*policyv1.PodDisruptionBudget // by Kubernetes
	said    []string
	pods    int
}

func newBudgetWorld(r *rand.Rand) *budgetWorld {
	w := &budgetWorld{counted: map[string]*policyv1.PodDisruptionBudget{}}
	for i := range 1 + r.IntN(4) {
		w.controller(r, fmt.Sprintf("c%d", i))
	}
	for i := range 1 + r.IntN(2) {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprintf("b%d", i), UID: types.UID(fmt.Sprint("b", i)), Generation: 3,
		}}
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		if r.IntN(3) == 0 {
			b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": []string{"a", "b", "none"}[r.IntN(3)]}}
		}
		bound := []intstr.IntOrString{
			intstr.FromInt32(r.Int32N(8)), intstr.FromString(fmt.Sprintf("%d%%", r.IntN(11)*10)), intstr.FromString("33%"),
		}[r.IntN(3)]
		if r.IntN(2) == 0 {
			b.Spec.MinAvailable = &bound
		} else {
			b.Spec.MaxUnavailable = &bound
		}
		if r.IntN(2) == 0 {
			b.Status.DisruptedPods = map[string]metav1.Time{"gone": metav1.Now()}
			for i := range w.pods {
				if since := []time.Duration{0, 30 * time.Second, 119 * time.Second, 3 * time.Minute}[r.IntN(4)]; r.IntN(3) == 0 {
					b.Status.DisruptedPods[fmt.Sprintf("p%d", i)] = metav1.NewTime(time.Now().Add(-since))
				}
			}
		}
		strategy.Default(b)
		w.budgets = append(w.budgets, b)
		w.objects = append(w.objects, b)
	}
	return w
}

// controller makes one with pods, of which some are not its own.
func (w *budgetWorld) controller(r *rand.Rand, name string) {
	about := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}
	replicas := r.Int32N(5)
	var owner kinds.Object
	switch r.IntN(6) {
	case 0:
		owner = &corev1.ReplicationController{ObjectMeta: about, Spec: corev1.ReplicationControllerSpec{Replicas: &replicas}}
	case 1:
		owner = &appsv1.StatefulSet{ObjectMeta: about, Spec: appsv1.StatefulSetSpec{Replicas: &replicas}}
	case 2:
		owner = &appsv1.ReplicaSet{ObjectMeta: about, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas}}
	case 3, 4:
		d := &appsv1.Deployment{ObjectMeta: about, Spec: appsv1.DeploymentSpec{Replicas: &replicas}}
		w.objects = append(w.objects, d)
		about.Name, about.UID = name+"-1", types.UID(name+"-1")
		about.OwnerReferences = []metav1.OwnerReference{loop.ControllerRef(d)}
		owner = &appsv1.ReplicaSet{ObjectMeta: about, Spec: appsv1.ReplicaSetSpec{Replicas: new(r.Int32N(5))}}
	}
	if owner != nil {
		w.objects = append(w.objects, owner)
	}
	for range r.IntN(6) {
		w.pods++
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprintf("p%d", w.pods), UID: types.UID(fmt.Sprint("p", w.pods)),
			Labels: map[string]string{"app": "web", "tier": []string{"a", "b"}[r.IntN(2)]},
		}}
		if owner != nil {
			p.OwnerReferences = []metav1.OwnerReference{loop.ControllerRef(owner)}
		}
		setReady(p, []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionTrue, corev1.ConditionFalse}[r.IntN(3)], time.Now())
		p.Status.Phase = []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodFailed}[r.IntN(4)]
		if r.IntN(6) == 0 {
			p.DeletionTimestamp = new(metav1.Now())
			p.Finalizers = []string{"example.org/slow"}
		}
		w.objects = append(w.objects, p)
	}
}

// theirs lets Kubernetes' controller count.
func (w *budgetWorld) theirs(t *testing.T) {
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Logger{}))
	var objects []runtime.Object
	for _, o := range w.objects {
		objects = append(objects, o.DeepCopyObject())
	}
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "events", func(a k8stesting.Action) (bool, runtime.Object, error) {
		e := a.(k8stesting.CreateAction).GetObject().(*corev1.Event)
		w.said = append(w.said, e.InvolvedObject.Name+" "+e.Type+" "+e.Reason+" "+e.Message)
		return true, e, nil
	})
	factory := informers.NewSharedInformerFactory(client, 0)
	c := upstream.NewDisruptionController(ctx, factory.Core().V1().Pods(), factory.Policy().V1().PodDisruptionBudgets(),
		factory.Core().V1().ReplicationControllers(), factory.Apps().V1().ReplicaSets(), factory.Apps().V1().Deployments(),
		factory.Apps().V1().StatefulSets(), client, meta.NewDefaultRESTMapper(nil), nil, client.Discovery())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx, 1)
	}()
	synctest.Wait()
	for _, b := range w.budgets {
		counted, err := client.PolicyV1().PodDisruptionBudgets("shop").Get(ctx, b.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.counted[b.Name] = counted
	}
	cancel()
	<-done
	factory.Shutdown()
	synctest.Wait()
}

func (w *budgetWorld) String() string {
	var b strings.Builder
	for _, o := range w.objects {
		b.WriteString(fmt.Sprintf("%T %s\n", o, toJSON(o)))
	}
	return b.String()
}
