package command

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"lockstep/daemon"
	"lockstep/daemon/backup"
	"lockstep/daemon/config"
	"lockstep/daemon/config/profiles"
	"lockstep/daemon/encryption"
	"lockstep/daemon/etcd"
	"lockstep/daemon/members"
	"lockstep/internal/giturl"
	"lockstep/internal/settings"
	"lockstep/kinds/v1alpha1"
	"lockstep/reconcilers/scheduler"
)

// daemonFlags are the flags of the control plane; up has them too.
type daemonFlags struct {
	name, cluster, listen, advertise, statusListen, statusURL, config string
	sources, podCIDRs, serviceCIDRs                                   []string
	domain, nodePorts, encryption                                     string
	etcd                                                              daemon.External
	peer, join, token, tokenFile                                      string
	backups                                                           backup.Schedule
}

func (f *daemonFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "`NAME` of this control plane (default: the machine's)")
	flags.StringVar(&f.cluster, "cluster", "lockstep", "`NAME` of the cluster, part of the contexts of commit statuses")
	flags.StringVar(&f.listen, "listen", "0.0.0.0:6443", "`ADDRESS:PORT` to serve the API at")
	flags.StringVar(&f.advertise, "advertise", "",
		"`ADDRESS`, with or without port, at which nodes reach the API (default: the machine's first)")
	flags.StringVar(&f.statusListen, "status-listen", "127.0.0.1:7070", "`ADDRESS:PORT` to serve the status page at")
	flags.StringVar(&f.statusURL, "status-url", "",
		"`URL` at which people reach the status page, for commit statuses (default: the listening address)")
	flags.StringVar(&f.config, "config", "", "`FILE` with Source documents: sources with credentials, forges and all other settings")
	flags.StringSliceVar(&f.podCIDRs, "pod-cidr", nil,
		"`NETWORKS` of pods, at most one a family; a cluster keeps those it is made with (default: 10.42.0.0/16)")
	flags.StringSliceVar(&f.serviceCIDRs, "service-cidr", nil, "`NETWORKS` of services, as --pod-cidr (default: 10.43.0.0/16)")
	flags.StringVar(&f.domain, "cluster-domain", "", "`DOMAIN` of the cluster's names, kept as --pod-cidr (default: cluster.local)")
	flags.StringVar(&f.nodePorts, "service-node-port-range", "",
		"`FIRST-LAST` port of those that nodes open for services, kept as --pod-cidr (default: 30000-32767)")
	flags.StringArrayVar(&f.sources, "source", nil, "`SOURCE` to follow, [NAME=]URL|FOLDER[#branch[:path]]; may be given several times")
	flags.StringVar(&f.encryption, "encryption-config", "",
		"`FILE` with an EncryptionConfiguration: what is sealed in etcd, with which keys (default: Secrets, with the cluster's own)")
	flags.StringSliceVar(&f.etcd.Endpoints, "etcd-endpoints", nil, "`URLS` of an etcd cluster to use instead of the one inside")
	flags.StringVar(&f.join, "join", "",
		"`URL` of a server of the cluster that this one is to be one of, https://ADDRESS:6443; wants --token")
	flags.StringVar(&f.token, "token", "", "`TOKEN` to join with, from lockstep server token; it is needed once")
	flags.StringVar(&f.tokenFile, "token-file", "", "`FILE` with that token")
	flags.StringVar(&f.peer, "peer", "",
		"`ADDRESS:PORT` at which other servers reach this one's etcd; opened once there are others (default: --advertise's, port 2380)")
	flags.StringVar(&f.etcd.CAFile, "etcd-cafile", "", "`FILE` with the CA of --etcd-endpoints")
	flags.StringVar(&f.etcd.CertFile, "etcd-certfile", "", "`FILE` with the client certificate for --etcd-endpoints")
	flags.StringVar(&f.backups.Dir, "backup-dir", "", "`FOLDER` for backups of etcd that are made by themselves (default: none are)")
	flags.DurationVar(&f.backups.Every, "backup-every", 0, "`DURATION` from one such backup to the next (default: 6h)")
	flags.IntVar(&f.backups.Keep, "backup-keep", 0, "`NUMBER` of such backups that are kept (default: 28)")
	flags.StringArrayVar(&f.backups.Recipients, "backup-recipient", nil,
		"age `RECIPIENT` to encrypt them to (age1…); may be given several times")
	flags.StringVar(&f.etcd.KeyFile, "etcd-keyfile", "", "`FILE` with the key of --etcd-certfile")
}

