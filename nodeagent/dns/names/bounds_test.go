package names

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// writer takes what a client at an address is told.
type writer struct {
	dns.ResponseWriter
	client string
	write  func(*dns.Msg)
}

func (w writer) RemoteAddr() net.Addr {
	return &net.UDPAddr{IP: net.ParseIP(w.client), Port: 4000}
}

func (w writer) WriteMsg(m *dns.Msg) error {
	w.write(m)
	return nil
}

// TestQuestionsAreBounded: a client that asks without end for what is known here is refused, by number and by size of the
// answers; others are not.
func TestQuestionsAreBounded(t *testing.T) {
	for _, c := range []struct {
		endpoints, questions int
	}{{3, 3 * questionsAtOnce}, {2000, 1000}} {
		cost := 1 + float64(c.endpoints)/recordsPerQuestion
		s := NewServer(Options{})
		s.Set(many(c.endpoints))
		rcodes := map[int]int{}
		ask := func(client string) {
			s.serve(t.Context(), writer{client: client, write: func(m *dns.Msg) { rcodes[m.Rcode]++ }},
				new(dns.Msg).SetQuestion("many.shop.svc.cluster.local.", dns.TypeA))
		}
		began := time.Now()
		for range c.questions {
			ask("192.0.2.7")
		}
		took := time.Since(began)
		allowed := int((questionsAtOnce+took.Seconds()*questionsPerSecond)/cost) + 2
		n := rcodes[dns.RcodeSuccess]
		if n > allowed || n < min(c.questions, int(questionsAtOnce/cost)) || rcodes[dns.RcodeRefused] != c.questions-n {
			t.Errorf("%d endpoints: %v, at most %d were allowed in %s", c.endpoints, rcodes, allowed, took)
		}
		before := rcodes[dns.RcodeSuccess]
		if ask("192.0.2.8"); rcodes[dns.RcodeSuccess] != before+1 {
			t.Errorf("%d endpoints: another client was refused", c.endpoints)
		}
	}
}

// TestAnswersUnderWayAreBounded: one client's questions hold no more than so many goroutines.
func TestAnswersUnderWayAreBounded(t *testing.T) {
	s := NewServer(Options{})
	s.Set(many(3))
	question := new(dns.Msg).SetQuestion("many.shop.svc.cluster.local.", dns.TypeA)
	var group, inside sync.WaitGroup
	end := make(chan struct{})
	for range answersMost {
		inside.Add(1)
		group.Go(func() {
			s.serve(t.Context(), writer{client: "192.0.2.7", write: func(*dns.Msg) { inside.Done(); <-end }}, question)
		})
	}
	inside.Wait()
	answered := map[string]int{}
	for _, client := range []string{"192.0.2.7", "192.0.2.8"} {
		s.serve(t.Context(), writer{client: client, write: func(*dns.Msg) { answered[client]++ }}, question)
	}
	if fmt.Sprint(answered) != "map[192.0.2.8:1]" {
		t.Errorf("answered %v", answered)
	}
	close(end)
	group.Wait()
}

// TestLargeAnswers: a headless service of 5,000 endpoints with 100 ports each has half a million SRV records; no more are
// made than fit, and in linear time, and the client is told that there are more.
func TestLargeAnswers(t *testing.T) {
	d := many(5000)
	for p := range 100 {
		for i := range d.Services[0].Hosts {
			h := &d.Services[0].Hosts[i]
			h.Ports = append(h.Ports, Port{Protocol: "tcp", Number: uint16(p + 1)})
		}
	}
	r := start(t, d)
	began := time.Now()
	for _, c := range []struct {
		network string
		kind    uint16
		least   int
	}{{"udp", dns.TypeSRV, 10}, {"tcp", dns.TypeSRV, 900}, {"udp", dns.TypeA, 60}, {"tcp", dns.TypeA, 4000}} {
		m := r.ask(t, c.network, "many.shop.svc.cluster.local.", c.kind, func(m *dns.Msg) { m.SetEdns0(payload, false) })
		if !m.Truncated || len(m.Answer) < c.least || m.IsEdns0() == nil {
			t.Errorf("%s, %s: %d records, truncated: %t", c.network, dns.TypeToString[c.kind], len(m.Answer), m.Truncated)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	a := NewZone(many(5000)).Answer(dns.Question{Name: "many.shop.svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}, 4999)
	if len(a.Records) != recordsMost || a.Records[0].String() == a.Records[1].String() {
		t.Errorf("%d records", len(a.Records))
	}
}
