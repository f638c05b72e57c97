package nodeagent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/settings"
	"lockstep/nodeagent/pod"
)

// told answers the question for settings.
type told struct {
	code int
	body string
}

// RoundTrip implements http.RoundTripper.
func (t told) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.String() != "https://server:6443/lockstep/v1/settings" {
		return nil, errors.New("asked " + r.URL.String())
	}
	return &http.Response{
		StatusCode: t.code,
		Status:     http.StatusText(t.code),
		Body:       io.NopCloser(strings.NewReader(t.body)),
		Request:    r,
	}, nil
}

func TestSettingsAreLearned(t *testing.T) {
	odd := settings.Settings{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		Domain:       "acme.internal",
	}.Or(settings.Default())
	o := Options{Server: "https://server:6443", NodeName: "n1", DataDir: t.TempDir(), RunDir: t.TempDir()}
	start := func() *Agent {
		t.Helper()
		a, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(a.opts.agentDir(), 0o755); err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := start()
	if got := fmt.Sprint(a.namesAt()); got != "[10.43.0.10]cluster.local" {
		t.Errorf("before it is told: %s", got)
	}
	if err := a.learnSettings(t.Context(), told{200, string(odd.Encode())}); err != nil || !a.settings().Equal(odd) {
		t.Errorf("a new node is told: %v, %v", a.settings(), err)
	}
	a = start()
	if got := fmt.Sprint(a.namesAt()); got != "[10.96.0.10]acme.internal" {
		t.Errorf("it starts without the API: %s", got)
	}
	a.pods[types.UID("u")] = (*pod.Pod)(nil)
	if err := a.learnSettings(t.Context(), told{200, string(odd.Encode())}); err != nil {
		t.Errorf("it is told the same: %v", err)
	}
	err := a.learnSettings(t.Context(), told{404, "{}"})
	want := "cannot go on with other settings, start the agent again: the service network is 10.43.0.0/16 in the cluster and " +
		"10.96.0.0/12 as this node has begun"
	if err == nil || err.Error() != want || !a.settings().Equal(odd) {
		t.Errorf("with pods it is told otherwise: %v", err)
	}
	if a = start(); !a.settings().Equal(settings.Default()) {
		t.Errorf("it starts again with %v", a.settings())
	}
	for _, bad := range []told{{500, ""}, {200, "no"}, {200, `{"domain":"A."}`}} {
		if _, err := a.askSettings(t.Context(), bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
