package etcd

import (
	"reflect"
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	const mib = 1 << 20
	now := time.Unix(1e9, 0)
	long := now.Add(-2 * time.Hour)
	small := member{endpoint: "a", size: 20 * mib, used: 19 * mib, quota: 100 * mib, defragAt: long}
	full := member{endpoint: "a", size: 100 * mib, used: 99 * mib, quota: 100 * mib, noSpace: true, defragAt: now}
	room := member{endpoint: "a", size: 100 * mib, used: 60 * mib, quota: 100 * mib, noSpace: true, defragAt: now}
	stuffed := full
	stuffed.defragAt = now.Add(-6 * time.Minute)
	shrunk := member{endpoint: "a", size: 50 * mib, used: 50 * mib, quota: 100 * mib, noSpace: true, defragAt: now}
	loose := member{endpoint: "b", size: 400 * mib, used: 100 * mib, quota: 2048 * mib, defragAt: long}
	tight := member{endpoint: "b", size: 85 * mib, used: 55 * mib, quota: 100 * mib, defragAt: long}
	cramped := member{endpoint: "a", id: 7, short: true, size: 20 * mib, used: 19 * mib, quota: 100 * mib, defragAt: long}
	refusing := cramped
	refusing.noSpace = true
	eased := refusing
	eased.short = false
	recent := loose
	recent.defragAt = now.Add(-time.Minute)
	for _, c := range []struct {
		name    string
		members []member
		done    remedy
		want    plan
	}{
		{"nothing to do", []member{small}, untreated, plan{}},
		{"no members", nil, untreated, plan{}},
		{"full: compact first", []member{full}, untreated, plan{compactNow: true, reason: "etcd is full"}},
		{"full: then defragment all", []member{room, small}, compacted, plan{defrag: []string{"a", "a"}, reason: "etcd is full"}},
		{"full of live data: rewrite it now and then", []member{stuffed}, compacted, plan{defrag: []string{"a"}, reason: "etcd is full"}},
		{"full of live data: not again so soon", []member{full, room}, compacted, plan{}},
		{"full of live data: wait", []member{full}, defragmented, plan{}},
		{"shrunk: lift the alarm", []member{shrunk}, defragmented, plan{disarm: true, reason: "there is space again"}},
		{"one still large: wait", []member{shrunk, full}, defragmented, plan{}},
		{"much is free", []member{loose, small}, untreated, plan{defrag: []string{"b"}, reason: "much of the file is free"}},
		{"near the quota", []member{tight}, untreated, plan{defrag: []string{"b"}, reason: "much of the file is free"}},
		{"not again so soon", []member{recent}, untreated, plan{}},
		{"the disk fills: raise the alarm", []member{small, cramped}, untreated, plan{raise: 7, reason: "the disk is nearly full"}},
		{"the disk is full: history goes", []member{refusing}, untreated, plan{compactNow: true, reason: "etcd is full"}},
		{"the disk is full: nothing is rewritten", []member{refusing, loose}, compacted, plan{}},
		{"the disk has room again", []member{eased}, defragmented, plan{disarm: true, reason: "there is space again"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want.idle() != reflect.DeepEqual(c.want, plan{}) {
				t.Errorf("idle = %v", c.want.idle())
			}
			if got := decide(c.members, now, c.done); !reflect.DeepEqual(got, c.want) {
				t.Errorf("decide = %+v, want %+v", got, c.want)
			}
		})
	}
}
