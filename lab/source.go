package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	yamlv3 "gopkg.in/yaml.v3"
	"sigs.k8s.io/yaml"

	"lockstep/daemon/config"
	"lockstep/kinds/v1alpha1"
)

// URLs of the hub's repositories begin with these.
var (
	hubHTTP = fmt.Sprintf("http://%s:%d", HubAddr, GitPort)
	hubSSH  = fmt.Sprintf("ssh://git@%s:%d", HubAddr, SSHPort)
)

// configFile is the configuration of the lab's daemon. What somebody adds to it is there when the daemon is started again.
func (l *Lab) configFile() string { return filepath.Join(l.dir, "daemon.yaml") }

// profiles are those of the scheduler that pods in a lab may name where nobody declares others.
const profiles = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: last
  plugins: {score: {enabled: [{name: Expression, weight: 50}]}}
  pluginConfig: [{name: Expression, args: {expression: 'node.name.endsWith("agent2") ? 100 : 0'}}]
- schedulerName: only-last
  pluginConfig:
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchExpressions: [{key: example.com/last, operator: Exists}]}]
- schedulerName: failing
  pluginConfig: [{name: Expression, args: {expression: 'int(node.labels["example.com/rack"])'}}]
`

// writeConfig writes the configuration of the lab's daemon: documents that declare profiles, and sources.
func (l *Lab) writeConfig(documents []string, sources []v1alpha1.Source) error {
	documents = slices.Clone(documents)
	for _, source := range sources {
		raw, err := yaml.Marshal(source)
		if err != nil {
			return fmt.Errorf("cannot configure the lab's daemon: %w", err)
		}
		documents = append(documents, string(raw))
	}
	if err := os.WriteFile(l.configFile(), []byte(strings.Join(documents, "\n---\n")), 0o600); err != nil {
		return fmt.Errorf("cannot configure the lab's daemon: %w", err)
	}
	return nil
}

// read returns what a configuration file states: the documents that declare profiles as they are, and the sources.
func read(path string) (documents []string, sources []v1alpha1.Source, err error) {
	sources, err = config.Read(path, func(d *config.Document) error {
		raw, err := yamlv3.Marshal(d)
		documents = append(documents, string(raw))
		return err
	})
	return documents, sources, err
}

// configured is what the configuration of the lab's daemon states as it was written last.
func (l *Lab) configured() ([]string, []v1alpha1.Source, error) { return read(l.configFile()) }

// stated returns the profiles of the lab's scheduler and its sources, those on the hub complete, as its options state them.
func (l *Lab) stated() ([]string, []v1alpha1.Source, error) {
	documents, out := []string{profiles}, []v1alpha1.Source(nil)
	if path := l.state.Options.Config; path != "" {
		declared, sources, err := read(path)
		if err != nil {
			return nil, nil, err
		}
		if len(declared) > 0 {
			documents = declared
		}
		out = sources
	}
	for _, text := range l.state.Options.Sources {
		source, err := config.ParseFlag(text)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, source)
	}
	for i := range out {
		l.atHub(&out[i])
	}
	return documents, out, config.Unique(out)
}

// hubRepository returns the repository, owner/name, that a URL names on the hub; empty for a URL elsewhere.
func (l *Lab) hubRepository(url string) string {
	for _, base := range []string{hubHTTP, hubSSH} {
		if path, ok := strings.CutPrefix(url, base+"/"); ok {
			return strings.TrimSuffix(strings.TrimRight(path, "/"), ".git")
		}
	}
	return ""
}

// atHub fills in how a source on the hub is reached, where its statuses go, and what signs its webhooks, unless the source
// says so itself; it leaves every other one alone.
func (l *Lab) atHub(s *v1alpha1.Source) {
	repository := l.hubRepository(s.Spec.URL)
	if repository == "" {
		return
	}
	if s.Spec.Credentials == nil && strings.HasPrefix(s.Spec.URL, hubSSH) {
		s.Spec.Credentials = &v1alpha1.Credentials{SSHKeyFile: l.SSHKey(), KnownHostsFile: l.KnownHosts()}
	}
	if s.Spec.Forge != nil {
		return
	}
	s.Spec.Forge = &v1alpha1.Forge{Type: "gitea", URL: hubHTTP, Repository: repository, WebhookSecretFile: l.webhookSecret()}
}
