package nodeagent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
)

// TestUserNetwork runs pods on a network of the user's own, a bridge, in a cluster that was made with other networks.
func TestUserNetwork(t *testing.T) {
	l := newLab(t)
	l.opts.CNIConfDir = filepath.Join(l.dir, "net.d")
	l.stopAPI()
	l.api.Settings.PodCIDRs, l.api.Settings.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16")},
		[]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	l.serve(l.address)
	if err := os.MkdirAll(l.opts.CNIConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	addresses := filepath.Join(l.dir, "addresses")
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"own","plugins":[{"type":"bridge","bridge":"own0","isGateway":true,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.88.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, addresses)
	if err := os.WriteFile(filepath.Join(l.opts.CNIConfDir, "10-own.conflist"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if link, err := netlink.LinkByName("own0"); err == nil {
			_ = netlink.LinkDel(link)
		}
	})
	l.start()
	l.ready()
	pod := func(script string) corev1.PodSpec {
		return corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{shell("main", script)}}
	}
	l.bind("web", pod("echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp"))
	web := l.running("web")
	if !strings.HasPrefix(web.Status.PodIP, "10.88.0.") {
		t.Errorf("the pod's address is %s", web.Status.PodIP)
	}
	l.service("web", "10.96.0.79", web.Status.PodIP)
	l.bind("asks", pod("while ! wget -q -O - http://"+web.Status.PodIP+":8080/; do sleep 0.1; done; "+
		"while ! wget -q -O - http://10.96.0.79/; do sleep 0.1; done; echo both; "+forever))
	l.prints(l.running("asks"), "main", "both")
	for _, name := range []string{"web", "asks"} {
		l.remove(name)
	}
	for _, name := range []string{"web", "asks"} {
		l.gone(name)
	}
	l.clean()
	if left, _ := filepath.Glob(filepath.Join(addresses, "own", "10.88.*")); len(left) > 0 {
		t.Errorf("addresses are still taken: %v", left)
	}
}
