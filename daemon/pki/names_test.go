package pki

import (
	"strings"
	"testing"
)

// TestCheckNames: people get names of their own, and none that means more than they were given.
func TestCheckNames(t *testing.T) {
	long := strings.Repeat("a", 65)
	for _, test := range []struct {
		user   string
		groups []string
		want   string // empty: nothing is wrong
	}{
		{"jane@example.com", []string{"dev", "ops team", ViewerGroup}, ""},
		{long[1:], nil, ""},
		{"", nil, `cannot name a user "": it is empty`},
		{"jane", []string{""}, `cannot name a group "": it is empty`},
		{long, nil, "64 characters at most"},
		{"jane\n", nil, "not seen"},
		{"jane", []string{" dev"}, "not seen"},
		{"jane", []string{"system:masters"}, `cannot name a group "system:masters": there is no administrator`},
		{"jane", []string{"system:nodes"}, "the cluster's own parts"},
		{NodeUserPrefix + "n1", nil, "the cluster's own parts"},
		{"system:serviceaccount:shop:web", nil, "the cluster's own parts"},
		{"jane", []string{ServerGroup}, "the cluster's own parts"},
		{ViewerGroup, nil, "the cluster's own parts"},
	} {
		switch err := CheckNames(test.user, test.groups); {
		case test.want == "" && err != nil:
			t.Errorf("%q in %q: %v", test.user, test.groups, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%q in %q: %v, want %q", test.user, test.groups, err, test.want)
		}
	}
}
