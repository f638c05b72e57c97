package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// claimedManifest is podManifest with a claim of the default class, which takes its name.
const claimedManifest = `apiVersion: v1
kind: Pod
metadata: {name: one, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "` + imageName + `", volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]
`

// claimManifest takes the claim's name.
const claimManifest = `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, namespace: default}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

// startClaimed measures from the save of a pod with a new claim until the pod is Ready in the API, against the same pod without one.
// The claims of earlier rounds stay in the file, in the bound's rounds too: whoever removes data is asked whether it is meant.
func startClaimed(ctx context.Context, n *node) (_ []Row, err error) {
	w, err := n.workbench(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.down()) }()
	var claims []string
	ready := func(ctx context.Context, pod string) (float64, error) {
		var took []float64
		kept := strings.Join(claims, "")
		if _, err := w.roundLeaving(ctx, pod+kept, kept, &took); err != nil {
			return 0, err
		}
		return took[0], nil
	}
	with := func(ctx context.Context) (float64, error) {
		name := fmt.Sprintf("data-%d", len(claims))
		claims = append(claims, fmt.Sprintf(claimManifest, name))
		return ready(ctx, fmt.Sprintf(claimedManifest, name))
	}
	if _, err := with(ctx); err != nil { // the image is unpacked once
		return nil, err
	}
	ours, bound, err := alternate(ctx, n.times(12), with,
		func(ctx context.Context) (float64, error) { return ready(ctx, podManifest) })
	if err != nil {
		return nil, err
	}
	return []Row{within("file save to Ready in the API, pod with a local-path claim beside one without", "s", ours, bound, 1.3)}, nil
}
