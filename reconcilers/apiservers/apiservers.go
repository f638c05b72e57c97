// Package apiservers is how API servers tell that they run: by a Lease that each of them renews.
package apiservers

import (
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

const (
	// Period is how often a server renews its lease: of three renewals two may be lost.
	Period = 2 * time.Second
	// Patience is how long a lease counts after it was renewed; Kubernetes' entry of an API server lasts 15 s. While etcd is away it
	// runs out before any node seems silent: a heartbeat in the view is at most 4 s old when etcd goes, and 10 s are a node's.
	Patience = 6 * time.Second
	// keep is how long the lease of a server that is gone is kept: Kubernetes' own lasts as long.
	keep = time.Hour

	// label and identity mark these leases in Kubernetes, too.
	label    = "apiserver.kubernetes.io/identity"
	identity = "kube-apiserver"
	address  = "lockstep.dev/address"
	// format, keys, writes and version annotate what a server tells of itself.
	format  = "lockstep.dev/format"
	keys    = "lockstep.dev/encryption-keys"
	writes  = "lockstep.dev/encryption-writes"
	version = "lockstep.dev/version"
	// prefix begins the names of these leases.
	prefix = "apiserver-"
)

// Key returns where the lease of the server of that name is. The name of a lease is made as Kubernetes makes it.
func Key(server string) kinds.Key {
	hash := sha256.Sum256([]byte(server))
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(hash[:16])
	return kinds.For[*coordinationv1.Lease]().Key(metav1.NamespaceSystem, prefix+strings.ToLower(text))
}

// Named says whether a lease may be an API server's, by its name.
func Named(namespace, name string) bool {
	return namespace == metav1.NamespaceSystem && strings.HasPrefix(name, prefix)
}

// Told is what a server tells of itself.
type Told struct {
	// Version of its program.
	Version string
	// Format of the store's data that it knows; of those that do not tell, 1.
	Format int
	// Keys name those for sealing that it keeps, and Writes the one that it seals with; empty: with none.
	Keys   []string
	Writes string
}

// Tell notes in a server's lease what it tells of itself.
func Tell(lease *coordinationv1.Lease, told Told) {
	lease.Annotations[version], lease.Annotations[format] = told.Version, strconv.Itoa(told.Format)
	lease.Annotations[keys], lease.Annotations[writes] = strings.Join(told.Keys, ","), told.Writes
}

// Lease returns the lease of a server that has taken heartbeats since, as renewed now. Old is the one that is there, or nil;
// it is not changed.
func Lease(old *coordinationv1.Lease, server string, at netip.AddrPort, since, now time.Time) *coordinationv1.Lease {
	key := Key(server)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if old != nil {
		lease = old.DeepCopy()
	}
	seconds := int32(Patience / time.Second)
	lease.Labels, lease.Annotations = map[string]string{label: identity}, map[string]string{address: at.String()}
	lease.Spec = coordinationv1.LeaseSpec{
		HolderIdentity: &server, LeaseDurationSeconds: &seconds,
		AcquireTime: &metav1.MicroTime{Time: since}, RenewTime: &metav1.MicroTime{Time: now},
	}
	return lease
}

// Running returns the addresses of the servers that run, sorted, and when the first of them may run no more; zero: none runs.
func Running(v *view.View, now time.Time) (servers []netip.AddrPort, until time.Time) {
	for lease := range leases(v) {
		end := renewed(lease).Add(Patience)
		at, err := netip.ParseAddrPort(lease.Annotations[address])
		if !end.After(now) || err != nil {
			continue
		}
		servers = append(servers, at)
		if until.IsZero() || end.Before(until) {
			until = end
		}
	}
	slices.SortFunc(servers, netip.AddrPort.Compare)
	return slices.Compact(servers), until
}

// Since is since when there has been a server that took heartbeats; not ok: there is none.
func Since(v *view.View, now time.Time) (since time.Time, ok bool) {
	for lease := range leases(v) {
		if !renewed(lease).Add(Patience).After(now) || lease.Spec.AcquireTime == nil {
			continue
		}
		if !ok || lease.Spec.AcquireTime.Time.Before(since) {
			since, ok = lease.Spec.AcquireTime.Time, true
		}
	}
	return since, ok
}

// Server is what a server has told of itself.
type Server struct {
	Name string
	At   netip.AddrPort
	// Renewed is when it did so last; Runs says that this was not too long ago.
	Renewed time.Time
	Runs    bool
	Told
}

// Servers are those that have told of themselves, whether they run or not, in order of their leases.
func Servers(v *view.View, now time.Time) (list []Server) {
	for lease := range leases(v) {
		at, err := netip.ParseAddrPort(lease.Annotations[address])
		if err != nil || lease.Spec.HolderIdentity == nil {
			continue
		}
		list = append(list, Server{
			Name: *lease.Spec.HolderIdentity, At: at, Renewed: renewed(lease), Runs: renewed(lease).Add(Patience).After(now),
			Told: told(lease),
		})
	}
	return list
}

func told(lease *coordinationv1.Lease) Told {
	t := Told{Version: lease.Annotations[version], Writes: lease.Annotations[writes]}
	t.Format, _ = strconv.Atoi(lease.Annotations[format])
	t.Format = max(t.Format, 1)
	if names := lease.Annotations[keys]; names != "" {
		t.Keys = strings.Split(names, ",")
	}
	return t
}

// Gone are the leases of servers that have long been gone.
func Gone(v *view.View, now time.Time) (gone []*coordinationv1.Lease) {
	for lease := range leases(v) {
		if renewed(lease).Add(keep).Before(now) {
			gone = append(gone, lease)
		}
	}
	return gone
}

// Is says whether an object is the lease of an API server.
func Is(o kinds.Object) bool {
	return o.GetNamespace() == metav1.NamespaceSystem && o.GetLabels()[label] == identity
}

// Changed says whether an update of a lease is more than a renewal in time: Running or Since may have become another.
func Changed(old, new kinds.Object) bool {
	a, b := old.(*coordinationv1.Lease), new.(*coordinationv1.Lease)
	return Is(a) != Is(b) || a.Annotations[address] != b.Annotations[address] || !a.Spec.AcquireTime.Equal(b.Spec.AcquireTime) ||
		renewed(b).Sub(renewed(a)) >= Patience || renewed(b).Before(renewed(a)) // it stopped
}

func leases(v *view.View) func(func(*coordinationv1.Lease) bool) {
	return func(yield func(*coordinationv1.Lease) bool) {
		for lease := range view.List[*coordinationv1.Lease](v, metav1.NamespaceSystem) {
			if Is(lease) && !yield(lease) {
				return
			}
		}
	}
}

func renewed(l *coordinationv1.Lease) time.Time {
	if l.Spec.RenewTime == nil {
		return time.Time{}
	}
	return l.Spec.RenewTime.Time
}
