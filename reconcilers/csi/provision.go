package csi

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// Begun is the finalizer of a claim for which a driver may have made a volume that nothing names yet. Such a claim stays until the
	// volume is stored, or the driver has said that there is none.
	Begun = "lockstep.dev/csi-provisioning"
	// made is the finalizer of a volume that its driver is to delete.
	made = kinds.CSIMade
	// The annotations of such a volume with the Secret that the driver is told when it deletes it.
	deletionSecret      = "volume.kubernetes.io/provisioner-deletion-secret-name"
	deletionSecretSpace = "volume.kubernetes.io/provisioner-deletion-secret-namespace"
	// reserved begins the parameters of a class that are not its driver's.
	reserved = "csi.storage.k8s.io/"
)

// Provision decides about a claim that a driver is to make a volume for.
func Provision(v *view.View, namespace, name string, ask Asks, _ time.Time) Step {
	c, ok := view.Get[*corev1.PersistentVolumeClaim](v, namespace, name)
	if !ok {
		return Step{}
	}
	class, _ := view.Get[*storagev1.StorageClass](v, "", volume.GetPersistentVolumeClaimClass(c))
	begun := slices.Contains(c.Finalizers, Begun)
	if pv, there := view.Get[*corev1.PersistentVolume](v, "", volumeName(c)); there {
		if begun && kinds.CSIOf(pv) != nil {
			return ended(c, "its volume is stored")
		}
		if !begun && c.Spec.VolumeName == "" && class != nil && provisions(v, class) && !volume.IsVolumeBoundToClaim(pv, c) {
			return unprovisioned(c, class, fmt.Errorf("persistentvolumes %q already exists", pv.Name), false)
		}
		return Step{}
	}
	if !begun && (c.DeletionTimestamp != nil || !asked(v, c, class)) {
		return Step{}
	}
	if class == nil {
		return Step{Failed: fmt.Errorf("cannot make the volume of claim %s/%s: its class is gone", namespace, name)}
	}
	if selected := c.Annotations[volume.AnnSelectedNode]; selected != "" && !begun {
		if _, there := view.Get[*corev1.Node](v, "", selected); !there {
			return nodeless(c, class)
		}
	}
	if !served(v, class.Provisioner) {
		return Step{}
	}
	driver := ask(class.Provisioner)
	if driver == nil {
		return Step{Ask: class.Provisioner}
	}
	order, err := orderOf(v, c, class, driver)
	if err != nil {
		return unprovisioned(c, class, err, false)
	}
	if !begun {
		return Step{
			Changes: []Change{{Reason: "its driver is to make a volume", Object: changed(c, func(c *corev1.PersistentVolumeClaim) {
				c.Finalizers = with(c.Finalizers, Begun)
			})}},
			Events: []Event{normal(class.Provisioner, c, "Provisioning", "External provisioner is provisioning volume for claim %q",
				c.Namespace+"/"+c.Name)},
		}
	}
	return Step{Call: &Call{Driver: class.Provisioner, Near: order.near, Request: order.request,
		Then: func(answer any, err error, _ time.Time) Step {
			if err != nil {
				return unprovisioned(c, class, err, none(err))
			}
			return order.provisioned(answer.(*csipb.CreateVolumeResponse).GetVolume())
		}}}
}

func volumeName(c *corev1.PersistentVolumeClaim) string { return "pvc-" + string(c.UID) }

// provisions says whether the class's provisioner is a driver that is spoken to.
func provisions(v *view.View, class *storagev1.StorageClass) bool {
	return class.Provisioner != kinds.LocalPath && served(v, class.Provisioner)
}

// asked says whether a claim was left to a driver, and where its first pod goes is known if that counts.
func asked(v *view.View, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) bool {
	switch {
	case class == nil || c.Spec.VolumeName != "" || !provisions(v, class):
		return false
	case c.Annotations[volume.AnnStorageProvisioner] != class.Provisioner:
		return false // the binder may have a volume for it
	}
	return !kinds.BindsLate(class) || c.Annotations[volume.AnnSelectedNode] != ""
}

// ended takes from a claim what says that a volume may be there that nothing names.
func ended(c *corev1.PersistentVolumeClaim, reason string) Step {
	return Step{Changes: []Change{{Reason: reason, Object: changed(c, func(c *corev1.PersistentVolumeClaim) {
		c.Finalizers = without(c.Finalizers, Begun)
	})}}}
}

