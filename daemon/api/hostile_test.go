package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"lockstep/daemon/rights"
)

// held are the goroutines and descriptors of this process.
func held(t *testing.T) (goroutines, descriptors int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(files)
}

// TestNothingIsHeldOfTheAborted: a thousand requests of every kind are given up at every moment; afterwards the server holds
// what it held before.
func TestNothingIsHeldOfTheAborted(t *testing.T) {
	agents := fakeAgents{func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}}
	s := newTestServer(t, agents, testCluster()...)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.authority.PEM())
	who := map[string]*rest.Config{"viewer": s.viewer(), "node": s.node("n1")}
	requests := []struct{ who, method, path, head, body string }{
		{"viewer", "GET", "/api/v1/pods?watch=true&allowWatchBookmarks=true", "", ""},
		{"viewer", "GET",
			"/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "", ""},
		{"viewer", "GET", "/api/v1/pods?limit=1", "", ""},
		{"viewer", "GET", "/api/v1/namespaces/shop/pods/cart-1-a/log?follow=true", "", ""},
		{"viewer", "GET", "/api/v1/namespaces/shop/pods/cart-1-a/log?follow=true",
			"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
			""},
		{"viewer", "GET", "/openapi/v3", "", ""},
		{"viewer", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
			"Content-Type: application/json\r\nContent-Length: 100000\r\n", "{"},
		{"node", "PATCH", "/api/v1/nodes/n1/status",
			"Content-Type: application/strategic-merge-patch+json\r\nContent-Length: 100000\r\n", "{"},
		{"node", "POST", "/api/v1/namespaces/shop/events", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
			"5\r\n{\"kin\r\n"},
		{"node", "GET", rights.TunnelPath, "Connection: Upgrade\r\nUpgrade: lockstep-tunnel\r\n", ""},
		{"node", "GET", "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1", "", ""},
		{"node", "POST", rights.JoinPath, "Content-Length: 1000\r\n", "{"},
	}
	abort := func(i int) {
		r := requests[i%len(requests)]
		pair := who[r.who].TLSClientConfig
		cert, err := tls.X509KeyPair(pair.CertData, pair.KeyData)
		if err != nil {
			t.Error(err)
			return
		}
		c, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s", r.method, r.path, r.head, r.body) // a refusal may come before
		if i%3 > 0 {
			_ = c.SetReadDeadline(time.Now().Add(time.Duration(i%7) * time.Millisecond))
			_, _ = io.CopyN(io.Discard, c, 1)
		}
	}
	all := func(n int) {
		var group sync.WaitGroup
		for worker := range 8 {
			group.Go(func() {
				for i := worker; i < n; i += 8 {
					abort(i)
				}
			})
		}
		group.Wait()
	}
	all(5 * len(requests)) // what is made once
	settled := func(most, files int) (int, int) {
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			goroutines, descriptors := held(t)
			if goroutines <= most && descriptors <= files || time.Now().After(deadline) {
				return goroutines, descriptors
			}
		}
	}
	time.Sleep(2 * time.Second)
	goroutines, descriptors := held(t)
	all(1000)
	const some = 10 // that come and go by themselves
	if now, files := settled(goroutines+some, descriptors+some); now > goroutines+some || files > descriptors+some {
		t.Errorf("%d goroutines and %d descriptors before, %d and %d after", goroutines, descriptors, now, files)
	}
	if code, _ := s.ask(s.viewer(), "GET", "/api/v1/pods", ""); code != http.StatusOK {
		t.Errorf("afterwards: %d", code)
	}
}

