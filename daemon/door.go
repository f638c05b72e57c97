package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"lockstep/daemon/backup"
	"lockstep/daemon/control"
	"lockstep/daemon/encryption"
	"lockstep/daemon/pki"
	"lockstep/daemon/version"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
	"lockstep/sync/apply"
	"lockstep/sync/found"
	"lockstep/sync/health"
	"lockstep/sync/plan"
	"lockstep/sync/report"
)

// door answers what root asks on the daemon's own machine.
type door struct {
	*plane
}

var _ control.Backend = (*door)(nil)

// ready returns an error while the store has not loaded, or does not work.
func (d *door) ready() error {
	select {
	case <-d.store.Ready():
		return d.store.Health()
	default:
		return fmt.Errorf("the store is loading")
	}
}

// Token implements control.Backend.
func (d *door) Token(ctx context.Context, opts control.TokenOptions) (string, error) {
	if err := d.ready(); err != nil {
		return "", fmt.Errorf("cannot make a token: %w", err)
	}
	is := pki.TokenOptions{TTL: opts.TTL, Node: opts.Node}
	if opts.Server {
		is = pki.TokenOptions{TTL: opts.TTL, Server: opts.ServerName, Usages: []string{pki.UsageServer}}
	}
	token, err := d.tokens().Create(ctx, is)
	if err != nil {
		return "", err
	}
	return token.Text(d.authority.Pin()), nil
}

func (d *door) tokens() pki.Tokens { return pki.Tokens{Store: d.store, Commit: d.store} }