// unprovisioned decides about a claim whose driver makes no volume now; none says that there is none.
func unprovisioned(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, err error, none bool) Step {
	s := Step{
		Failed: fmt.Errorf("cannot make a volume for claim %s/%s: %w", c.Namespace, c.Name, err),
		Events: []Event{warning(class.Provisioner, c, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v",
			class.Name, err)},
	}
	if none {
		full := status.Code(err) == codes.ResourceExhausted
		s.Changes = []Change{{Reason: "its driver makes no volume for it", Object: changed(c, func(c *corev1.PersistentVolumeClaim) {
			c.Finalizers = without(c.Finalizers, Begun)
			if full { // another node may do
				delete(c.Annotations, volume.AnnSelectedNode)
			}
		})}}
	}
	return s
}

// nodeless takes from a claim a node that is gone: another one is to be selected.
func nodeless(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) Step {
	s := unprovisioned(c, class, fmt.Errorf("node %q not found", c.Annotations[volume.AnnSelectedNode]), false)
	s.Failed = nil
	s.Changes = []Change{{Reason: "the selected node is gone, another one is to be selected",
		Object: changed(c, func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, volume.AnnSelectedNode) })}}
	return s
}

// order is what a driver is asked to make, and what becomes of it.
type order struct {
	claim   *corev1.PersistentVolumeClaim
	class   *storagev1.StorageClass
	driver  *Driver
	fsType  string
	near    []string
	request *csipb.CreateVolumeRequest
	// deletion is the Secret that the driver is told when it deletes the volume, the others are those of other calls; nil: none.
	deletion, publish, stage, node, expand, grow *corev1.SecretReference
}

func orderOf(v *view.View, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, d *Driver) (*order, error) {
	o := &order{claim: c, class: class, driver: d}
	switch {
	case c.Spec.Selector != nil:
		return nil, errors.New("claim Selector is not supported")
	case c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil:
		return nil, errors.New("volumes are made empty")
	case !d.Can[csipb.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME]:
		return nil, errors.New("CSI driver does not support dynamic provisioning: controller CREATE_DELETE_VOLUME capability is " +
			"not reported")
	}
	parameters, err := o.read()
	if err != nil {
		return nil, err
	}
	secrets, err := secret(v, o.deletion)
	if err != nil {
		return nil, err
	}
	size := c.Spec.Resources.Requests[corev1.ResourceStorage]
	o.request = &csipb.CreateVolumeRequest{
		Name: volumeName(c), Parameters: parameters, Secrets: secrets,
		CapacityRange:      &csipb.CapacityRange{RequiredBytes: size.Value()},
		VolumeCapabilities: capabilities(d, c.Spec.AccessModes, c.Spec.VolumeMode, o.fsType, class.MountOptions),
	}
	selected := c.Annotations[volume.AnnSelectedNode]
	if selected != "" {
		o.near = []string{selected}
	}
	if d.Topology {
		o.request.AccessibilityRequirements, err = requirements(v, d.Name, c.Name, class.AllowedTopologies, selected)
	}
	return o, err
}

// read reads the class's parameters: those that are the driver's are returned.
func (o *order) read() (map[string]string, error) {
	out, left := map[string]string{}, map[string]string{}
	for key, value := range o.class.Parameters {
		if strings.HasPrefix(key, reserved) {
			left[strings.TrimPrefix(key, reserved)] = value
		} else {
			out[key] = value
		}
	}
	o.fsType = left["fstype"]
	delete(left, "fstype")
	for _, s := range []struct {
		name string
		into **corev1.SecretReference
		node bool // a template may say more: it names what exists once the claim does
	}{
		{"provisioner", &o.deletion, false}, {"controller-publish", &o.publish, true}, {"node-stage", &o.stage, true},
		{"node-publish", &o.node, true}, {"controller-expand", &o.expand, true}, {"node-expand", &o.grow, true},
	} {
		name, space := left[s.name+"-secret-name"], left[s.name+"-secret-namespace"]
		_, hasName := left[s.name+"-secret-name"]
		_, hasSpace := left[s.name+"-secret-namespace"]
		delete(left, s.name+"-secret-name")
		delete(left, s.name+"-secret-namespace")
		switch {
		case !hasName && !hasSpace:
			continue
		case name == "" || space == "":
			return nil, fmt.Errorf("failed to get name and namespace template from params: either name and namespace for %s secrets "+
				"specified, Both must be specified", s.name)
		}
		ref := &corev1.SecretReference{}
		var err error
		if ref.Name, err = o.expanded(name, true); err != nil {
			return nil, err
		}
		if ref.Namespace, err = o.expanded(space, false); err != nil {
			return nil, err
		}
		*s.into = ref
	}
	for _, key := range slices.Sorted(maps.Keys(left)) {
		return nil, fmt.Errorf("found unknown parameter key %q with reserved namespace %s", reserved+key, reserved)
	}
	return out, nil
}

