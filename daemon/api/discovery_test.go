package api

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDiscoveryPaths follows discovery as clients of every age do, with and without a slash at the end.
func TestDiscoveryPaths(t *testing.T) {
	s := newTestServer(t, nil)
	read := func(path string, into any) {
		t.Helper()
		code, body := s.ask(s.viewer(), "GET", path, "")
		if code != 200 {
			t.Fatalf("GET %s: %d %s", path, code, body)
		}
		if err := json.Unmarshal([]byte(body), into); err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
	}
	for _, slash := range []string{"", "/"} {
		var versions metav1.APIVersions
		read("/api"+slash, &versions)
		if len(versions.Versions) != 1 || versions.Versions[0] != "v1" {
			t.Errorf("/api%s: %v", slash, versions.Versions)
		}
		var core metav1.APIResourceList
		read("/api/v1"+slash, &core)
		var groups metav1.APIGroupList
		read("/apis"+slash, &groups)
		if len(core.APIResources) == 0 || len(groups.Groups) < 5 {
			t.Errorf("%d core resources, %d groups", len(core.APIResources), len(groups.Groups))
		}
		for _, g := range groups.Groups {
			var group metav1.APIGroup
			read("/apis/"+g.Name+slash, &group)
			if len(group.Versions) == 0 || group.PreferredVersion != group.Versions[0] {
				t.Errorf("group %s prefers %v of %v", g.Name, group.PreferredVersion, group.Versions)
			}
			for _, version := range group.Versions {
				var resources metav1.APIResourceList
				read("/apis/"+version.GroupVersion+slash, &resources)
				if resources.GroupVersion != version.GroupVersion || len(resources.APIResources) == 0 {
					t.Errorf("%s has %d resources of %q", version.GroupVersion, len(resources.APIResources), resources.GroupVersion)
				}
			}
		}
	}
}
