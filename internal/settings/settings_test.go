package settings

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	d := Default()
	if err := d.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	six := netip.MustParsePrefix("fd00:43::/112")
	if err := (Settings{ServiceCIDRs: append(d.ServiceCIDRs, six)}).Or(d).Validate(); err != nil {
		t.Errorf("two families: %v", err)
	}
	for want, s := range map[string]Settings{
		"overlaps":          {PodCIDRs: d.ServiceCIDRs},
		"of its family":     {PodCIDRs: append(d.PodCIDRs, netip.MustParsePrefix("10.44.0.0/16"))},
		"want 10.96.0.0/12": {ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/12")}},
		"no tenth address":  {ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/29")}},
		"not a range":       {NodePorts: Ports{40000, 30000}},
		`domain "Cluster."`: {Domain: "Cluster."},
	} {
		if err := s.Or(d).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if (Settings{}).Validate() == nil {
		t.Error("nothing is valid")
	}
}

func TestAddresses(t *testing.T) {
	d := Default()
	got := fmt.Sprint(d.API(), d.DNS(), d.Reserved())
	if got != "[10.43.0.1] [10.43.0.10] map[10.43.0.1:default/kubernetes 10.43.0.10:kube-system/kube-dns]" {
		t.Error(got)
	}
}

func TestDiffer(t *testing.T) {
	given := Settings{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}.Or(Default())
	err := Differ("by flag", given, "in the store", Default())
	if err == nil || err.Error() != "the service network is 10.96.0.0/12 by flag and 10.43.0.0/16 in the store" {
		t.Error(err)
	}
	if !given.Equal(given) || given.Equal(Default()) {
		t.Error("equality is not what differs")
	}
}

// TestEncoding holds the stored form: what one release stores, all later ones read.
func TestEncoding(t *testing.T) {
	const stored = `{"podCIDRs":["10.42.0.0/16"],"serviceCIDRs":["10.43.0.0/16"],"domain":"cluster.local","nodePorts":[30000,32767]}`
	if got := string(Default().Encode()); got != stored {
		t.Error(got)
	}
	for _, text := range []string{stored, "", `{}`, `{"domain":"cluster.local","more":1}`} {
		if got, err := Decode([]byte(text)); err != nil || !got.Equal(Default()) {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{`{"domain":7}`, `{"podCIDRs":["10.43.0.0/16"]}`} {
		if _, err := Decode([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "cannot read the cluster's settings: ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestParseCIDRs(t *testing.T) {
	if got, err := ParseCIDRs([]string{"10.0.0.0/8", "fd00::/64"}); err != nil || join(got) != "10.0.0.0/8,fd00::/64" {
		t.Error(got, err)
	}
	for _, bad := range [][]string{{"10.0.0.0"}, {"10.0.0.0/8", "10.0.0.0/8"}, {""}} {
		if _, err := ParseCIDRs(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestPorts(t *testing.T) {
	for text, want := range map[string]Ports{"": {}, "30000-32767": {30000, 32767}, "8000-8000": {8000, 8000}, "20000+99": {20000, 20099}} {
		if got, err := ParsePorts(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"a-b", "3-2", "1-70000", "30000-", "-"} {
		if got, err := ParsePorts(bad); err == nil || !strings.Contains(err.Error(), "want FIRST-LAST") {
			t.Errorf("%q is %v, %v", bad, got, err)
		}
	}
	for port, refused := range map[int32]bool{79: true, 80: false, 90: false, 91: true} {
		if got := (Ports{80, 90}).Refuses(port); (got != "") != refused || refused && !strings.HasSuffix(got, " 80-90") {
			t.Errorf("%d: %q", port, got)
		}
	}
}