// Tokens implements control.Backend.
func (d *door) Tokens(context.Context) ([]control.TokenReport, error) {
	if err := d.ready(); err != nil {
		return nil, fmt.Errorf("cannot list the tokens: %w", err)
	}
	out := []control.TokenReport{}
	for id, r := range d.tokens().All() {
		out = append(out, control.TokenReport{ID: id, Usages: r.Usages, User: r.User, Created: r.Created, Expires: r.Expires})
	}
	slices.SortStableFunc(out, func(a, b control.TokenReport) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// DeleteToken implements control.Backend.
func (d *door) DeleteToken(ctx context.Context, id string) error {
	if err := d.ready(); err != nil {
		return fmt.Errorf("cannot delete token %s: %w", id, err)
	}
	for known := range d.tokens().All() {
		if known == id {
			return d.tokens().Delete(ctx, id)
		}
	}
	return fmt.Errorf("cannot delete token %s: there is none of this id", id)
}

// NodeVolumes implements control.Backend.
func (d *door) NodeVolumes(_ context.Context, name string) ([]control.VolumeReport, error) {
	if err := d.ready(); err != nil {
		return nil, fmt.Errorf("cannot list the volumes of node %s: %w", name, err)
	}
	return volumesOnlyOn(d.store.View(), name), nil
}

// RemoveNode implements control.Backend.
func (d *door) RemoveNode(ctx context.Context, name string) error {
	if err := d.ready(); err != nil {
		return fmt.Errorf("cannot remove node %s: %w", name, err)
	}
	return d.nodes.Remove(ctx, name)
}

// Kubeconfig implements control.Backend.
func (d *door) Kubeconfig(ctx context.Context, opts control.KubeconfigOptions) ([]byte, error) {
	if opts.User == "" && len(opts.Groups) > 0 {
		return nil, errors.New("cannot make a kubeconfig for groups alone: say who is in them")
	}
	if opts.User != "" {
		if err := pki.CheckNames(opts.User, opts.Groups); err != nil {
			return nil, err
		}
	}
	credential, err := d.credential(ctx, opts)
	if err != nil {
		return nil, err
	}
	server := cmp.Or(opts.Server, "https://"+d.opts.Advertise.String())
	return pki.Kubeconfig(d.opts.Cluster, server, d.authority.PEM(), cmp.Or(opts.User, viewerName), credential)
}

// viewerName is the user of a viewer's kubeconfig: what it may do is its group's.
const viewerName = "viewer"

func (d *door) credential(ctx context.Context, opts control.KubeconfigOptions) (pki.Credential, error) {
	token := pki.TokenOptions{
		Usages: []string{pki.UsageUser}, User: opts.User, Groups: opts.Groups, TTL: cmp.Or(opts.TTL, pki.ViewerLifetime),
	}
	if opts.User == "" {
		token.Usages, token.User, token.Groups = []string{pki.UsageView}, viewerName, []string{pki.ViewerGroup}
	}
	if !opts.Bearer {
		cert, key, err := d.authority.User(token.User, token.Groups, opts.TTL)
		if err == nil && d.ready() == nil { // without the store nobody is told of it when the CA is replaced
			err = d.authority.Issued(ctx, d.store, cert)
		}
		return pki.Credential{CertPEM: cert, KeyPEM: key}, err
	}
	if err := d.ready(); err != nil {
		return pki.Credential{}, fmt.Errorf("cannot make a token: %w", err)
	}
	made, err := d.tokens().Create(ctx, token)
	return pki.Credential{Token: made.Bearer()}, err
}

// Rotate implements control.Backend.
func (d *door) Rotate(ctx context.Context) (string, error) {
	if err := d.ready(); err != nil {
		return "", fmt.Errorf("cannot rotate: %w", err)
	}
	return encryption.Rotate(ctx, d.encryption())
}

// Discard implements control.Backend.
func (d *door) Discard(ctx context.Context, name string) error {
	if err := d.ready(); err != nil {
		return fmt.Errorf("cannot discard %s: %w", name, err)
	}
	return d.store.Discard(ctx, name)
}

// reportEncryption tells how values are sealed, and what the leader is about to do.
func (d *door) reportEncryption() control.EncryptionReport {
	seen, _, err := d.encryption().See()
	out := control.EncryptionReport{
		Config: d.keyring.Path(), Values: seen.Seals.By, Stale: seen.Seals.Stale, Unreadable: seen.Seals.Unreadable,
	}
	if err != nil {
		out.Doing = err.Error()
		return out
	}
	out.Writes, out.Rotated = seen.State.Writes, seen.State.Rotated
	next := encryption.Decide(seen)
	if next.Verb != encryption.Rest {
		out.Doing = next.Reason
	}
	return out
}

// Backup implements control.Backend.
func (d *door) Backup(ctx context.Context, recipients []string, to io.Writer) error {
	if err := d.ready(); err != nil {
		return fmt.Errorf("cannot back up etcd: %w", err)
	}
	began := time.Now()
	err := d.backUp(ctx, recipients, to)
	if err != nil {
		d.opts.Log.Error("a backup failed", "error", err)
	} else {
		d.opts.Log.Info("a backup was taken", "took", time.Since(began))
	}
	return err
}

// backUp writes all that etcd has.
func (p *plane) backUp(ctx context.Context, recipients []string, to io.Writer) error {
	sealed, err := backup.Recipients(recipients)
	if err != nil {
		return err
	}
	authority, err := p.vault.Identity()
	if err != nil {
		return err
	}
	return backup.Take(ctx, p.etcd.Dialled(), to, backup.About{Cluster: p.opts.Cluster, Authority: authority,
		History: p.store.Cluster().ID, Version: version.Version, Made: time.Now().UTC().Truncate(time.Second)}, sealed)
}

// Plan implements control.Backend.
func (d *door) Plan(ctx context.Context, source v1alpha1.Source) (control.PlanResult, error) {
	var p *plan.Plan
	var err error
	if source.Spec.URL == "" && source.Spec.Folder == "" {
		p, err = d.sync.Plan(ctx, source.Name)
	} else {
		p, err = d.sync.PlanAs(ctx, source)
	}
	if err != nil {
		return control.PlanResult{}, err
	}
	var text bytes.Buffer
	changes, err := p.WriteDiff(&text)
	return control.PlanResult{Text: text.String(), Changes: changes}, err
}

// Drift implements control.Backend.
func (d *door) Drift(_ context.Context, source, node string) (control.DriftReport, error) {
	if err := d.ready(); err != nil {
		return control.DriftReport{}, fmt.Errorf("cannot list drift: %w", err)
	}
	v := d.store.View()
	if _, ok := view.Get[*v1alpha1.Source](v, "", source); source != "" && !ok {
		return control.DriftReport{}, fmt.Errorf("cannot list drift of source %s: there is none of this name", source)
	}
	if _, ok := view.Get[*corev1.Node](v, "", node); node != "" && !ok {
		return control.DriftReport{}, fmt.Errorf("cannot list drift of node %s: there is none of this name", node)
	}
	findings, dropped := found.In(v, found.Filter{Source: source, Node: node})
	return control.DriftReport{Findings: findings, Dropped: dropped}, nil
}

// Report implements control.Backend.
func (d *door) Report(context.Context) (control.Report, error) {
	r := control.Report{Cluster: d.opts.Cluster, Version: version.Version}
	if err := d.ready(); err != nil {
		r.Ready = err.Error()
	}
	if err := d.quorum(); err != nil {
		r.Ready = err.Error()
	}
	if _, err := d.etcd.Disk(); err != nil { // the cause comes before what follows from it
		r.Ready = err.Error()
	}
	v := d.store.View()
	r.Rebuild, r.Backup = d.rebuild.Says(v), d.backups.Failure()
	now := time.Now()
	for n := range view.List[*corev1.Node](v, "") {
		node := control.NodeReport{Name: n.Name, Ready: kinds.NodeReady(n), Troubles: health.Troubles(v, n.Name, now)}
		for range v.PodsOnNode(n.Name) {
			node.Pods++
		}
		r.Nodes = append(r.Nodes, node)
	}
	r.Servers, r.Standing = d.servers(v, now)
	if len(r.Nodes) == 0 {
		for range v.PodsOnNode("") {
			r.Waiting++
		}
		if name, at := pki.LastRemoved(v); name != "" {
			r.Removed = &control.RemovedNode{Name: name, At: at}
		}
	}
	for _, l := range report.LeftOver(v, apply.Stated) {
		if len(r.Left) == control.MaxLeft {
			r.MoreLeft++
			continue
		}
		r.Left = append(r.Left, control.LeftReport{Object: l.Key.String(), Size: l.Size, Node: l.Node, Why: l.Why})
	}
	r.Encryption = d.reportEncryption()
	for _, s := range d.sync.Sources() {
		r.Sources = append(r.Sources, d.reportSource(v, &s))
	}
	return r, nil
}

func (d *door) reportSource(v *view.View, s *v1alpha1.Source) control.SourceReport {
	out := control.SourceReport{
		Name:   s.Name,
		Folder: s.Spec.Folder != "",
		Where:  where(s.Spec.URL, s.Spec.Folder, s.Spec.Branch, s.Spec.Tag, s.Spec.Path),
	}
	if live, ok := view.Get[*v1alpha1.Source](v, "", s.Name); ok {
		out.Status = live.Status
	}
	inventory, _ := d.inventories.Of(v, s.Name) // what cannot be read the next apply writes anew; status must not fail over it
	for _, o := range report.Of(inventory, v, time.Now()).Objects {
		out.Objects = append(out.Objects, control.ObjectReport{
			Object: o.Stated.Key.String(), File: o.Stated.Place(), State: o.State(), Cause: o.Health.Text(),
		})
		out.Addresses = append(out.Addresses, d.addresses(v, o.Stated.Key)...)
	}
	return out
}

// addresses are the URLs at which a NodePort service answers on this machine.
func (d *door) addresses(v *view.View, k kinds.Key) []string {
	service, ok := v.Get(k).(*corev1.Service)
	if !ok {
		return nil
	}
	var out []string
	for _, port := range service.Spec.Ports {
		if port.NodePort != 0 && port.Protocol == corev1.ProtocolTCP {
			out = append(out, fmt.Sprintf("http://%s/", netip.AddrPortFrom(d.opts.Advertise.Addr(), uint16(port.NodePort))))
		}
	}
	return out
}