// options turns flags into options; address is the machine's, for what the flags leave out.
func (f *daemonFlags) options(dirs dirFlags, address netip.Addr) (daemon.Options, error) {
	o := daemon.Options{
		Restart: restart, DataDir: dirs.data, RunDir: dirs.run, Name: f.name, Cluster: f.cluster,
		StatusURL: f.statusURL, Etcd: f.etcd, Backups: f.backups,
	}
	if o.Name == "" {
		name, err := nodeName("")
		if err != nil {
			name = "server"
		}
		o.Name = name
	}
	if err := makeable("backup-dir", f.backups.Dir); err != nil {
		return o, err
	}
	if f.backups.Dir != "" {
		var err error
		if o.Backups.Dir, err = filepath.Abs(f.backups.Dir); err != nil {
			return o, unusable("backup-dir", f.backups.Dir, err)
		}
	}
	problems := validation.IsValidLabelValue(f.cluster)
	if f.cluster == "" {
		problems = append(problems, "it is empty")
	}
	if len(problems) > 0 {
		return o, fmt.Errorf("cannot use --cluster %q: %s", f.cluster, strings.Join(problems, "; "))
	}
	var err error
	if o.Listen, err = netip.ParseAddrPort(f.listen); err != nil {
		return o, fmt.Errorf("cannot use --listen %q: want ADDRESS:PORT", f.listen)
	}
	if o.StatusListen, err = netip.ParseAddrPort(f.statusListen); err != nil {
		return o, fmt.Errorf("cannot use --status-listen %q: want ADDRESS:PORT", f.statusListen)
	}
	o.Advertise = netip.AddrPortFrom(address, o.Listen.Port())
	if f.advertise != "" {
		text := f.advertise
		if _, err := netip.ParseAddr(text); err == nil {
			text = strings.Join([]string{text, strconv.Itoa(int(o.Listen.Port()))}, ":")
		}
		if o.Advertise, err = netip.ParseAddrPort(text); err != nil {
			return o, fmt.Errorf("cannot use --advertise %q: want ADDRESS or ADDRESS:PORT", f.advertise)
		}
		if !o.Advertise.Addr().IsGlobalUnicast() {
			return o, fmt.Errorf("cannot use --advertise %q: pods and other nodes cannot reach this address", f.advertise)
		}
	}
	if !etcd.Begun(filepath.Join(dirs.data, "etcd")) { // the token is not needed afterwards, and may be gone
		if err := readable("token-file", f.tokenFile, false); err != nil {
			return o, err
		}
	}
	if o.Join, err = f.target(); err != nil {
		return o, err
	}
	if f.peer != "" {
		if o.Peer, err = netip.ParseAddrPort(f.peer); err != nil || o.Peer.Addr().IsUnspecified() {
			return o, fmt.Errorf("cannot use --peer %q: want ADDRESS:PORT that other servers reach", f.peer)
		}
	}
	for _, file := range []struct{ flag, path string }{
		{"etcd-cafile", f.etcd.CAFile}, {"etcd-certfile", f.etcd.CertFile}, {"etcd-keyfile", f.etcd.KeyFile},
		{"config", f.config}, {"encryption-config", f.encryption},
	} {
		if err := readable(file.flag, file.path, false); err != nil {
			return o, err
		}
	}
	for _, endpoint := range f.etcd.Endpoints {
		if _, _, err := net.SplitHostPort(endpoint); err == nil {
			continue
		}
		if err := wantURL("etcd-endpoints", endpoint, "URLs as https://ADDRESS:2379", "http", "https"); err != nil {
			return o, err
		}
	}
	if err := wantURL("status-url", f.statusURL, "a URL as https://HOST", "http", "https"); err != nil {
		return o, err
	}
	if o.Settings, err = f.settings(); err != nil {
		return o, err
	}
	if f.encryption != "" {
		if o.Encryption, err = encryption.Read(f.encryption); err != nil {
			return o, unusable("encryption-config", f.encryption, err)
		}
	}
	o.Sources, o.Profiles, err = f.configured()
	return o, err
}

