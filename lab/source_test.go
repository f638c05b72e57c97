package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	scheduler "lockstep/daemon/config/profiles"
)

// TestProfiles: a lab has the scheduler's profiles that a configuration declares, else its own, and keeps them whatever sources come
// and go.
func TestProfiles(t *testing.T) {
	const declared = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{schedulerName: mine}]\n"
	const source = "apiVersion: lockstep.dev/v1alpha1\nkind: Source\nmetadata: {name: a}\nspec: {folder: /a}\n"
	for want, text := range map[string]string{"mine": declared + "---\n" + source, "last only-last failing": source} {
		l := &Lab{dir: t.TempDir()}
		l.state.Options.Config = filepath.Join(t.TempDir(), "daemon.yaml")
		if err := os.WriteFile(l.state.Options.Config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		documents, sources, err := l.stated()
		for range 2 { // as it is written first, and when a source is added
			if err == nil {
				err = l.writeConfig(documents, sources)
			}
			if err == nil {
				documents, sources, err = l.configured()
			}
		}
		if err != nil || len(sources) != 1 || sources[0].Name != "a" {
			t.Fatalf("%+v, %v", sources, err)
		}
		_, got, err := scheduler.Read(l.configFile())
		var names []string
		for _, p := range got {
			names = append(names, p.Name)
		}
		if strings.Join(names, " ") != want || err != nil {
			t.Errorf("profiles %q, %v, want %s", names, err, want)
		}
	}
}
