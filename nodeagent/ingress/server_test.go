package ingress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	networkingv1 "k8s.io/api/networking/v1"

	"lockstep/nodeagent/ingress/routes"
)

func TestServes(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.ask(http.MethodGet, "a", "/", nil); err == nil {
		t.Error("it listens though there is nothing to serve")
	}
	seen := make(chan http.Header, 1)
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r.Header.Clone():
		default:
		}
		named("web")(w, r)
	})
	w.service("web", b.URL)
	w.ingress("web", "shop.example.org", nil)
	w.until("shop.example.org", "/", 200)
	<-seen
	got := w.get("shop.example.org", "/a%2Fb?x=1;2", "X-Forwarded-For", "203.0.113.9",
		"X-Forwarded-Proto", "https", "Connection", "X-Hop", "X-Hop", "1")
	if got.body != "web shop.example.org /a%2Fb?x=1;2" {
		t.Errorf("the backend sees %q", got.body)
	}
	h := <-seen
	for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Real-Ip": "127.0.0.1",
		"X-Forwarded-Host": "shop.example.org", "X-Forwarded-Port": strconv.Itoa(int(w.opts.HTTP)), "X-Hop": ""} {
		if h.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, h.Get(name), want)
		}
	}
	if a := w.get("other.example.org", "/"); a.code != 404 {
		t.Errorf("an unknown host gets %d", a.code)
	}
	w.service("web")
	w.until("shop.example.org", "/", 503)
	w.set(func(in *routes.Input) { in.Ingresses = nil })
	wait(t, func() bool { _, err := w.ask(http.MethodGet, "a", "/", nil); return err != nil })
	if n := testutil.ToFloat64(w.metrics.requests.WithLabelValues("shop", "web", "200")); n != 0 {
		t.Errorf("%v requests are told of an Ingress that is gone", n)
	}
}