// TestHostileQueries: what a viewer puts into a request is refused or answered soon, never by a panic.
func TestHostileQueries(t *testing.T) {
	s := newTestServer(t, nil, testCluster()...)
	viewer := s.viewer()
	long := strings.Repeat("a", 60)
	many := func(n int, each func(i int) string) string {
		var parts []string
		for i := range n {
			parts = append(parts, each(i))
		}
		return strings.Join(parts, ",")
	}
	for name, query := range map[string]url.Values{
		"a selector of many parts": {
			"labelSelector": {many(5_000, func(i int) string { return fmt.Sprintf("%s%d=%s", long, i, long) })},
		},
		"a selector of many values": {
			"labelSelector": {"a in (" + many(10_000, func(i int) string { return fmt.Sprint(long, i) }) + ")"},
		},
		"a selector that is taken":    {"labelSelector": {"a in (" + many(450, func(i int) string { return fmt.Sprint(long, i) }) + ")"}},
		"brackets without end":        {"labelSelector": {strings.Repeat("(", 250_000)}},
		"a field selector, escaped":   {"fieldSelector": {strings.Repeat(`metadata.name=a\,`, 30_000)}},
		"a selector of a huge number": {"labelSelector": {"a>" + strings.Repeat("9", 100_000)}},
		"no number":                   {"resourceVersion": {"-1"}},
		"a number too large":          {"resourceVersion": {"18446744073709551616"}},
		"the largest number": {"resourceVersion": {fmt.Sprint(uint64(math.MaxUint64))}, "watch": {"true"},
			"timeoutSeconds": {"1"}},
		"the largest signed number": {"resourceVersion": {fmt.Sprint(math.MaxInt64)}, "timeoutSeconds": {"1"}},
		"a match without a version": {"resourceVersionMatch": {"Exact"}},
		"a negative limit":          {"limit": {"-9223372036854775808"}},
		"the largest limit":         {"limit": {"9223372036854775807"}},
		"no token":                  {"limit": {"1"}, "continue": {strings.Repeat("A", 500_000)}},
		"a token of another":        {"limit": {"1"}, "continue": {"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiLi4vLi4vIn0"}},
		"a negative timeout":        {"watch": {"true"}, "timeoutSeconds": {"-9223372036854775808"}},
		"odd bytes":                 {"labelSelector": {"\x00\xff=\n"}, "fieldSelector": {"\r\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			code, body := s.brief(t, viewer, "/api/v1/pods?"+query.Encode())
			took := time.Since(began)
			t.Logf("%d in %s: %.150s", code, took.Round(time.Millisecond), body)
			if code >= 500 || took > 10*time.Second || len(query.Encode()) > maxURI != (code == http.StatusRequestEntityTooLarge) {
				t.Errorf("%d in %s: %.300s", code, took, body)
			}
		})
	}
	unknown := rest.AnonymousClientConfig(viewer)
	values := many(10_000, func(i int) string { return fmt.Sprint(long, i) })
	if code, body := s.brief(t, unknown, "/api/v1/pods?labelSelector=a+in+("+values+")"); code != http.StatusRequestEntityTooLarge {
		t.Errorf("of nobody: %d %s", code, body)
	}
	for name, body := range map[string]string{
		"deep":  strings.Repeat(`{"a":`, 10_000),
		"lists": `{"metadata":{"labels":` + strings.Repeat("[", 60_000),
		"large": strings.Repeat(" ", 1<<20),
		"a whole deep object": `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":` +
			strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000) + "}}",
		"many keys": `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","metadata":{"labels":{` +
			many(5_000, func(i int) string { return fmt.Sprintf(`"k%d":"v"`, i) }) + `}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			code, answer := send(t, viewer, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json", body)
			t.Logf("%d in %s: %.150s", code, time.Since(began).Round(time.Millisecond), answer)
			if code >= 500 || time.Since(began) > 20*time.Second {
				t.Errorf("%d in %s: %.300s", code, time.Since(began), answer)
			}
		})
	}
}

// brief asks and waits for some seconds; a watch that goes on is an answer.
func (s *testServer) brief(t *testing.T, config *rest.Config, path string) (int, string) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	first := make([]byte, 300)
	n, _ := response.Body.Read(first) // a watch may have nothing to say
	return response.StatusCode, string(first[:n])
}
