package csi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"lockstep/internal/sleep"
	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/pods"
)

// firstLook doubles up to lastLook between looks at whether a volume is attached.
const (
	firstLook = 100 * time.Millisecond
	lastLook  = time.Second
)

// Volume is what a pod mounts of a driver.
type Volume struct {
	Pod *corev1.Pod
	// Name is the PersistentVolume's, or the volume's in the pod where that states it.
	Name   string
	Source corev1.CSIPersistentVolumeSource
	// Inline says that the volume is made for the pod, and ends with it.
	Inline  bool
	Modes   []corev1.PersistentVolumeAccessMode
	Options []string
	// Block says that it is wanted as a device.
	Block bool
}

// Inline is a volume that a pod states itself.
func Inline(pod *corev1.Pod, v *corev1.Volume) Volume {
	s := v.CSI
	out := Volume{Pod: pod, Name: v.Name, Inline: true, Source: corev1.CSIPersistentVolumeSource{
		Driver: s.Driver, VolumeHandle: fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(pod.UID)+v.Name))),
		VolumeAttributes: s.VolumeAttributes,
	}}
	if s.ReadOnly != nil {
		out.Source.ReadOnly = *s.ReadOnly
	}
	if s.FSType != nil {
		out.Source.FSType = *s.FSType
	}
	if s.NodePublishSecretRef != nil {
		out.Source.NodePublishSecretRef = &corev1.SecretReference{Namespace: pod.Namespace, Name: s.NodePublishSecretRef.Name}
	}
	return out
}

// Claimed is a volume that a pod's claim stands for, which is one of a driver.
func Claimed(pod *corev1.Pod, p *pods.Persistent) Volume {
	out := Volume{Pod: pod, Name: p.Name, Source: *p.Source.CSI, Modes: p.Modes, Options: p.Options, Block: p.Block}
	out.Source.ReadOnly = p.ReadOnly
	return out
}

func (v *Volume) group() *int64 {
	if v.Pod.Spec.SecurityContext == nil {
		return nil
	}
	return v.Pod.Spec.SecurityContext.FSGroup
}

func (v *Volume) lifecycle() storagev1.VolumeLifecycleMode {
	if v.Inline {
		return storagev1.VolumeLifecycleEphemeral
	}
	return storagev1.VolumeLifecyclePersistent
}

