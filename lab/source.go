package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

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

// profiles are those of the scheduler that pods in a lab may name.
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

// writeConfig writes the configuration of the lab's daemon.
func (l *Lab) writeConfig(sources []v1alpha1.Source) error {
	documents := []string{profiles}
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

// configured are the sources of the lab's daemon as they were written last.
func (l *Lab) configured() ([]v1alpha1.Source, error) {
	return config.Read(l.configFile(), func(*config.Document) error { return nil })
}

// sources returns the lab's sources, those on the hub complete.
func (l *Lab) sources() ([]v1alpha1.Source, error) {
	var out []v1alpha1.Source
	if path := l.state.Options.Config; path != "" {
		declared := false
		read, err := config.Read(path, func(*config.Document) error { declared = true; return nil })
		if err != nil {
			return nil, err
		}
		if declared {
			return nil, fmt.Errorf("cannot use %s: a lab has scheduler profiles of its own", path)
		}
		out = read
	}
	for _, text := range l.state.Options.Sources {
		source, err := config.ParseFlag(text)
		if err != nil {
			return nil, err
		}
		out = append(out, source)
	}
	for i := range out {
		l.atHub(&out[i])
	}
	return out, config.Unique(out)
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
