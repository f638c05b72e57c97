package pod

import (
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxHostname is how long a host name may be that is not the pod's full name, Kubernetes' figure; maxFQDN is the kernel's.
const (
	maxHostname = 63
	maxFQDN     = 64
)

// namesOf are a pod's name and the domain that it is in, for /etc/hosts; without a subdomain there is none, nor with
// hostnameOverride, which is no name that the cluster answers for.
func (n *Node) namesOf(o *corev1.Pod) (name, domain string) {
	if o.Spec.HostnameOverride != nil {
		return shortened(*o.Spec.HostnameOverride), ""
	}
	name = o.Name
	if o.Spec.Hostname != "" {
		name = o.Spec.Hostname
	}
	if o.Spec.Subdomain != "" {
		_, cluster := n.Names()
		domain = fmt.Sprintf("%s.%s.svc.%s", o.Spec.Subdomain, o.Namespace, cluster)
	}
	return shortened(name), domain
}

func shortened(name string) string {
	if len(name) > maxHostname {
		return strings.TrimRight(name[:maxHostname], "-.")
	}
	return name
}

// hostname is what the pod's containers find as the host's name; the node's with its network. A full name that the kernel has
// no room for is an error, the kubelet's.
func (n *Node) hostname(o *corev1.Pod) (string, error) {
	if o.Spec.HostNetwork {
		return os.Hostname()
	}
	name, domain := n.namesOf(o)
	if full := o.Spec.SetHostnameAsFQDN; domain == "" || full == nil || !*full {
		return name, nil
	}
	name += "." + domain
	if len(name) > maxFQDN {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long "+
			"(%d characters is the max, %d characters requested)", name, maxFQDN, len(name))
	}
	return name, nil
}