// TestClientsDoNotSpeakForTheServer: what backends read as this server's words is not what a client has said.
func TestClientsDoNotSpeakForTheServer(t *testing.T) {
	seen := make(chan http.Header, 1)
	b := backend(t, func(w http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
	asked := []string{"X_Real_Ip", "X_Forwarded_For", "X-Forwarded_Proto", "X-Forwarded-Scheme", "X-Forwarded-Prefix", "X-Scheme",
		"Forwarded", "My_Own"}
	var pairs []string
	for _, name := range asked {
		pairs = append(pairs, name, "203.0.113.9")
	}
	for believed, want := range map[bool][]string{
		false: {"My_Own"}, true: {"X-Forwarded-Scheme", "X-Forwarded-Prefix", "X-Scheme", "My_Own"},
	} {
		w := newWorld(t, func(o *Options) {
			if believed {
				o.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
		})
		w.service("web", b.URL)
		w.ingress("web", "a", nil)
		wait(t, func() bool { a, err := w.ask("GET", "a", "/", nil); return err == nil && a.code == 200 })
		<-seen
		w.get("a", "/", pairs...)
		h := <-seen
		for _, name := range asked {
			if got := h.Get(name) != ""; got != slices.Contains(want, name) {
				t.Errorf("believed %v: %s is passed on: %v", believed, name, got)
			}
		}
		// Behind a connection that has become HTTP/2 no route is asked.
		w.get("a", "/", "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")
		if h := <-seen; h.Get("Upgrade")+h.Get("Connection")+h.Get("Http2-Settings") != "" {
			t.Errorf("the backend is asked for HTTP/2: %v", h)
		}
	}
}

func TestAnnotations(t *testing.T) {
	w := newWorld(t, nil)
	b := backend(t, func(out http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(1500 * time.Millisecond)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		named("web")(out, r)
	})
	w.service("web", b.URL)
	for _, test := range []struct {
		annotations map[string]string
		method      string
		path        string
		body        string
		want        int
		location    string
	}{
		{map[string]string{"permanent-redirect": "https://new.example.org/x"}, "GET", "/a", "", 301, "https://new.example.org/x"},
		{map[string]string{"permanent-redirect": "https://new.example.org/x", "permanent-redirect-code": "308"}, "GET", "/", "", 308,
			"https://new.example.org/x"},
		{map[string]string{"temporal-redirect": "https://new.example.org/x"}, "GET", "/a", "", 302, "https://new.example.org/x"},
		{map[string]string{"app-root": "/app"}, "GET", "/", "", 302, "/app"},
		{map[string]string{"app-root": "/app"}, "GET", "/x", "", 200, ""},
		{map[string]string{"force-ssl-redirect": "true"}, "GET", "/a?b=c", "", 308,
			fmt.Sprintf("https://a.example.org:%d/a?b=c", w.opts.HTTPS)},
		{map[string]string{"whitelist-source-range": "10.0.0.0/8, 192.0.2.1"}, "GET", "/", "", 403, ""},
		{map[string]string{"whitelist-source-range": "127.0.0.0/8"}, "GET", "/", "", 200, ""},
		{map[string]string{"denylist-source-range": "127.0.0.1"}, "GET", "/", "", 403, ""},
		{map[string]string{"proxy-body-size": "4"}, "POST", "/", "12345", 413, ""},
		{map[string]string{"proxy-body-size": "1k"}, "POST", "/", "12345", 200, ""},
		{map[string]string{"proxy-read-timeout": "1"}, "GET", "/slow", "", 504, ""},
		{map[string]string{"enable-cors": "true"}, "OPTIONS", "/", "", 204, ""},
	} {
		w.ingress("web", "a.example.org", test.annotations)
		wait(t, func() bool {
			var body io.Reader
			if test.body != "" {
				body = strings.NewReader(test.body)
			}
			a, err := w.ask(test.method, "a.example.org", test.path, body)
			return err == nil && a.code == test.want && a.header.Get("Location") == test.location
		})
	}
	w.ingress("web", "a.example.org", map[string]string{"upstream-vhost": "inner", "rewrite-target": "/new"})
	wait(t, func() bool {
		a, err := w.ask("GET", "a.example.org", "/old?q", nil)
		return err == nil && a.body == "web inner /new?q"
	})
	// A body whose length is not told is bounded, too.
	w.ingress("web", "a.example.org", map[string]string{"proxy-body-size": "4"})
	wait(t, func() bool {
		a, err := w.ask("POST", "a.example.org", "/", io.MultiReader(strings.NewReader("12345")))
		return err == nil && a.code == 413
	})
	w.ingress("web", "a.example.org", map[string]string{"enable-cors": "true", "cors-allow-origin": "https://*.example.com"})
	wait(t, func() bool {
		a, err := w.ask("GET", "a.example.org", "/", nil, "Origin", "https://x.example.com")
		return err == nil && a.header.Get("Access-Control-Allow-Origin") == "https://x.example.com"
	})
	if a := w.get("a.example.org", "/", "Origin", "https://example.com.evil.org"); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin is allowed: %v", a.header)
	}
}

// pair is a new certificate and its key, in PEM.
func pair(t *testing.T) map[string][]byte {
	c, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}
}

// TestTLS: a host shows its Secret's certificate, another one when that is renewed, over connections that last, and goes on with the last
// that was one. A host without has one that nobody trusts.
func TestTLS(t *testing.T) {
	w := newWorld(t, nil)
	w.service("web", backend(t, named("web")).URL)
	first, second := pair(t), pair(t)
	w.secrets.put("cert", first)
	w.ingress("web", "a.example.org", nil, networkingv1.IngressTLS{Hosts: []string{"a.example.org"}, SecretName: "cert"})
	w.until("a.example.org", "/", 308)
	shown := func(host string) []byte {
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.opts.HTTPS), &tls.Config{InsecureSkipVerify: true, ServerName: host})
		if err != nil {
			return nil
		}
		defer c.Close()
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ConnectionState().PeerCertificates[0].Raw})
	}
	shows := func(want []byte) {
		t.Helper()
		wait(t, func() bool { return bytes.Equal(shown("a.example.org"), want) })
	}
	shows(first["tls.crt"])
	if other := shown("b.example.org"); len(other) == 0 || bytes.Equal(other, first["tls.crt"]) {
		t.Error("another host shows no certificate, or this one's")
	}
	// One connection lasts over the change.
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "a.example.org"}}}
	t.Cleanup(client.CloseIdleConnections)
	over := func() string {
		r, _ := http.NewRequest(http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", w.opts.HTTPS), nil)
		r.Host = "a.example.org"
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		body, _ := io.ReadAll(a.Body)
		return fmt.Sprint(a.Proto, " ", string(body))
	}
	if got := over(); got != "HTTP/2.0 web a.example.org /" {
		t.Errorf("over TLS: %s", got)
	}
	w.secrets.put("cert", second)
	w.SecretChanged("shop", "cert")
	shows(second["tls.crt"])
	over()
	w.secrets.put("cert", map[string][]byte{"tls.crt": []byte("nothing"), "tls.key": first["tls.key"]})
	w.SecretChanged("shop", "cert")
	over()
	shows(second["tls.crt"])
}