// expanded is a template of a Secret's name or namespace for the claim; only the name may be taken from what the claim says.
func (o *order) expanded(template string, name bool) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(template, "${")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		token, after, closed := strings.Cut(rest, "}")
		value, known := o.token(token, name)
		if !closed || !known {
			return "", fmt.Errorf("error resolving value %q: invalid tokens: [%q]", template, token)
		}
		out.WriteString(value)
		template = after
	}
}

func (o *order) token(token string, name bool) (string, bool) {
	switch token {
	case "pv.name":
		return volumeName(o.claim), true
	case "pvc.namespace":
		return o.claim.Namespace, true
	case "pvc.name":
		return o.claim.Name, name
	}
	key, is := strings.CutPrefix(token, "pvc.annotations['")
	key, ends := strings.CutSuffix(key, "']")
	value, has := o.claim.Annotations[key]
	return value, is && ends && has && name
}

// provisioned stores the volume that the driver has made.
func (o *order) provisioned(got *csipb.Volume) Step {
	size := o.claim.Spec.Resources.Requests[corev1.ResourceStorage]
	bytes := cmp.Or(got.GetCapacityBytes(), size.Value())
	switch {
	case got.GetVolumeId() == "":
		return unprovisioned(o.claim, o.class, errors.New("the driver names no volume"), false)
	case bytes < size.Value():
		err := fmt.Errorf("created volume capacity %d less than requested capacity %d", bytes, size.Value())
		return unprovisioned(o.claim, o.class, err, false)
	}
	pv := o.stored(got, bytes)
	return Step{
		Changes: []Change{{Object: pv, Reason: "made by " + o.driver.Name}},
		Events:  []Event{normal(o.driver.Name, o.claim, "ProvisioningSucceeded", "Successfully provisioned volume %s", pv.Name)},
	}
}

func (o *order) stored(got *csipb.Volume, bytes int64) *corev1.PersistentVolume {
	c, mode, policy := o.claim, corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeReclaimDelete
	if o.claim.Spec.VolumeMode != nil {
		mode = *o.claim.Spec.VolumeMode
	}
	if o.class.ReclaimPolicy != nil {
		policy = *o.class.ReclaimPolicy
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: volumeName(c), Annotations: map[string]string{volume.AnnDynamicallyProvisioned: o.driver.Name},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(bytes, resource.BinarySI)},
			AccessModes: slices.Clone(c.Spec.AccessModes), VolumeMode: &mode, MountOptions: slices.Clone(o.class.MountOptions),
			PersistentVolumeReclaimPolicy: policy, StorageClassName: o.class.Name,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: o.driver.Name, VolumeHandle: got.GetVolumeId(), VolumeAttributes: maps.Clone(got.GetVolumeContext()),
				ControllerPublishSecretRef: o.publish, NodeStageSecretRef: o.stage, NodePublishSecretRef: o.node,
				ControllerExpandSecretRef: o.expand, NodeExpandSecretRef: o.grow,
			}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID,
			},
		},
	}
	if mode == corev1.PersistentVolumeFilesystem {
		pv.Spec.CSI.FSType = o.fsType
	}
	if policy == corev1.PersistentVolumeReclaimDelete {
		pv.Finalizers = []string{made}
	}
	if o.deletion != nil {
		pv.Annotations[deletionSecret], pv.Annotations[deletionSecretSpace] = o.deletion.Name, o.deletion.Namespace
	}
	if o.driver.Topology {
		pv.Spec.NodeAffinity = affinity(got.GetAccessibleTopology())
	}
	return pv
}
