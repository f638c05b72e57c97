package csi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
)

// aboutPod are the attributes by which a driver is told of a pod.
func aboutPod(v *Volume) map[string]string {
	return map[string]string{
		"csi.storage.k8s.io/pod.name":            v.Pod.Name,
		"csi.storage.k8s.io/pod.namespace":       v.Pod.Namespace,
		"csi.storage.k8s.io/pod.uid":             string(v.Pod.UID),
		"csi.storage.k8s.io/serviceAccount.name": kinds.AccountOf(v.Pod),
		"csi.storage.k8s.io/ephemeral":           strconv.FormatBool(v.Inline),
	}
}

// policyOf says when a driver's volumes are given to a pod's group; the error is the kubelet's.
func policyOf(o *storagev1.CSIDriver) (storagev1.FSGroupPolicy, error) {
	if o == nil {
		return storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy, nil
	}
	if o.Spec.FSGroupPolicy == nil || *o.Spec.FSGroupPolicy == "" {
		return "", fmt.Errorf("%s: expected valid fsGroupPolicy, received nil value or empty string", plugin)
	}
	return *o.Spec.FSGroupPolicy, nil
}

// givesGroup says whether the node is to give a volume to its pod's group.
func givesGroup(policy storagev1.FSGroupPolicy, v *Volume) bool {
	switch {
	case policy == storagev1.NoneFSGroupPolicy || v.Source.ReadOnly:
		return false
	case policy == storagev1.FileFSGroupPolicy:
		return true
	case v.Source.FSType == "":
		return false
	}
	return v.Inline || slices.Contains(v.Modes, corev1.ReadWriteOnce) || slices.Contains(v.Modes, corev1.ReadWriteOncePod)
}

// tokens is the attribute with the tokens that a driver asks for; empty: it asks for none.
func (m *Manager) tokens(ctx context.Context, o *storagev1.CSIDriver, pod *corev1.Pod) (map[string]string, error) {
	if o == nil || len(o.Spec.TokenRequests) == 0 {
		return nil, nil
	}
	out := map[string]authenticationv1.TokenRequestStatus{}
	for _, r := range o.Spec.TokenRequests {
		token, err := m.opts.Cluster.Token(ctx, pod,
			&corev1.ServiceAccountTokenProjection{Audience: r.Audience, ExpirationSeconds: r.ExpirationSeconds})
		if err != nil {
			return nil, err
		}
		until, err := expires(token)
		if err != nil {
			return nil, err
		}
		out[r.Audience] = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(until)}
	}
	data, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": string(data)}, nil
}

// expires reads a token's end, of which nothing is verified.
func expires(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	var claims struct{ Exp int64 }
	if len(parts) != 3 {
		return time.Time{}, errors.New("cannot read a token's end: it is no JWT")
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(data, &claims)
	}
	if err != nil {
		return time.Time{}, errors.New("cannot read a token's end: it is no JWT")
	}
	return time.Unix(claims.Exp, 0).UTC(), nil
}
