package admission

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
)

const (
	// accessPath is where client libraries look for what they need to reach the API.
	accessPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// accessVolume begins the name of the volume that is mounted there, as Kubernetes' admission names it.
	accessVolume = "kube-api-access-"
	// accessSeconds is what Kubernetes' admission asks for: an hour, and a little by which such a token is known.
	accessSeconds = 60*60 + 7
)

// serve gives a pod what its service account has for it: pull secrets where the pod has none, and its token. The account has to be
// there, but for the default one, which every namespace gets: pods that come with their namespace do not wait for it.
func serve(pod *corev1.Pod, in Cluster) *field.Error {
	name := kinds.AccountOf(pod)
	account, _ := in.Get(kinds.For[*corev1.ServiceAccount]().Key(pod.Namespace, name)).(*corev1.ServiceAccount)
	if account == nil && name != kinds.DefaultAccount {
		return field.Forbidden(field.NewPath("spec", "serviceAccountName"),
			fmt.Sprintf("error looking up service account %s/%s: serviceaccount %q not found", pod.Namespace, name, name))
	}
	if account != nil && len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	mountAccess(pod, account)
	return nil
}

// mountAccess does what Kubernetes' admission of service accounts does: every container that mounts nothing at accessPath gets
// a token of the pod's, the API's authority and the namespace there, unless the pod or else its account says otherwise.
func mountAccess(pod *corev1.Pod, account *corev1.ServiceAccount) {
	if automounts(pod, account) {
		name := accessVolume + accessSuffix(pod)
		for _, v := range pod.Spec.Volumes {
			if strings.HasPrefix(v.Name, accessVolume) {
				name = v.Name
			}
		}
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				c := &list[i]
				if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == accessPath }) {
					c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: accessPath})
				}
			}
		}
	}
	Complete(pod)
}

// Complete adds the volume of an account's token to a pod that mounts it, by the name that Admit gives it, and does not have
// it: a manifest that is written from a pod of the cluster may have the one without the other.
func Complete(pod *corev1.Pod) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, m := range c.VolumeMounts {
			there := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
			if m.MountPath == accessPath && strings.HasPrefix(m.Name, accessVolume) && !there {
				volume := corev1.Volume{Name: m.Name, VolumeSource: corev1.VolumeSource{Projected: access()}}
				pod.Spec.Volumes = append(pod.Spec.Volumes, volume)
			}
		}
	}
}

// automounts: what the pod says counts before what its account says, and that before the default, which is yes.
func automounts(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account != nil && account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	default:
		return true
	}
}

// accessSuffix ends the volume's name. Kubernetes draws it; here one pod's is always the same.
func accessSuffix(pod *corev1.Pod) string {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(kinds.KeyOf(pod).String()))
	return hex.EncodeToString(sum.Sum(nil))[:5]
}

// access is what a program needs to reach the API: a token, whom to believe, and where it is.
func access() *corev1.ProjectedVolumeSource {
	mode := corev1.ProjectedVolumeSourceDefaultMode
	seconds := int64(accessSeconds)
	return &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{{
		ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds},
	}, {
		ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: kinds.RootCA},
			Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		},
	}, {
		DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
			Path:     "namespace",
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
		}}},
	}}}
}