// target is the cluster to join, where one is named.
func (f *daemonFlags) target() (members.Target, error) {
	to := members.Target{Server: f.join, Token: f.token}
	switch {
	case f.join == "" && (f.token != "" || f.tokenFile != ""):
		return to, errors.New("cannot use --token without --join: it is for a server that joins others")
	case f.join == "":
		return to, nil
	case f.token != "" && f.tokenFile != "":
		return to, errors.New("cannot join: --token and --token-file exclude each other")
	}
	if err := wantURL("join", f.join, "https://ADDRESS:6443", "https"); err != nil {
		return to, err
	}
	if f.tokenFile != "" {
		raw, _ := os.ReadFile(f.tokenFile) // where it is needed it can be read: see options
		to.Token = strings.TrimSpace(string(raw))
	}
	if to.Token != "" {
		if err := members.CheckToken(to.Token); err != nil {
			return to, fmt.Errorf("cannot join: %w", err)
		}
	}
	return to, nil
}

// settings are those that are given.
func (f *daemonFlags) settings() (settings.Settings, error) {
	given := settings.Settings{Domain: f.domain}
	for _, list := range []struct {
		flag  string
		texts []string
		into  *[]netip.Prefix
	}{{"pod-cidr", f.podCIDRs, &given.PodCIDRs}, {"service-cidr", f.serviceCIDRs, &given.ServiceCIDRs}} {
		var err error
		if *list.into, err = settings.ParseCIDRs(list.texts); err != nil {
			return given, fmt.Errorf("cannot use --%s: %w", list.flag, err)
		}
	}
	var err error
	if given.NodePorts, err = settings.ParsePorts(f.nodePorts); err != nil {
		return given, fmt.Errorf("cannot use --service-node-port-range: %w", err)
	}
	return given, nil
}

// configured is what the configuration file and the flags state.
func (f *daemonFlags) configured() ([]v1alpha1.Source, []scheduler.Profile, error) {
	var out []v1alpha1.Source
	var declared []scheduler.Profile
	if f.config != "" {
		var err error
		if out, declared, err = profiles.Read(f.config); err != nil {
			return nil, nil, err
		}
	}
	for _, text := range f.sources {
		source, err := config.ParseFlag(text)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, source)
	}
	for i := range out {
		if err := hostKeys(&out[i]); err != nil {
			return nil, nil, err
		}
	}
	return out, declared, config.Unique(out)
}

// hostKeys refuses a source by SSH whose server could not be known: no later look would find more.
func hostKeys(s *v1alpha1.Source) error {
	endpoint := s.Spec.URL
	if !strings.HasPrefix(endpoint, "ssh://") && !giturl.Short(endpoint) {
		return nil
	}
	file := ""
	if s.Spec.Credentials != nil {
		file = s.Spec.Credentials.KnownHostsFile
	}
	err := errors.New("it is by SSH, and its server's keys are not known: " +
		"have them in a file (ssh-keyscan HOST > known_hosts, and compare them), " +
		"and name that in spec.credentials.knownHostsFile of a Source document, in a file for --config")
	if file != "" {
		var f *os.File
		if f, err = os.Open(file); err == nil {
			return f.Close()
		}
	}
	return fmt.Errorf("cannot use source %s: %w", s.Name, err)
}

func newDaemon() *cobra.Command {
	var flags daemonFlags
	var dirs dirFlags
	var logs logFlags
	c := &cobra.Command{Use: "daemon", Short: "Run the control plane", Args: takes(0, 0),
		Long: `Run the control plane: etcd, the API, the status page, and the loops that follow the sources.
Stopping it leaves all pods running.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := dirs.usable(); err != nil {
				return err
			}
			log, err := logs.logger(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			address, err := nodeAddress("")
			if err != nil {
				return err
			}
			o, err := flags.options(dirs, address)
			if err != nil {
				return err
			}
			o.Log = log
			if err := alone(cmd.Context(), dirs); err != nil {
				return err
			}
			return daemon.Run(cmd.Context(), o)
		}}
	flags.add(c)
	dirs.add(c)
	logs.add(c, "info")
	return c
}
