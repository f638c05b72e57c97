package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"lockstep/daemon/config"
	"lockstep/kinds/v1alpha1"
)

// lookEvery is how often a lab looks at its own repositories: people wait for it, and the hub is next door.
const lookEvery = 2 * time.Second

// writeConfig writes the configuration of the lab's daemon: its sources, those on the hub with the hub's keys and forge.
func (l *Lab) writeConfig() (string, error) {
	var documents []string
	if l.state.Options.Config != "" {
		raw, err := os.ReadFile(l.state.Options.Config)
		if err != nil {
			return "", fmt.Errorf("cannot configure the lab's daemon: %w", err)
		}
		documents = append(documents, string(raw))
	}
	for _, text := range l.state.Options.Sources {
		source, err := config.ParseFlag(text)
		if err != nil {
			return "", err
		}
		l.atHub(&source)
		raw, err := yaml.Marshal(source)
		if err != nil {
			return "", fmt.Errorf("cannot configure the lab's daemon: %w", err)
		}
		documents = append(documents, string(raw))
	}
	path := filepath.Join(l.dir, "daemon.yaml")
	if err := os.WriteFile(path, []byte(strings.Join(documents, "\n---\n")), 0o600); err != nil {
		return "", fmt.Errorf("cannot configure the lab's daemon: %w", err)
	}
	return path, nil
}

// atHub fills in how a source on the hub is reached and where its statuses go; it leaves every other one alone.
func (l *Lab) atHub(s *v1alpha1.Source) {
	web := fmt.Sprintf("http://%s:%d", HubAddr, GitPort)
	overSSH := fmt.Sprintf("ssh://git@%s:%d/", HubAddr, SSHPort)
	path, ok := strings.CutPrefix(s.Spec.URL, web+"/")
	if !ok {
		if path, ok = strings.CutPrefix(s.Spec.URL, overSSH); !ok {
			return
		}
		s.Spec.Credentials = &v1alpha1.Credentials{SSHKeyFile: l.SSHKey(), KnownHostsFile: l.KnownHosts()}
	}
	s.Spec.Interval = metav1.Duration{Duration: lookEvery}
	s.Spec.Forge = &v1alpha1.Forge{Type: "gitea", URL: web, Repository: strings.TrimSuffix(path, ".git")}
}
