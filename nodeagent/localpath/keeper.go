package localpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"lockstep/kinds"
	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/client"
)

const (
	// removeTimeout bounds one turn of a removal, which the next one goes on with: volumes may have millions of files.
	removeTimeout = time.Minute
	// retryPause is how long after a removal that failed, or a volume that is still mounted, it is looked at again.
	retryPause = 10 * time.Second
	// apiTimeout bounds a write, which takes milliseconds; a server that starts may need seconds.
	apiTimeout = 10 * time.Second
	// measurePeriod is how often a volume is measured, and share how many times as long as a measure took there is none: walking a
	// large one takes at most that part of the time.
	measurePeriod, share = time.Minute, 20
	// measureTimeout bounds one measure: a volume may have millions of files.
	measureTimeout = 5 * time.Minute
	// retellAfter is how often what lasts is told of: an event lives an hour.
	retellAfter = 10 * time.Minute
)

// Options are what a Keeper needs; all of them are required.
type Options struct {
	Directories
	// Mounted says whether a pod has a directory mounted, which is there.
	Mounted func(path string) (bool, error)
	// Resized has the device of a file that has grown be as large; a file that is absent, or no device, is no error.
	Resized func(path string) error
	// Events records events; it is asked when there is one.
	Events func() record.EventRecorder
	Log    *slog.Logger
}

// Keeper measures the node's volumes, and removes those that the cluster has given up.
type Keeper struct {
	opts         Options
	every, pause time.Duration // measurePeriod and retryPause but in tests

	mu   sync.Mutex
	uses map[string]use // by volume
	told map[string]time.Time
}

// use is what a volume takes of the disk.
type use struct {
	volume *corev1.PersistentVolume
	size   beneath.Size
	held   bool      // its file system holds it to its capacity
	at     time.Time // when it was measured
	again  time.Time // when it is measured next
}

// New returns a keeper that knows of no volume; it starts nothing.
func New(o Options) *Keeper {
	return &Keeper{opts: o, every: measurePeriod, pause: retryPause, uses: map[string]use{}, told: map[string]time.Time{}}
}

// Run follows the node's volumes in the API until ctx ends.
func (k *Keeper) Run(ctx context.Context, api client.Interface) error {
	selector := labels.SelectorFromSet(labels.Set{kinds.LocalPathNode: k.opts.Node}).String()
	volumes := api.CoreV1().PersistentVolumes()
	informer := cache.NewSharedInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return volumes.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			return volumes.Watch(ctx, o)
		},
	}, api), &corev1.PersistentVolume{}, 0)
	wake := make(chan struct{}, 1)
	poke := func() {
		select {
		case wake <- struct{}{}:
		default: // a wake-up is pending
		}
	}
	registered, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { poke() }, UpdateFunc: func(_, _ any) { poke() }, DeleteFunc: func(any) { poke() },
	})
	if err != nil {
		return fmt.Errorf("cannot follow volumes: %w", err)
	}
	if err := k.opts.Finish(ctx); err != nil && ctx.Err() == nil {
		k.opts.Log.Warn("cannot remove all volumes that were given up", "error", err)
	}
	var running sync.WaitGroup
	running.Go(func() { informer.RunWithContext(ctx) })
	defer running.Wait()
	if !cache.WaitForCacheSync(ctx.Done(), registered.HasSynced) {
		return nil
	}
	known := func() (out []*corev1.PersistentVolume) {
		for _, o := range informer.GetStore().List() {
			out = append(out, o.(*corev1.PersistentVolume))
		}
		return out
	}
	k.tellStrays(known())
	running.Go(func() { k.measureAll(ctx, api, known) })
	for {
		var again <-chan time.Time
		grown := k.growAll(ctx, known())
		if removed := k.removeAll(ctx, api, known()); !removed || !grown {
			again = time.After(k.pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-again:
		}
	}
}

// tellStrays logs the directories whose volumes the cluster does not know: they are nobody's to remove.
func (k *Keeper) tellStrays(known []*corev1.PersistentVolume) {
	there, _, err := k.opts.Names()
	if err != nil {
		k.opts.Log.Warn("cannot list the directories of volumes", "error", err)
	}
	for _, name := range there {
		if !slices.ContainsFunc(known, func(pv *corev1.PersistentVolume) bool { return pv.Name == name }) {
			k.opts.Log.Warn("a directory is of no volume of the cluster, and stays", "directory", k.opts.Path(name))
		}
	}
}

// growAll has the volumes be as large as their claims were given: the block devices among them, and where quotas hold the others to their
// capacity. False: some of them are not.
func (k *Keeper) growAll(ctx context.Context, known []*corev1.PersistentVolume) bool {
	done := true
	for _, pv := range known {
		if pv.DeletionTimestamp != nil || kinds.LocalPathOf(pv) != k.opts.Node {
			continue
		}
		if err := k.grow(ctx, pv); err != nil && ctx.Err() == nil {
			done = false
			if k.untold("grow "+pv.Name+": "+err.Error(), time.Now()) {
				k.opts.Log.Warn("cannot grow volume", "volume", pv.Name, "error", err)
				k.opts.Events().Event(pv, corev1.EventTypeWarning, "VolumeResizeFailed", err.Error())
			}
		}
	}
	return done
}

