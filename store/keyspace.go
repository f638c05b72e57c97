package store

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/kinds"
)

// DefaultPrefix is where everything of Lockstep's lies in etcd.
const DefaultPrefix = "/lockstep/"

// keyspace is the layout of the keys below one prefix, which ends with a slash.
type keyspace string

// place is what an etcd key holds.
type place struct {
	part  part
	key   kinds.Key // of an object or event
	table string    // of a record
	name  string    // of a record; of a heartbeat the rest of the key, server and shard
}

type part int

const (
	elsewhere part = iota // the leader's keys, the step's, the compactor's, those of kinds this binary does not know
	objectPart
	eventPart
	recordPart
	heartbeatPart
	clusterPart
)

func (s keyspace) cluster() string    { return string(s) + "cluster" }
func (s keyspace) leader() string     { return string(s) + "leader" }
func (s keyspace) step() string       { return string(s) + "step" }
func (s keyspace) heartbeats() string { return string(s) + "heartbeats/" }

func (s keyspace) record(table, name string) string {
	return string(s) + "records/" + table + "/" + name
}

// object returns the key of an object. Events have a prefix of their own: they expire.
func (s keyspace) object(k kinds.Key) string {
	if isEvent(k) {
		return string(s) + "events/" + k.Namespace + "/" + k.Name
	}
	return string(s) + "objects/" + k.Path()
}

// parse is the inverse of the other methods. The error is for keys that look like ours and are not well formed.
func (s keyspace) parse(key string) (place, error) {
	rest, ok := strings.CutPrefix(key, string(s))
	if !ok {
		return place{}, nil
	}
	head, rest, _ := strings.Cut(rest, "/")
	switch head {
	case "cluster":
		return place{part: clusterPart}, nil
	case "heartbeats":
		return place{part: heartbeatPart, name: rest}, nil
	case "objects":
		k, err := kinds.ParsePath(rest)
		if err != nil {
			return place{}, err
		}
		if kinds.ForResource(k.GroupResource()) == nil {
			return place{}, fmt.Errorf("cannot read %s: this binary does not know the resource", key)
		}
		return place{part: objectPart, key: k}, nil
	case "events":
		namespace, name, ok := strings.Cut(rest, "/")
		if !ok || namespace == "" || name == "" {
			return place{}, fmt.Errorf("cannot read %s: want events/namespace/name", key)
		}
		return place{part: eventPart, key: kinds.For[*corev1.Event]().Key(namespace, name)}, nil
	case "records":
		table, name, ok := strings.Cut(rest, "/")
		if !ok || table == "" || name == "" {
			return place{}, fmt.Errorf("cannot read %s: want records/table/name", key)
		}
		return place{part: recordPart, table: table, name: name}, nil
	}
	return place{}, nil
}

func isEvent(k kinds.Key) bool { return k.Group == "" && k.Resource == "events" }

// nodeLeases is the namespace whose leases are heartbeats.
const nodeLeases = corev1.NamespaceNodeLease

func isHeartbeat(k kinds.Key) bool {
	return k.Group == "coordination.k8s.io" && k.Resource == "leases" && k.Namespace == nodeLeases
}
