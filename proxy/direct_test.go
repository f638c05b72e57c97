package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/eventually"
)

// TestServicesCannotTakeTheAPI: services that claim an API server's address and port, with an endpoint and without one,
// never get the connections of the node's own programs, nor anybody's where the node knows the server.
func TestServicesCannotTakeTheAPI(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		l := newLAN(t)
		node := &netHost{name: "node", t: t}
		api, thief := l.host("api", "192.168.70.2", "192.168.70.1"), l.host("thief", "10.42.0.5", "10.42.0.1")
		thief.route("0.0.0.0/0", "10.42.0.1")
		api.route("0.0.0.0/0", "192.168.70.1")
		api.serve(6443)
		thief.serve(8080)
		const server = "192.168.70.2:6443"
		claim := func(s *corev1.ServiceSpec) {
			s.ExternalIPs = []string{"192.168.70.2"}
			s.Ports[0].Port = 6443
		}
		direct := func() (string, error) {
			var answer string
			err := node.try(func() error {
				conn, err := Direct(&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", server)
				if err != nil {
					return err
				}
				defer conn.Close()
				answer, err = ask(conn)
				return err
			})
			return answer, err
		}
		whoever := func() string {
			answer, err := node.get("tcp", server)
			if err != nil {
				return err.Error()
			}
			return answer
		}
		const want = "api 192.168.70.1"
		w := newWorld(t, b)
		w.set(service("claim", "10.43.0.20", corev1.ProtocolTCP, claim), 8080, "10.42.0.5")
		w.run()
		if got := whoever(); got == want {
			t.Fatalf("the claim takes nothing: %q", got)
		}
		if got, err := direct(); got != want {
			t.Errorf("the node's own connection, claimed: %q %v", got, err)
		}
		w.set(service("claim", "10.43.0.20", corev1.ProtocolTCP, claim), 8080)
		eventually.True(t, 10*time.Second, "the claim has nobody", func() bool { _, err := node.get("tcp", server); return err != nil })
		if got, err := direct(); got != want {
			t.Errorf("the node's own connection, refused: %q %v", got, err)
		}
		kubernetes := service("kubernetes", "10.43.0.1", corev1.ProtocolTCP)
		kubernetes.ObjectMeta = metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}
		w.set(kubernetes, 6443, "192.168.70.2")
		eventually.True(t, 10*time.Second, "the API's endpoint is known", func() bool { return whoever() == want })
		w.set(kubernetes, 6443)
		eventually.True(t, 10*time.Second, "the API's endpoint is forgotten", func() bool { return whoever() != want })
		w.mu.Lock()
		w.in.Servers = []netip.AddrPort{netip.MustParseAddrPort(server)}
		w.mu.Unlock()
		w.set(service("claim", "10.43.0.20", corev1.ProtocolTCP, claim), 8080, "10.42.0.5")
		eventually.True(t, 10*time.Second, "the server that the node was told is known", func() bool { return whoever() == want })
	})
}