// attachment is the name of the VolumeAttachment of a volume and a node.
func attachment(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// failed is an error in the words of the kubelet's event, with what was being done.
func failed(step string, v *Volume, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	reason := ""
	if v.Block {
		step, reason = asDevice(step), "FailedMapVolume"
	}
	return &pods.MountError{Reason: reason, Text: fmt.Sprintf("%s failed for volume %q : %v", step, v.Name, err), Cause: err}
}

// asDevice is a step as the kubelet names it where a volume is a device.
func asDevice(step string) string {
	switch step {
	case "MountVolume.WaitForAttach":
		return "MapVolume.WaitForAttach"
	case "MountVolume.MountDevice":
		return "MapVolume.SetUpDevice"
	}
	return "MapVolume.MapPodDevice"
}

// Publish has a volume mounted for its pod, and returns where, or where its device is. What is published stays as it is, whether
// its driver is there or not. It may be called again, also after an error; until Unpublish it may be mounted.
func (m *Manager) Publish(ctx context.Context, v Volume) (string, error) {
	if err := v.check(); err != nil {
		return "", failed("MountVolume.SetUp", &v, err)
	}
	target := m.dirs.target(v.Pod.UID, v.Name, v.Block)
	dir := filepath.Join(m.dirs.volumes(v.Pod.UID), v.Name)
	r, ok, err := load(dir)
	if err != nil {
		return "", failed("MountVolume.SetUp", &v, err)
	}
	if ok && r.Step == published {
		if mounted, err := isMounted(target); err != nil || mounted {
			m.remember(&v, r, target)
			return target, err
		}
	}
	use, step, err := m.prepare(ctx, &v, dir)
	if err == nil {
		step = "MountVolume.SetUp"
		err = m.publish(ctx, &v, use, dir, target)
	}
	if err != nil {
		return "", failed(step, &v, err)
	}
	m.remember(&v, use.record, target)
	return target, nil
}

// check refuses what would lead elsewhere as a part of paths.
func (v *Volume) check() error {
	uid := string(v.Pod.UID)
	never := []string{"", ".", ".."}
	if slices.Contains(never, uid) || slices.Contains(never, v.Name) || strings.ContainsAny(uid+v.Name, "/\x00") {
		return fmt.Errorf("pod %q or volume %q cannot be part of a path", uid, v.Name)
	}
	return checkVolume(v.Source.Driver, v.Source.VolumeHandle)
}

func checkVolume(driver, handle string) error {
	if handle == "" {
		return errors.New("the volume has no handle")
	}
	return checkName(driver)
}

// use is what is needed to mount a volume.
type use struct {
	driver  *driver
	object  *storagev1.CSIDriver // nil: there is none
	context map[string]string    // of its attachment
	record  record
}

// prepare has a volume attached and staged; step is what it was at, in the kubelet's words.
func (m *Manager) prepare(ctx context.Context, v *Volume, dir string) (u *use, step string, err error) {
	d, err := m.driver(v.Source.Driver)
	if err != nil {
		return nil, "MountVolume.SetUp", fmt.Errorf("%s: mounter.SetUpAt failed to get CSI client: %w", plugin, err)
	}
	u = &use{driver: d}
	if u.object, err = m.object(ctx, v.Source.Driver); err != nil {
		return nil, "MountVolume.SetUp", err
	}
	if err := lifecycles(u.object, v); err != nil {
		return nil, "MountVolume.SetUp", fmt.Errorf("%s: mounter.SetupAt failed to check volume lifecycle mode: %w", plugin, err)
	}
	u.record = record{Name: v.Name, Handle: v.Source.VolumeHandle, Driver: v.Source.Driver, Node: m.opts.Node,
		Lifecycle: string(v.lifecycle()), Block: v.Block, Step: staging, Attached: !v.Inline && attaches(u.object),
		Attachment: attachment(v.Source.VolumeHandle, v.Source.Driver, m.opts.Node),
		Again:      u.object != nil && u.object.Spec.RequiresRepublish != nil && *u.object.Spec.RequiresRepublish}
	// From here on the volume is in use.
	if err := m.begin(ctx, v, u.record, dir); err != nil {
		return nil, "MountVolume.SetUp", err
	}
	if v.Inline {
		return u, "", nil
	}
	if u.record.Attached {
		if u.context, err = m.awaitAttached(ctx, v, u.record); err != nil {
			return nil, "MountVolume.WaitForAttach", err
		}
	}
	if err := m.stage(ctx, v, u); err != nil {
		return nil, "MountVolume.MountDevice", err
	}
	return u, "", nil
}

// object is a driver's; nil: it has none.
func (m *Manager) object(ctx context.Context, driver string) (*storagev1.CSIDriver, error) {
	o, err := m.opts.Cluster.Driver(ctx, driver)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// attaches says whether a driver's volumes have to be attached.
func attaches(o *storagev1.CSIDriver) bool {
	return o == nil || o.Spec.AttachRequired == nil || *o.Spec.AttachRequired
}

// lifecycles says, in the kubelet's words, why a driver does not have such volumes.
func lifecycles(o *storagev1.CSIDriver, v *Volume) error {
	mode := v.lifecycle()
	switch {
	case o == nil && !v.Inline:
		return nil
	case o == nil:
		return fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object)", mode, v.Source.Driver)
	case slices.Contains(o.Spec.VolumeLifecycleModes, mode):
		return nil
	}
	return fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", mode, v.Source.Driver, o.Spec.VolumeLifecycleModes)
}

// begin keeps a record of a volume, so that it is in use until it is unpublished. It waits while somebody unstages it.
func (m *Manager) begin(ctx context.Context, v *Volume, r record, dir string) error {
	unlock, err := m.lock(ctx, r.volume())
	if err != nil {
		return err
	}
	defer unlock()
	if before, ok, err := load(dir); err != nil || ok {
		if ok && (before.Driver != r.Driver || before.Handle != r.Handle) {
			err = fmt.Errorf("the pod has volume %s of driver %s there", before.Handle, before.Driver)
		}
		return err
	}
	if err := save(dir, r); err != nil {
		return err
	}
	m.opts.Changed()
	return nil
}

// awaitAttached returns what the driver's controller has told of a volume that is attached to this node.
func (m *Manager) awaitAttached(ctx context.Context, v *Volume, r record) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		a, err := m.opts.Cluster.Attachment(ctx, r.Attachment)
		switch {
		case err != nil:
			last = fmt.Errorf("volume %v has GET error for volume attachment %v: %w", r.Handle, r.Attachment, err)
		case a.Spec.NodeName != m.opts.Node || a.Spec.Attacher != r.Driver:
			last = fmt.Errorf("volume attachment %v is of node %s and driver %s", r.Attachment, a.Spec.NodeName, a.Spec.Attacher)
		case a.DeletionTimestamp != nil:
			last = errors.New("volume attachment is being deleted")
		case a.Status.Attached:
			known, err := m.opts.Cluster.InUse(ctx, r.volume())
			if known && err == nil {
				return a.Status.AttachmentMetadata, nil
			}
			//nolint:staticcheck // the kubelet's words
			last = cmp.Or(err, errors.New("Volume has not been added to the list of VolumesInUse in the node's volume status"))
		case a.Status.AttachError != nil:
			last = errors.New(a.Status.AttachError.Message)
		default:
			last = fmt.Errorf("volume %v is not attached for volume attachment %v", r.Handle, r.Attachment)
		}
		if sleep.For(ctx, wait) {
			continue
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fmt.Errorf("timed out waiting for external-attacher of %v CSI driver to attach volume %v: %w",
				r.Driver, r.Handle, last)
		}
		return nil, ctx.Err()
	}
}

