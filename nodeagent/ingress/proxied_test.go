package ingress

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProxies: who is in front is believed where it is trusted, and its header of the PROXY protocol is read.
func TestProxies(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access")
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	w := newWorld(t, func(o *Options) {
		o.Proxied, o.Trusted, o.AccessLog = local, []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}, log
	})
	w.service("web", backend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("X-Forwarded-Proto"))
	}).URL)
	w.ingress("web", "a.example.org", nil)
	ask := func(header string) (string, error) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.opts.HTTP))
		if err != nil {
			return "", err
		}
		defer c.Close()
		fmt.Fprint(c, header, "GET / HTTP/1.1\r\nHost: a.example.org\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n",
			"Connection: close\r\n\r\n")
		a, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return "", err
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		return string(body), err
	}
	wait(t, func() bool { _, err := ask("PROXY TCP4 198.51.100.1 192.0.2.2 1 80\r\n"); return err == nil })
	for header, want := range map[string]string{
		"PROXY TCP4 198.51.100.1 192.0.2.2 1 80\r\n":                                "198.51.100.1 http",
		"PROXY TCP4 203.0.113.7 192.0.2.2 1 80\r\n":                                 "192.0.2.1, 203.0.113.7 https",
		"PROXY TCP6 2001:db8::1 2001:db8::2 1 80\r\n":                               "2001:db8::1 http",
		"PROXY UNKNOWN\r\n":                                                         "127.0.0.1 http",
		magic2 + "\x21\x11\x00\x0c\xc6\x33\x64\x05\xc0\x00\x02\x02\x00\x01\x00\x50": "198.51.100.5 http",
		magic2 + "\x20\x00\x00\x00":                                                 "127.0.0.1 http",
	} {
		if got, err := ask(header); got != want {
			t.Errorf("%q: %q, %v, want %q", header, got, err, want)
		}
	}
	if got, err := ask(""); err == nil && got != "400 Bad Request" {
		t.Errorf("a connection without a header is answered: %q", got)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var got map[string]any
	err = json.Unmarshal([]byte(line), &got)
	if err != nil || got["client"] != "198.51.100.1" || got["ingress"] != "shop/web" || got["code"] != 200.0 {
		t.Errorf("logged %s", line)
	}
}

func FuzzProxy(f *testing.F) {
	f.Add([]byte("PROXY TCP4 198.51.100.1 192.0.2.2 1 80\r\n"))
	f.Add([]byte(magic2 + "\x21\x11\x00\x0c\xc6\x33\x64\x05\xc0\x00\x02\x02\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(append(bytes.Clone(data), "rest"...)))
		if from, err := readProxy(r); err != nil && from.IsValid() {
			t.Errorf("%q is of %v and %v", data, from, err)
		}
	})
}
