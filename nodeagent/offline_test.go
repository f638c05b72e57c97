package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNamesAndServicesWithoutTheAPI starts the agent with empty tables and no
// API: rules, names and routes come from what it kept.
func TestNamesAndServicesWithoutTheAPI(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.service("web", "10.43.0.77", "10.42.7.250")
	l.eventually("service known", 10*time.Second, func() error {
		if s := l.agent.cluster.Snapshot(); s == nil || len(s.ServicesOf("default")) == 0 {
			return errors.New("no service")
		}
		return nil
	})
	c := shell("main", "echo service $WEB_SERVICE_HOST; echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp")
	l.bind("web", corev1.PodSpec{Containers: []corev1.Container{c}})
	p := l.running("web")
	l.service("web", "10.43.0.77", p.Status.PodIP)
	l.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "far"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.42.99.0/24"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.77.9"}}}})
	works := func() error {
		if err := fetch("http://10.43.0.77:80/index.html", "hello\n"); err != nil {
			return err
		}
		if got, err := resolve("web.default.svc.cluster.local."); got != "10.43.0.77" {
			return fmt.Errorf("name resolves to %q, %v", got, err)
		}
		routes, err := exec.Command("ip", "route").CombinedOutput()
		if !strings.Contains(string(routes), "10.42.99.0/24 via 192.168.77.9") {
			return fmt.Errorf("routes %s, %v", routes, err)
		}
		return nil
	}
	l.eventually("service, name and route work", 20*time.Second, works)
	l.eventually("state kept", 10*time.Second, func() error {
		_, err := os.Stat(filepath.Join(l.opts.agentDir(), "cluster"))
		return err
	})
	l.halt()
	l.stopAPI()
	if err := syscall.Kill(int(l.pids()["web/main"]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// What a reboot takes: rules, the service network and routes.
	for _, args := range [][]string{{"iptables-restore"}, {"ip", "route", "del", "10.42.99.0/24"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = strings.NewReader("*nat\nCOMMIT\n*filter\nCOMMIT\n*mangle\nCOMMIT\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	if works() == nil {
		t.Fatal("the service works without an agent and without rules")
	}
	l.start()
	l.eventually("service, name and route work without the API", 20*time.Second, works)
	l.eventually("the new container's variables name the service", 10*time.Second, func() error {
		if text := l.log(p, "main", 1); !strings.Contains(text, "service 10.43.0.77") {
			return fmt.Errorf("log %q", text)
		}
		return nil
	})
	l.serve(l.address)
	l.delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "far"}})
	l.eventually("what the API says counts again", 20*time.Second, func() error {
		routes, _ := exec.Command("ip", "route").CombinedOutput()
		if strings.Contains(string(routes), "10.42.99.0/24") {
			return fmt.Errorf("routes %s", routes)
		}
		return nil
	})
}

// service makes a service of port 80 whose endpoint is port 8080 of an address.
func (l *lab) service(name, address, endpoint string) {
	l.t.Helper()
	ready, port, portName, tcp := true, int32(8080), "http", corev1.ProtocolTCP
	l.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeClusterIP,
			ClusterIP:  address,
			ClusterIPs: []string{address},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: portName, Port: 80, Protocol: tcp}},
		}})
	l.put(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default",
		Name:      name + "-1",
		Labels:    map[string]string{discoveryv1.LabelServiceName: name},
	},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &tcp}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{endpoint}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}})
}

// resolve asks the node's DNS server for an address.
func resolve(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	m := &dns.Msg{}
	m.SetQuestion(name, dns.TypeA)
	res, err := dns.ExchangeContext(ctx, m, net.JoinHostPort("10.43.0.10", "53"))
	if err != nil {
		return "", err
	}
	for _, rr := range res.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String(), nil
		}
	}
	return "", errors.New("no answer")
}
