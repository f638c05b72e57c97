package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lockstep/proxy/load"
	"lockstep/proxy/rules"
)

// The benchmarks take turns with what bounds them and report the ratio of the medians:
//
//	go test -run '^$' -bench . -benchtime 10x ./proxy/

func BenchmarkFullLoad(b *testing.B) {
	eachSize(b, func(b *testing.B, backend *backend, n int) {
		in := load.Input(n, 2)
		text := rules.Compile(in, rules.IPv4).Text()
		var ours, bound []time.Duration
		for b.Loop() {
			wipe(b)
			p := quiet(b, backend, &in)
			ours = append(ours, timed(b, func() error { return p.Sync(b.Context()) }))
			wipe(b)
			bound = append(bound, timed(b, func() error { return backend.restore(b.Context(), text) }))
		}
		report(b, ours, bound)
	})
}

func BenchmarkOneEndpoint(b *testing.B) {
	eachSize(b, func(b *testing.B, backend *backend, n int) {
		in := load.Input(n, 2)
		p := quiet(b, backend, &in)
		must(b, p.Sync(b.Context()))
		var ours, bound []time.Duration
		for version := 0; b.Loop(); version++ {
			before := p.keepers[0].applied
			in = load.Change(in, n/2, version)
			ours = append(ours, timed(b, func() error { return p.Sync(b.Context()) }))
			c := between(before, p.keepers[0].applied)
			if len(c.write) != 1 || len(c.remove)+len(c.jumps) != 0 {
				b.Fatalf("%d chains were written", len(c.write))
			}
			text, tables := c.text()
			if tables != 1 {
				b.Fatalf("%d tables were written", tables)
			}
			bound = append(bound, timed(b, func() error { return backend.restore(b.Context(), text) }))
			p.keepers[0].transactions.last, _ = backend.generation() // the bound's write is no hand edit
		}
		report(b, ours, bound)
	})
}

// BenchmarkFirstPacket connects from a pod to another, through the last of many services and
// directly.
func BenchmarkFirstPacket(b *testing.B) {
	eachSize(b, func(b *testing.B, backend *backend, n int) {
		l := newLAN(b)
		from, to := l.host("a", "10.42.0.5", "10.42.0.1"), l.host("c", "10.42.0.6", "10.42.0.1")
		from.route("0.0.0.0/0", "10.42.0.1")
		to.route("0.0.0.0/0", "10.42.0.1")
		to.serve(8080)
		in := load.Input(n, 2)
		last := in.Slices[n-1]
		last.Endpoints = last.Endpoints[:1]
		last.Endpoints[0].Addresses = []string{"10.42.0.6"}
		must(b, quiet(b, backend, &in).Sync(b.Context()))
		through := netip.AddrPortFrom(load.Address(n-1), 80).String()
		var ours, bound []time.Duration
		from.do(func() error {
			connect := func(address string) func() error {
				return func() error {
					conn, err := net.Dial("tcp", address)
					if err == nil {
						conn.Close()
					}
					return err
				}
			}
			for b.Loop() {
				for range 50 {
					ours = append(ours, timed(b, connect(through)))
					bound = append(bound, timed(b, connect("10.42.0.6:8080")))
				}
			}
			return nil
		})
		report(b, ours, bound)
	})
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		in := load.Input(n, 2)
		b.Run(fmt.Sprintf("all/%d", n), func(b *testing.B) {
			for b.Loop() {
				rules.Compile(in, rules.IPv4)
			}
		})
		b.Run(fmt.Sprintf("one/%d", n), func(b *testing.B) {
			c := rules.NewCompiler(rules.IPv4)
			c.Compile(in)
			for version := 0; b.Loop(); version++ {
				c.Compile(load.Change(in, n/2, version))
			}
		})
	}
}

func eachSize(b *testing.B, f func(b *testing.B, backend *backend, n int)) {
	needsKernel(b)
	for _, backend := range backends(b) {
		for _, n := range []int{1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", backend.name, n), func(b *testing.B) {
				wipe(b)
				must(b, removeLink())
				f(b, backend, n)
				wipe(b)
			})
		}
	}
}

func quiet(b *testing.B, backend *backend, in *rules.Input) *Proxy {
	b.Helper()
	p, err := New(Options{State: func() rules.Input { return *in }})
	must(b, err)
	p.keepers[0].tables = backend
	return p
}

func timed(b *testing.B, f func() error) time.Duration {
	b.Helper()
	start := time.Now()
	must(b, f())
	return time.Since(start)
}

func report(b *testing.B, ours, bound []time.Duration) {
	slices.Sort(ours)
	slices.Sort(bound)
	p50, limit := ours[len(ours)/2], bound[len(bound)/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(p50.Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(limit.Microseconds())/1000, "ms-bound")
	b.ReportMetric(float64(p50)/float64(limit), "ratio")
}
