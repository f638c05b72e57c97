package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"lockstep/internal/near"
	"lockstep/kinds"
)

// verbs are what Kubernetes' rules grant.
func verbs() []string {
	return []string{
		"approve", "attest", "bind", "create", "delete", "deletecollection", "escalate", "get", "impersonate", "list", "patch", "proxy",
		"sign", "update", "use", "watch",
	}
}

// misspelt names the first resource or verb of a role's rules that is none and is nearly one: it grants nothing. What is near to nothing
// may be of others, as the resources of operators are, and is let be.
func misspelt(rules []rbacv1.PolicyRule) string {
	for i, rule := range rules {
		for _, verb := range rule.Verbs {
			if verb == rbacv1.VerbAll || slices.Contains(verbs(), verb) {
				continue
			}
			if meant := near.Of(verb, verbs()); meant != "" {
				return fmt.Sprintf("rule %d: there is no verb %s: did you mean %s?", i, verb, meant)
			}
		}
		served := map[string]bool{}
		for _, k := range kinds.All {
			if slices.Contains(rule.APIGroups, k.Group) {
				served[k.Resource] = true
			}
		}
		for _, resource := range rule.Resources {
			name, _, _ := strings.Cut(resource, "/")
			if served[name] || name == rbacv1.ResourceAll {
				continue
			}
			if meant := near.Of(name, slices.Sorted(maps.Keys(served))); meant != "" && near.Distance(name, meant) <= slips {
				return fmt.Sprintf("rule %d: there is no resource %s: did you mean %s?", i, name, meant)
			}
		}
	}
	return ""
}

// slips is how many letters of a resource may be wrong: with more it is likely another one.
const slips = 2