func (k *Keeper) grow(ctx context.Context, pv *corev1.PersistentVolume) error {
	if !kinds.Block(pv.Spec.VolumeMode) {
		ctx, cancel := context.WithTimeout(ctx, measureTimeout)
		defer cancel()
		_, err := k.opts.Limit(ctx, pv)
		return err
	}
	if err := k.opts.Grow(pv); err != nil {
		return err
	}
	return k.opts.Resized(k.opts.Path(pv.Name)) // also after a crash between the two
}

// removeAll removes what the cluster has given up; false: something of it is left.
func (k *Keeper) removeAll(ctx context.Context, api client.Interface, known []*corev1.PersistentVolume) bool {
	done := true
	for _, pv := range known {
		step, why := next(pv, k.opts.Node)
		if step == keep {
			continue
		}
		var err error
		if step == remove {
			err = k.remove(ctx, pv)
		}
		if err == nil {
			err = letGo(ctx, api, pv)
		}
		if err == nil {
			k.opts.Log.Info("volume given up", "volume", pv.Name, "reason", why, "removed", step == remove)
			continue
		}
		done = false
		if ctx.Err() == nil && !apierrors.IsConflict(err) && k.untold("remove "+pv.Name+": "+err.Error(), time.Now()) {
			k.opts.Log.Warn("cannot delete volume", "volume", pv.Name, "error", err)
			k.opts.Events().Event(pv, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
		}
	}
	return done
}

var errMounted = errors.New("a pod on this node has it mounted")

func (k *Keeper) remove(ctx context.Context, pv *corev1.PersistentVolume) error {
	if err := k.opts.check(pv); err != nil {
		return err
	}
	mounted, err := k.opts.Mounted(k.opts.Path(pv.Name))
	if err != nil {
		return err
	}
	if mounted {
		return errMounted
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	return k.opts.Remove(ctx, pv)
}

// letGo takes the node's finalizer from a volume; one that is gone is no error.
func letGo(ctx context.Context, api client.Interface, pv *corev1.PersistentVolume) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := api.CoreV1().PersistentVolumes().Update(ctx, kinds.LocalPathLetGo(pv), metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// untold says that nothing was told of something for a while, and notes that it is now.
func (k *Keeper) untold(what string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for other, at := range k.told {
		if now.Sub(at) >= retellAfter {
			delete(k.told, other)
		}
	}
	if _, told := k.told[what]; told {
		return false
	}
	k.told[what] = now
	return true
}

// measureAll measures the volumes again and again until ctx ends, and notes which of them are made.
func (k *Keeper) measureAll(ctx context.Context, api client.Interface, known func() []*corev1.PersistentVolume) {
	t := time.NewTicker(k.every)
	defer t.Stop()
	for {
		k.measure(ctx, known())
		k.markAll(ctx, api, known())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// markAll notes in the API which volumes are made: where both a directory and the node's own record of it are gone, that is all that is
// known of it.
func (k *Keeper) markAll(ctx context.Context, api client.Interface, known []*corev1.PersistentVolume) {
	there, _, err := k.opts.Names()
	if err != nil && ctx.Err() == nil {
		k.opts.Log.Warn("cannot list the directories of volumes", "error", err)
	}
	for _, pv := range known {
		if pv.DeletionTimestamp != nil || kinds.LocalPathOf(pv) != k.opts.Node || pv.Annotations[kinds.LocalPathMade] != "" ||
			!slices.Contains(there, pv.Name) {
			continue
		}
		if err := mark(ctx, api, pv); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			k.opts.Log.Warn("cannot note that a volume is made", "volume", pv.Name, "error", err)
		}
	}
}

func mark(ctx context.Context, api client.Interface, pv *corev1.PersistentVolume) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := api.CoreV1().PersistentVolumes().Update(ctx, kinds.LocalPathMark(pv), metav1.UpdateOptions{})
	return err
}

// measure measures those whose turn it is, and tells of those that take too much.
func (k *Keeper) measure(ctx context.Context, known []*corev1.PersistentVolume) {
	k.mu.Lock()
	before := k.uses
	k.mu.Unlock()
	now := map[string]use{}
	for _, pv := range known {
		last, measured := before[pv.Name]
		if ctx.Err() != nil || pv.Status.Phase != corev1.VolumeBound || kinds.LocalPathOf(pv) != k.opts.Node {
			continue
		}
		last.volume = pv
		if began := time.Now(); !measured || !began.Before(last.again) {
			size, held, err := k.sizeOf(ctx, pv)
			if err != nil && ctx.Err() == nil && k.untold("measure "+pv.Name, began) {
				k.opts.Log.Warn("cannot measure volume", "volume", pv.Name, "error", err)
			}
			last.size, last.held, last.at, last.again = size, held, began, time.Now().Add(share*time.Since(began))
		}
		now[pv.Name] = last
		if text := over(pv, last.size.Bytes, last.held); text != "" && pv.Spec.ClaimRef != nil && k.untold("over "+pv.Name, time.Now()) {
			k.opts.Events().Event(pv.Spec.ClaimRef, corev1.EventTypeWarning, "VolumeOverCapacity", text)
		}
	}
	k.mu.Lock()
	k.uses = now
	k.mu.Unlock()
}

func (k *Keeper) sizeOf(ctx context.Context, pv *corev1.PersistentVolume) (beneath.Size, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	return k.opts.Measure(ctx, pv.Name)
}
