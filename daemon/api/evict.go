package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/rest"

	"lockstep/kinds"
	"lockstep/kinds/podstatus"
	"lockstep/kinds/strategy"
	"lockstep/reconcilers/disruption"
	"lockstep/store"
	"lockstep/store/view"
)

// evictions ends pods for programs, as far as PodDisruptionBudgets let them, in Kubernetes' words.
type evictions struct{ *change }

var _ rest.NamedCreater = evictions{}

// New implements rest.NamedCreater.
func (evictions) New() runtime.Object { return &policyv1.Eviction{} }

// Create implements rest.NamedCreater.
func (e evictions) Create(ctx context.Context, name string, o runtime.Object, _ rest.ValidateObjectFunc,
	opts *metav1.CreateOptions) (runtime.Object, error) {
	how, err := wayOut(name, o.(*policyv1.Eviction), opts)
	if err != nil {
		return nil, err
	}
	done, err := e.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := e.again(ctx, name, func(v *view.View) error { return e.evict(ctx, v, name, how) }); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// wayOut reads how the pod is to end, or says what is wrong with the request.
func wayOut(name string, eviction *policyv1.Eviction, opts *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	how := &metav1.DeleteOptions{}
	if eviction.DeleteOptions != nil {
		how = eviction.DeleteOptions.DeepCopy()
	}
	switch {
	case name != eviction.Name:
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	case how.IgnoreStoreReadErrorWithClusterBreakingPotential != nil && *how.IgnoreStoreReadErrorWithClusterBreakingPotential:
		at := field.NewPath("deleteOptions").Child("ignoreStoreReadErrorWithClusterBreakingPotential")
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), name, field.ErrorList{
			field.Invalid(at, true, "can not be set for pod eviction, try after removing the option")})
	case len(how.DryRun) == 0:
		how.DryRun = opts.DryRun
	case len(opts.DryRun) > 0 && !slices.Equal(how.DryRun, opts.DryRun):
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Non-matching dry-run options in request and content: %v and %v",
			how.DryRun, opts.DryRun))
	}
	if errs := metav1validation.ValidateDeleteOptions(how); len(errs) > 0 {
		return nil, apierrors.NewInvalid(deleteOptions(), "", errs)
	}
	return how, inBackground(how, name)
}

// evict makes one try from a view; store.ErrConflict asks for another from a newer one. The budget pays in the transaction by which the
// pod begins to end, so that of two that ask at the same time for the last disruption one is refused.
func (e evictions) evict(ctx context.Context, v *view.View, name string, how *metav1.DeleteOptions) error {
	pod, ok := view.Get[*corev1.Pod](v, e.namespace(ctx), name)
	if !ok {
		return e.notFound(name)
	}
	answer, of := disruption.NewBudgets(v).Judge(pod)
	if err := blocked(answer, of); err != nil {
		return err
	}
	if err := otherPod(how.Preconditions, pod); err != nil {
		return apierrors.NewConflict(apischema.GroupResource{Resource: "Pod"}, name, err)
	}
	now := e.now()
	last := pod.DeepCopy()
	podstatus.Evicted(last, now)
	ends, gone := strategy.Delete(last, now, how.GracePeriodSeconds)
	if gone {
		if err := uncounted(v, pod); err != nil {
			return err
		}
	}
	if dryRun(how.DryRun) || !gone && ends == nil {
		return nil // it ends already
	}
	by := identityOf(ctx).User.Name
	var pays []store.Write
	if answer == disruption.Spends {
		pays = append(pays, store.Write{Key: kinds.KeyOf(of[0]), Object: disruption.Less(of[0], now), If: kinds.Revision(of[0]),
			Reason: "pod " + name + " is evicted"})
	}
	write := store.Write{Key: kinds.KeyOf(pod), If: kinds.Revision(pod), Reason: "evicted by " + by}
	if !gone {
		write.Object = ends
	}
	if _, err := e.commit(ctx, write, pays...); err != nil {
		return err
	}
	e.store.Event("eviction", pod, corev1.EventTypeNormal, podstatus.EvictedByAPI, "Evicted by "+by)
	return nil
}

// askAgain is when a program is to ask again whose budget's status is out of date, in seconds, as in Kubernetes.
const askAgain = 10

// blocked says why budgets do not let a pod be evicted; nil: they do.
func blocked(answer disruption.Answer, of []*policyv1.PodDisruptionBudget) error {
	because := func(after int, cause string) error {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", after)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: policyv1.DisruptionBudgetCause, Message: cause})
		return err
	}
	switch answer {
	case disruption.Several:
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."}}
	case disruption.Unseen:
		return because(askAgain, fmt.Sprintf("The disruption budget %s is still being processed by the server.", of[0].Name))
	case disruption.Spent:
		return because(0, exhausted(of[0]))
	}
	return nil
}

// exhausted says why a budget allows no disruption.
func exhausted(b *policyv1.PodDisruptionBudget) string {
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	not := "The disruption budget " + b.Name + " does not allow evicting pods currently"
	switch {
	case told && c.Reason == policyv1.SyncFailedReason:
		return not + " because it failed sync: " + c.Message
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently",
			b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case told:
		return fmt.Sprintf("%s (%s): %s", not, c.Reason, c.Message)
	}
	return not
}

// otherPod says that a pod is not the one that was meant, or no longer as it was.
func otherPod(p *metav1.Preconditions, pod *corev1.Pod) error {
	switch {
	case p == nil:
	case p.UID != nil && *p.UID != "" && *p.UID != pod.UID:
		return fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been "+
			"deleted and then recreated", *p.UID, pod.UID)
	case p.ResourceVersion != nil && *p.ResourceVersion != "" && *p.ResourceVersion != pod.ResourceVersion:
		return errors.New("the ResourceVersion in the precondition (" + *p.ResourceVersion + ") does not match the ResourceVersion in " +
			"record (" + pod.ResourceVersion + "). The object might have been modified")
	}
	return nil
}

// evictionHandler evicts pods.
func (s *server) evictionHandler() (route, http.Handler) {
	k := kinds.For[*corev1.Pod]()
	gvr := k.GroupVersionResource()
	scope := scopeFor(policyv1.SchemeGroupVersion.WithKind("Eviction"), gvr, false)
	scope.Subresource, scope.MaxRequestBodyBytes = "eviction", maxNote
	e := evictions{&change{storage: &storage{kind: k, server: s}, subresource: "eviction"}}
	return route{gvr: gvr, subresource: "eviction", verb: "create"}, handlers.CreateNamedResource(e, scope, nil)
}
