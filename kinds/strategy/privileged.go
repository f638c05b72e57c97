package strategy

import "k8s.io/kubernetes/pkg/capabilities"

// The API server's --allow-privileged is off unless it is given, and every way to install a cluster gives it: network
// and storage agents cannot run without. Who may push to Git decides instead.
func init() { capabilities.Setup(true, 0) }
