package access

import (
	"slices"
	"strings"
	"testing"
)

// TestPolicies: of which images a pod has to show that it can pull them, by the kubelet's documentation of each policy.
func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		policy  string
		allowed []string
		image   string
		pulled  bool
		asks    bool
	}{
		{"", nil, "reg.test/a:1", false, false},
		{"", nil, "reg.test/a:1", true, true},
		{"NeverVerifyPreloadedImages", nil, "reg.test/a:1", false, false},
		{"NeverVerifyPreloadedImages", nil, "reg.test/a:1", true, true},
		{"NeverVerify", nil, "reg.test/a:1", true, false},
		{"AlwaysVerify", nil, "reg.test/a:1", false, true},
		{"NeverVerifyAllowlistedImages", nil, "reg.test/a:1", false, true},
		{"NeverVerifyAllowlistedImages", []string{"reg.test/a"}, "reg.test/a:1", true, false},
		{"NeverVerifyAllowlistedImages", []string{"reg.test/a"}, "reg.test/a@sha256:" + strings.Repeat("0", 64), true, false},
		{"NeverVerifyAllowlistedImages", []string{"reg.test/a"}, "reg.test/ab:1", false, true},
		{"NeverVerifyAllowlistedImages", []string{"reg.test/*"}, "reg.test/a/b:1", true, false},
		{"NeverVerifyAllowlistedImages", []string{"reg.test:5000/a/*"}, "reg.test:5000/b:1", true, true},
	} {
		v, err := Parse(c.policy, c.allowed)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Asks(c.image, c.pulled); got != c.asks {
			t.Errorf("%s %q, %s, pulled %v: asks %v", c.policy, c.allowed, c.image, c.pulled, got)
		}
	}
	for _, c := range []struct {
		policy  string
		allowed []string
		want    string
	}{
		{"Sometimes", nil, `unknown policy "Sometimes"`},
		{"NeverVerify", []string{"a"}, "for the policy NeverVerifyAllowlistedImages alone"},
		{"NeverVerifyAllowlistedImages", []string{"reg.test/a:1"}, "it has a tag or a digest"},
		{"NeverVerifyAllowlistedImages", []string{"reg.test/a@sha256:" + strings.Repeat("0", 64)}, "it has a tag or a digest"},
		{"NeverVerifyAllowlistedImages", []string{"*"}, "a star may only stand behind"},
		{"NeverVerifyAllowlistedImages", []string{"/*"}, "a star may only stand behind"},
		{"NeverVerifyAllowlistedImages", []string{"*.test/*"}, "a star may only stand behind"},
		{"NeverVerifyAllowlistedImages", []string{"reg*"}, "a star may only stand behind"},
		{"NeverVerifyAllowlistedImages", []string{" a"}, "spaces"},
		{"NeverVerifyAllowlistedImages", []string{""}, "repository name"},
	} {
		if _, err := Parse(c.policy, c.allowed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want %q", c.policy, c.allowed, err, c.want)
		}
	}
}

// TestAdmits: a pod may use what came without a secret, with its own, or with one of the same content; a Secret whose content
// changed is believed, as the kubelet does.
func TestAdmits(t *testing.T) {
	secret := func(namespace, name, hash string) Secret {
		return Secret{UID: namespace + name, Namespace: namespace, Name: name, Hash: hash}
	}
	known, changed := Record{Image: "sha256:1"}.Add("reg.test/a", Access{Secrets: []Secret{secret("shop", "pull", "1")}})
	if !changed {
		t.Fatal("a first secret is no change")
	}
	open, _ := known.Add("reg.test/open", Access{Anyone: true})
	for name, c := range map[string]struct {
		record     Record
		repository string
		has        []Secret
		ok         bool
		learned    []Secret
	}{
		"no secret":          {known, "reg.test/a", nil, false, nil},
		"the secret":         {known, "reg.test/a", []Secret{secret("shop", "pull", "1")}, true, nil},
		"the same content":   {known, "reg.test/a", []Secret{secret("bank", "own", "1")}, true, []Secret{secret("bank", "own", "1")}},
		"changed content":    {known, "reg.test/a", []Secret{secret("shop", "pull", "2")}, true, []Secret{secret("shop", "pull", "2")}},
		"another secret":     {known, "reg.test/a", []Secret{secret("bank", "own", "2")}, false, nil},
		"no hash":            {known, "reg.test/a", []Secret{secret("bank", "own", "")}, false, nil},
		"made anew":          {known, "reg.test/a", []Secret{{UID: "2", Namespace: "shop", Name: "pull", Hash: "2"}}, false, nil},
		"the second":         {known, "reg.test/a", []Secret{secret("bank", "own", "2"), secret("shop", "pull", "1")}, true, nil},
		"another repository": {known, "reg.test/b", []Secret{secret("shop", "pull", "1")}, false, nil},
		"pulled by anyone":   {open, "reg.test/open", nil, true, nil},
		"of nothing known":   {Record{}, "reg.test/a", []Secret{secret("shop", "pull", "1")}, false, nil},
	} {
		ok, learned := c.record.Admits(c.repository, c.has)
		if ok != c.ok || !slices.Equal(learned.Secrets, c.learned) {
			t.Errorf("%s: %v, learned %+v", name, ok, learned)
		}
	}
}

func TestAdd(t *testing.T) {
	a, b := Secret{"1", "shop", "a", "1"}, Secret{"2", "shop", "b", "2"}
	first, _ := Record{}.Add("r", Access{Secrets: []Secret{b}})
	second, changed := first.Add("r", Access{Secrets: []Secret{a}})
	if !changed || !slices.Equal(second.Access["r"].Secrets, []Secret{a, b}) || len(first.Access["r"].Secrets) != 1 {
		t.Errorf("a second secret: %v, %+v, before %+v", changed, second, first)
	}
	if _, changed := second.Add("r", Access{Secrets: []Secret{b}}); changed {
		t.Error("what is known is a change")
	}
	if _, changed := second.Add("r", Access{}); changed {
		t.Error("nothing is a change")
	}
	a.Hash = "3"
	if third, changed := second.Add("r", Access{Secrets: []Secret{a}}); !changed || third.Access["r"].Secrets[0].Hash != "3" {
		t.Errorf("a new hash: %v, %+v", changed, third)
	}
	open, changed := second.Add("r", Access{Anyone: true})
	if !changed || !open.Access["r"].Anyone || open.Access["r"].Secrets != nil {
		t.Errorf("open: %v, %+v", changed, open)
	}
	if _, changed := open.Add("r", Access{Secrets: []Secret{a}}); changed {
		t.Error("a secret for what is open is a change")
	}
	many := Record{}
	for i := range maxSecrets {
		many, _ = many.Add("r", Access{Secrets: []Secret{{UID: string(rune('a' + i)), Hash: "1"}}})
	}
	if ok, learned := many.Admits("r", []Secret{{UID: "other", Hash: "1"}}); !ok || learned.Secrets != nil {
		t.Errorf("beyond the bound: %v, %+v", ok, learned)
	}
}
