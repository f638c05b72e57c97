package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/kinds/admission"
	"lockstep/store"
	"lockstep/store/view"
)

// maxLeases bounds the leases of a namespace: a program that elects a leader has one, and some give one to each of some dozens of
// parts of their work. As many, renewed every two seconds, are a tenth of what etcd writes.
const maxLeases = 1000

// maxTogether bounds the deletions of one request that are under way at once: the store makes one transaction of about as many.
const maxTogether = 100

// errStated refuses what would be undone.
var errStated = errors.New("a manifest states it")

// programmed says whether a program makes the request.
func programmed(ctx context.Context) bool { return identityOf(ctx).Role == rights.Account }

// make creates what a program has asked for, if there is room for it. What is counted is made one after the other, so that each is
// there for the next one of this server.
func (c *change) make(ctx context.Context, v *view.View, w store.Write, dryRun bool) (runtime.Object, error) {
	if admission.Countable(c.kind) {
		done, err := c.turn(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		if v, err = c.newest(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.room(v, w.Object); err != nil {
		return nil, err
	}
	if dryRun {
		return w.Object, nil
	}
	return c.commit(ctx, w)
}

// turn waits until no other program has one, of those of this server, so that each sees what the one before has written.
func (s *server) turn(ctx context.Context) (done func(), err error) {
	select {
	case s.making <- struct{}{}:
		return func() { <-s.making }, nil
	case <-ctx.Done():
		return nil, apierrors.NewTimeoutError("others are making something: "+ctx.Err().Error(), retryAfter)
	}
}

// room refuses, in Kubernetes' words, an object whose namespace takes none or no more.
func (c *change) room(v *view.View, o kinds.Object) error {
	forbidden := func(format string, args ...any) *apierrors.StatusError {
		return apierrors.NewForbidden(c.kind.GroupResource(), o.GetName(), fmt.Errorf(format, args...))
	}
	namespace, ok := view.Get[*corev1.Namespace](v, "", o.GetNamespace())
	switch {
	case !ok:
		return apierrors.NewNotFound(kinds.For[*corev1.Namespace]().GroupResource(), o.GetNamespace())
	case namespace.DeletionTimestamp != nil:
		err := forbidden("unable to create new content in namespace %s because it is being terminated", namespace.Name)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Field: "metadata.namespace",
			Message: fmt.Sprintf("namespace %s is being terminated", namespace.Name),
		})
		return err
	}
	if _, ok := o.(*coordinationv1.Lease); ok && atLeast(maxLeases, v.List(c.kind.GroupResource(), namespace.Name)) {
		return forbidden("namespace %s has %d of them, and may have no more", namespace.Name, maxLeases)
	}
	if err := admission.NewQuotas(v, v, c.now()).Charge(o, nil); err != nil {
		return forbidden("%s", err.Detail)
	}
	return nil
}

// atLeast says that there are so many, and counts no further.
func atLeast[T any](n int, all iter.Seq[T]) bool {
	for range all {
		if n--; n <= 0 {
			return true
		}
	}
	return false
}

// mayEndOwn refuses the end of what a manifest states or the cluster goes by, and what a deletion cannot do here: what an object of
// these kinds owned goes after it.
func (c *change) mayEndOwn(ctx context.Context, v *view.View, old kinds.Object, opts *metav1.DeleteOptions) error {
	if err := c.judge(ctx, v, "delete", old, old); err != nil {
		return err
	}
	return inBackground(opts, old.GetName())
}

// inBackground refuses a deletion that waits for what the object owns, or leaves it.
func inBackground(opts *metav1.DeleteOptions, name string) error {
	if p := opts.PropagationPolicy; p != nil && *p != metav1.DeletePropagationBackground {
		return apierrors.NewInvalid(deleteOptions(), name, field.ErrorList{
			field.NotSupported(field.NewPath("propagationPolicy"), *p, []metav1.DeletionPropagation{metav1.DeletePropagationBackground})})
	}
	return nil
}

func deleteOptions() schema.GroupKind {
	return metav1.SchemeGroupVersion.WithKind("DeleteOptions").GroupKind()
}

// DeleteCollection implements rest.CollectionDeleter: a program ends what a list has, all of it or, where it may not end one of
// them, nothing.
func (c *change) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions,
	which *metainternalversion.ListOptions) (runtime.Object, error) {
	list, err := c.List(ctx, which)
	if err != nil {
		return nil, err
	}
	objects, err := elements(list)
	if err != nil {
		return nil, err
	}
	v, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if old := v.Get(c.keyOf(o)); old != nil {
			if err := c.mayEnd(ctx, v, old, opts); err != nil {
				return nil, err
			}
		}
	}
	var all errgroup.Group
	all.SetLimit(maxTogether)
	for _, o := range objects {
		all.Go(func() error {
			_, _, err := c.Delete(ctx, o.GetName(), validate, opts.DeepCopy())
			if apierrors.IsNotFound(err) {
				return nil // it has gone by itself
			}
			return err
		})
	}
	return list, all.Wait()
}

// ended is Kubernetes' answer to the deletion of what it does not return.
func (c *change) ended(o kinds.Object) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{
		Name: o.GetName(), Group: cmp.Or(c.in.Group, c.kind.Group), Kind: c.kind.Resource, UID: o.GetUID()}}
}