// TestRetries: one endpoint cannot be reached, and another one ends connections without an answer: what may be asked twice is answered.
func TestRetries(t *testing.T) {
	w := newWorld(t, nil)
	dead := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	var posts sync.Map
	broken := backend(t, func(w http.ResponseWriter, r *http.Request) {
		posts.Store(r.Method, true)
		panic(http.ErrAbortHandler)
	})
	good := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	})
	w.ingress("web", "a.example.org", nil)
	w.service("web", dead, good.URL)
	w.until("a.example.org", "/", 200)
	for range 20 {
		if a, err := w.ask(http.MethodPost, "a.example.org", "/", strings.NewReader("body")); err != nil || a.body != "POST body" {
			t.Fatalf("a request that was not sent is not asked for again: %v %v", a, err)
		}
	}
	w.service("web", broken.URL, good.URL)
	wait(t, func() bool { w.get("a.example.org", "/"); _, asked := posts.Load("GET"); return asked })
	for range 20 {
		if a := w.get("a.example.org", "/"); a.code != 200 {
			t.Fatalf("a GET gets %d", a.code)
		}
	}
	failed := false
	for range 20 {
		a, err := w.ask(http.MethodPost, "a.example.org", "/", strings.NewReader("x"))
		failed = failed || err == nil && a.code == 502
	}
	if !failed {
		t.Error("a POST that may have been done is done again")
	}
}

// TestRollout: under load, endpoints come and go; no request fails.
func TestRollout(t *testing.T) {
	w := newWorld(t, nil)
	w.ingress("web", "a.example.org", nil)
	old := httptest.NewServer(named("0"))
	w.service("web", old.URL)
	w.until("a.example.org", "/", 200)
	stop, failures := make(chan struct{}), make(chan error, 1)
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, _ := http.NewRequest(http.MethodGet, w.url("/"), nil)
				r.Host = "a.example.org"
				a, err := client.Do(r)
				if err == nil {
					_, err = io.Copy(io.Discard, a.Body)
					err = errors.Join(err, a.Body.Close())
					if a.StatusCode != 200 {
						err = fmt.Errorf("code %d", a.StatusCode)
					}
				}
				if err != nil {
					select {
					case failures <- err:
					default:
					}
				}
			}
		})
	}
	for n := range 10 {
		next := httptest.NewServer(named(strconv.Itoa(n + 1)))
		w.service("web", old.URL, next.URL)
		time.Sleep(20 * time.Millisecond)
		w.service("web", next.URL)
		old.Close() // at once: what is on its way is answered, and nothing more is taken
		old = next
	}
	close(stop)
	load.Wait()
	old.Close()
	select {
	case err := <-failures:
		t.Errorf("a request failed: %v", err)
	default:
	}
}

// TestTakenPort: a port that somebody else has is told, and taken when it is free.
func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 10)
	w := newWorld(t, func(o *Options) {
		o.HTTP = uint16(l.Addr().(*net.TCPAddr).Port)
		o.Changed = func() { changed <- struct{}{} }
	})
	w.service("web", backend(t, named("web")).URL)
	if w.Trouble() != "" {
		t.Errorf("there is trouble though nothing is to be served: %s", w.Trouble())
	}
	w.ingress("web", "a.example.org", nil)
	wait(t, func() bool { return strings.Contains(w.Trouble(), "address already in use") })
	<-changed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.until("a.example.org", "/", 200)
	wait(t, func() bool { return w.Trouble() == "" })
}

// TestUpgrade: a connection becomes something else, as a WebSocket, both ways.
func TestUpgrade(t *testing.T) {
	w := newWorld(t, nil)
	w.service("web", backend(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		line, _ := rw.ReadString('\n')
		fmt.Fprintf(c, "heard %s", line)
	}).URL)
	w.ingress("web", "a.example.org", nil)
	wait(t, func() bool { return !w.table.Load().Empty() })
	var c net.Conn
	wait(t, func() bool {
		var err error
		c, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.opts.HTTP))
		return err == nil
	})
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	a, err := http.ReadResponse(r, nil)
	if err != nil || a.StatusCode != 101 {
		t.Fatalf("no upgrade: %v %v", a, err)
	}
	fmt.Fprint(c, "hello\n")
	if line, err := r.ReadString('\n'); line != "heard hello\n" {
		t.Errorf("heard %q, %v", line, err)
	}
}

// TestHTTP2Backend: backends of GRPC are spoken to in HTTP/2 in the clear, with trailers.
func TestHTTP2Backend(t *testing.T) {
	w := newWorld(t, nil)
	b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Proto, body)
		w.Header().Set("Grpc-Status", "0")
	}))
	b.Config.Protocols = &http.Protocols{}
	b.Config.Protocols.SetUnencryptedHTTP2(true)
	b.Start()
	t.Cleanup(b.Close)
	w.service("web", b.URL)
	w.ingress("web", "a.example.org", map[string]string{"backend-protocol": "GRPC"})
	w.until("a.example.org", "/", 200)
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	t.Cleanup(client.CloseIdleConnections)
	r, _ := http.NewRequest(http.MethodPost, w.url("/"), strings.NewReader("x"))
	r.Host = "a.example.org"
	a, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, _ := io.ReadAll(a.Body)
	if string(body) != "HTTP/2.0 x" || a.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%s, trailers %v", body, a.Trailer)
	}
}
