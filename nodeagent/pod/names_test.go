package pod

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNames(t *testing.T) {
	n := &Node{Options: Options{Names: func() ([]netip.Addr, string) { return nil, "cluster.local" }}}
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", 62) + "-b"
	for what, c := range map[string]struct {
		spec        corev1.PodSpec
		host, hosts string // what the kernel says, and the line of /etc/hosts
		err         string
	}{
		"by its name": {corev1.PodSpec{}, "web-0", "10.42.0.5\tweb-0\n", ""},
		"hostname":    {corev1.PodSpec{Hostname: "a"}, "a", "10.42.0.5\ta\n", ""},
		"long":        {corev1.PodSpec{Hostname: long}, long[:62], "10.42.0.5\t" + long[:62] + "\n", ""},
		"subdomain":   {corev1.PodSpec{Subdomain: "peers"}, "web-0", "10.42.0.5\tweb-0.peers.shop.svc.cluster.local\tweb-0\n", ""},
		"fqdn": {corev1.PodSpec{Subdomain: "peers", SetHostnameAsFQDN: new(true)}, "web-0.peers.shop.svc.cluster.local",
			"10.42.0.5\tweb-0.peers.shop.svc.cluster.local\tweb-0\n", ""},
		"fqdn without a domain": {corev1.PodSpec{SetHostnameAsFQDN: new(true)}, "web-0", "10.42.0.5\tweb-0\n", ""},
		"fqdn too long": {corev1.PodSpec{Hostname: strings.Repeat("a", 40), Subdomain: "peers", SetHostnameAsFQDN: new(true)}, "",
			"10.42.0.5\t" + strings.Repeat("a", 40) + ".peers.shop.svc.cluster.local\t" + strings.Repeat("a", 40) + "\n",
			"is too long (64 characters is the max, 69 characters requested)"},
		"override": {corev1.PodSpec{Subdomain: "peers", Hostname: "a", HostnameOverride: new("db.example.org")}, "db.example.org",
			"10.42.0.5\tdb.example.org\n", ""},
		"the node's network": {corev1.PodSpec{HostNetwork: true, Hostname: "a"}, own, "", ""},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0"}, Spec: c.spec}
		host, err := n.hostname(pod)
		if host != c.host || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: it is called %q, %v", what, host, err)
		}
		if file := n.hostsFile(pod, sandbox{IPs: []string{"10.42.0.5"}}); !strings.HasSuffix(file, c.hosts) {
			t.Errorf("%s: its hosts file is\n%s", what, file)
		}
	}
}
