package profiles

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadProfiles(t *testing.T) {
	const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n"
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "lockstep.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sources, profiles, err := Read(write(head + `- schedulerName: packing
  plugins: {score: {enabled: [{name: NodeResourcesFit, weight: 7}, {name: Expression}], disabled: [{name: "*"}]}}
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu}]}}}
  - {name: PodTopologySpread, args: {defaultingType: List}}
  - {name: Expression, args: {expression: "1"}}
- {}
---
apiVersion: lockstep.dev/v1alpha1
kind: Source
metadata: {name: a}
spec: {folder: /a}
`))
	if err != nil || len(profiles) != 2 || len(sources) != 1 {
		t.Fatalf("Read = %+v, %+v, %v", sources, profiles, err)
	}
	p := profiles[0]
	if p.Name != "packing" || p.Fit.Strategy != "MostAllocated" || p.Fit.Resources[0].Weight != 1 || p.Weights["NodeResourcesFit"] != 7 ||
		p.Weights["Expression"] != 1 || p.Weights["ImageLocality"] != 0 || p.Spread == nil || len(*p.Spread) != 0 || p.Expression == nil {
		t.Errorf("the profile is %+v", p)
	}
	if profiles[1].Name != "default-scheduler" {
		t.Errorf("a profile without a name is %q", profiles[1].Name)
	}
	const a = "- {schedulerName: a, "
	for text, want := range map[string]string{
		a + "percentageOfNodesToScore: 5}":                     `unknown field "profiles[0].percentageOfNodesToScore"`,
		"- {schedulerName: a}\n- {schedulerName: a}":           `there are two scheduler profiles "a"`,
		a + "pluginConfig: [{name: ImageLocality, args: {}}]}": "pluginConfig ImageLocality: it has no settings",
		a + "pluginConfig: [{name: Expression, args: {expression: 'node.'}}]}": "lockstep.yaml:1: cannot use " +
			`KubeSchedulerConfiguration: profiles[0] a: pluginConfig Expression: cannot use expression "node.": ` +
			"ERROR: <input>:1:6: Syntax error",
		a + "pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [x]}}]}": `unknown field "ignoredResources"`,
		a + "plugins: {score: {enabled: [{name: Beauty}]}}}":                           `there is no score "Beauty"`,
		a + "plugins: {score: {enabled: [{name: ImageLocality, weight: 999}]}}}":       "cannot weigh ImageLocality by 999",
		a + "pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 0}]}}]}": "" +
			"defaultConstraints[0]: want a topologyKey, and a maxSkew of 1 or more",
	} {
		if _, _, err := Read(write(head + text + "\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%q) fails with %v, want %q", text, err, want)
		}
	}
}