// stage has a volume staged, if its driver does that. It is repeated for each pod, as drivers want it.
func (m *Manager) stage(ctx context.Context, v *Volume, u *use) error {
	unlock, err := m.lock(ctx, u.record.volume())
	if err != nil {
		return err
	}
	defer unlock()
	dir := m.dirs.staging(v.Source.Driver, v.Source.VolumeHandle)
	path := m.dirs.stagingPath(v.Source.Driver, v.Source.VolumeHandle, v.Name, v.Block)
	if !u.driver.stages() {
		return nil
	}
	secrets, err := m.secrets(ctx, v.Source.NodeStageSecretRef)
	if err != nil {
		return fmt.Errorf("fetching NodeStageSecretRef %s/%s failed: %w", v.Source.NodeStageSecretRef.Namespace,
			v.Source.NodeStageSecretRef.Name, err)
	}
	kept := record{Name: v.Name, Handle: v.Source.VolumeHandle, Driver: v.Source.Driver, Block: v.Block,
		Attachment: u.record.Attachment, Attached: u.record.Attached, Step: staging}
	if err := save(dir, kept); err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = u.driver.node.NodeStageVolume(ctx, &csipb.NodeStageVolumeRequest{VolumeId: v.Source.VolumeHandle, PublishContext: u.context,
		StagingTargetPath: m.dirs.seen(path), VolumeCapability: u.driver.capability(v), Secrets: secrets,
		VolumeContext: v.Source.VolumeAttributes})
	return err
}

// publish has a volume published for its pod, whether it is already or not.
func (m *Manager) publish(ctx context.Context, v *Volume, u *use, dir, target string) error {
	policy, err := policyOf(u.object)
	if err != nil {
		return fmt.Errorf("%s: mounter.SetupAt failed to check fsGroup policy: %w", plugin, err)
	}
	secrets, err := m.secrets(ctx, v.Source.NodePublishSecretRef)
	if err != nil {
		return fmt.Errorf("fetching NodePublishSecretRef %s/%s failed: %w", v.Source.NodePublishSecretRef.Namespace,
			v.Source.NodePublishSecretRef.Name, err)
	}
	attributes := maps.Clone(v.Source.VolumeAttributes)
	if attributes == nil {
		attributes = map[string]string{}
	}
	if u.object != nil && u.object.Spec.PodInfoOnMount != nil && *u.object.Spec.PodInfoOnMount {
		maps.Copy(attributes, aboutPod(v))
	}
	tokens, err := m.tokens(ctx, u.object, v.Pod)
	if err != nil {
		return fmt.Errorf("%s: mounter.SetUpAt failed to get service accoount token attributes: %w", plugin, err)
	}
	if u.object != nil && u.object.Spec.ServiceAccountTokenInSecrets != nil && *u.object.Spec.ServiceAccountTokenInSecrets {
		maps.Copy(secrets, tokens)
	} else {
		maps.Copy(attributes, tokens)
	}
	again := u.record.Step == published
	if !again {
		u.record.Step = publishing
		if err := save(dir, u.record); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	request := &csipb.NodePublishVolumeRequest{VolumeId: v.Source.VolumeHandle, PublishContext: u.context, TargetPath: m.dirs.seen(target),
		VolumeCapability: u.driver.capability(v), Readonly: v.Source.ReadOnly, Secrets: secrets, VolumeContext: attributes}
	if u.driver.stages() && !v.Inline {
		request.StagingTargetPath = m.dirs.seen(m.dirs.stagingPath(v.Source.Driver, v.Source.VolumeHandle, v.Name, v.Block))
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := u.driver.node.NodePublishVolume(bounded, request); err != nil {
		return err
	}
	if again {
		return nil
	}
	if mounted, err := isMounted(target); err != nil || !mounted {
		return errors.Join(err, fmt.Errorf("driver %s has mounted nothing that is seen at %s", v.Source.Driver, target))
	}
	if group := v.group(); group != nil && !v.Block && !u.driver.mountsForGroup() && givesGroup(policy, v) {
		if err := give(ctx, target, v.Pod, *group); err != nil {
			return fmt.Errorf("applyFSGroup failed for vol %s: %w", v.Source.VolumeHandle, err)
		}
	}
	u.record.Step = published
	return save(dir, u.record)
}

// give gives a volume to the pod's fsGroup, as its policy says.
func give(ctx context.Context, path string, pod *corev1.Pod, group int64) error {
	policy := pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch {
		if given, err := beneath.Given(path, group); err != nil || given {
			return err
		}
	}
	return beneath.Give(ctx, path, group)
}

// secrets reads a Secret; without a reference it is empty.
func (m *Manager) secrets(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	out := map[string]string{}
	if ref == nil {
		return out, nil
	}
	s, err := m.opts.Cluster.Secret(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	for key, value := range s.Data {
		out[key] = string(value)
	}
	return out, nil
}
