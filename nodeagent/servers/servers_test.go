package servers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// promised is how soon another server is used.
const promised = 3 * time.Second

var three = []string{"https://10.0.0.1:6443", "https://10.0.0.2:6443", "https://10.0.0.3:6443"}

// state is how a server is.
type state int

const (
	serving state = iota
	killed        // it refuses at once
	cut           // nothing is heard of it
	unready       // it says that it cannot serve
	hangs         // it serves, but not on the connections that there are
)

// field is servers as a node meets them.
type field struct {
	mu     sync.Mutex
	is     map[string]state
	at     func() string
	held   int
	anew   int
	resets int
	moves  []string
	moved  time.Time
}

func (f *field) set(server string, is state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.is == nil {
		f.is = map[string]state{}
	}
	f.is[server] = is
}

func (f *field) answer(ctx context.Context, is state) error {
	switch is {
	case killed:
		return errors.New("connection refused")
	case cut:
		<-ctx.Done()
		return ctx.Err()
	case unready:
		return fmt.Errorf("%w: [-]etcd failed", ErrAnswered)
	}
	return nil
}

func (f *field) Held(ctx context.Context) error {
	f.mu.Lock()
	f.held++
	is := f.is[f.at()]
	f.mu.Unlock()
	if is == hangs {
		is = cut
	}
	return f.answer(ctx, is)
}

func (f *field) Anew(ctx context.Context, server string) error {
	f.mu.Lock()
	f.anew++
	is := f.is[server]
	f.mu.Unlock()
	return f.answer(ctx, is)
}

func (f *field) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resets++
	f.is[f.at()] = serving
}

func (f *field) Moved(_, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moves, f.moved = append(f.moves, to), time.Now()
}

// run has a node's servers run until the returned function is called.
func run(t *testing.T, o Options) (*Servers, *field, func()) {
	t.Helper()
	if o.File == "" {
		o.File = filepath.Join(t.TempDir(), "servers")
	}
	s := New(o)
	f := &field{at: s.Current, is: map[string]state{}}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx, f); err != nil {
			t.Error(err)
		}
	}()
	return s, f, func() { end(); <-ended }
}

// TestOrder: nodes are spread over the servers, and those of one that goes over the others, while nobody else moves.
func TestOrder(t *testing.T) {
	const nodes = 3000
	first, then := map[string]int{}, map[string]int{}
	for i := range nodes {
		node := fmt.Sprintf("node-%d", i)
		all := order(node, three)
		left := order(node, three[1:])
		first[all[0]]++
		if all[0] == three[0] {
			then[left[0]]++
			if left[0] != all[1] {
				t.Errorf("%s goes to %s instead of its second, %s", node, left[0], all[1])
			}
		} else if left[0] != all[0] {
			t.Errorf("%s moves from %s to %s although its server is there", node, all[0], left[0])
		}
		if d := Delay(node, moveSpread); d < 0 || d >= moveSpread {
			t.Errorf("%s waits %v", node, d)
		}
	}
	for _, s := range three {
		if n := first[s]; n < nodes/3*9/10 || n > nodes/3*11/10 {
			t.Errorf("%s has %d of %d nodes", s, n, nodes)
		}
	}
	for _, s := range three[1:] {
		if n := then[s]; n < nodes/6*8/10 || n > nodes/6*12/10 {
			t.Errorf("%s takes %d of %d nodes", s, n, first[three[0]])
		}
	}
	if got := order("n", append(slices.Clone(three), three...)); len(got) != 3 {
		t.Errorf("twice the same: %v", got)
	}
}

// TestLeaves: whatever becomes of the server in use, another one is used within what is promised, and it is not left for that when the
// first comes back; a request that fails has it noticed sooner.
func TestLeaves(t *testing.T) {
	for _, c := range []struct {
		name string
		is   state
		poke bool
		most time.Duration
	}{
		{"killed", killed, false, promised}, {"killed, and a request failed", killed, true, moveSpread},
		{"cut", cut, false, promised}, {"unready", unready, false, promised},
	} {
		worst := time.Duration(0)
		for i := range 20 {
			synctest.Test(t, func(t *testing.T) {
				s, f, end := run(t, Options{Node: fmt.Sprintf("n%d", i), Seeds: three})
				defer end()
				first := s.Current()
				time.Sleep(10*time.Second + time.Duration(i)*period/20)
				if len(f.moves) > 0 || f.held < 10 || f.anew > 0 {
					t.Fatalf("while all serve: %d moves, %d and %d looks", len(f.moves), f.held, f.anew)
				}
				f.set(first, c.is)
				began := time.Now()
				if c.poke {
					s.Failed("https://somebody")
					s.Failed(first)
				}
				time.Sleep(10 * time.Second)
				if len(f.moves) != 1 || f.moves[0] == first || s.Current() != f.moves[0] {
					t.Fatalf("%s: it moved to %v from %s", c.name, f.moves, first)
				}
				worst = max(worst, f.moved.Sub(began))
				f.set(first, serving)
				time.Sleep(time.Minute)
				if len(f.moves) != 1 {
					t.Errorf("%s: it moved back: %v", c.name, f.moves)
				}
			})
		}
		t.Logf("%s: another server after %v at most", c.name, worst)
		if worst > c.most {
			t.Errorf("%s: another server after %v, want %v at most", c.name, worst, c.most)
		}
	}
}

// TestStays: where no other server is better the node stays; where its connections alone are dead it makes new ones; where there is one
// server nobody is asked.
func TestStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, end := run(t, Options{Node: "n1", Seeds: three})
		defer end()
		first := s.Current()
		for _, server := range three {
			f.set(server, unready)
		}
		time.Sleep(time.Minute)
		for _, server := range three {
			f.set(server, cut)
		}
		time.Sleep(time.Minute)
		if len(f.moves) > 0 || f.resets > 0 {
			t.Errorf("it moved to %v, and reset %d times", f.moves, f.resets)
		}
		f.set(first, hangs)
		time.Sleep(promised)
		if len(f.moves) > 0 || f.resets != 1 {
			t.Errorf("its connections were dead: it moved to %v, and reset %d times", f.moves, f.resets)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		for _, own := range []bool{false, true} {
			s, f, end := run(t, Options{Node: "n1", Seeds: []string{"https://server:6443"}, Own: own})
			if err := s.Learn(three[:1]); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			if f.held > 2 || len(f.moves) > 0 { // once each at the start and when it learns
				t.Errorf("the only server was asked %d times, and left for %v", f.held, f.moves)
			}
			end()
		}
	})
}

// TestLearns: nodes that were told of one server are spread over all that there are, once, and know them after a restart, also those that
// were listed before all of the cluster was down; a node beside a server stays with it.
func TestLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes = 30
		at := map[string]int{}
		for i := range nodes {
			o := Options{Node: fmt.Sprintf("n%d", i), Seeds: three[:1], File: filepath.Join(t.TempDir(), "servers")}
			s, f, end := run(t, o)
			if err := s.Learn(three); err != nil {
				t.Fatal(err)
			}
			time.Sleep(shareSpread + 2*period)
			if len(f.moves) > 1 || s.Current() != order(o.Node, three)[0] {
				t.Errorf("%s moved to %v, and is at %s", o.Node, f.moves, s.Current())
			}
			at[s.Current()]++
			end()
			if again := New(Options{Node: o.Node, Seeds: three[:1], File: o.File}); again.Current() != s.Current() {
				t.Errorf("after a restart it is at %s, before at %s", again.Current(), s.Current())
			}
			own := o
			own.Own, own.Seeds = true, []string{"https://127.0.0.1:6443"}
			if again := New(own); again.Current() != own.Seeds[0] {
				t.Errorf("beside a server it is at %s", again.Current())
			}
		}
		if len(at) != 3 {
			t.Errorf("nodes are at %v", at)
		}
	})
	file := filepath.Join(t.TempDir(), "servers")
	s := New(Options{Node: "n1", Seeds: three[:1], File: file})
	for _, listed := range [][]string{three, three[2:], nil, {"nonsense"}} {
		if err := s.Learn(listed); err != nil {
			t.Fatal(err)
		}
	}
	s = New(Options{Node: "n1", Seeds: []string{"https://seed:6443"}, File: file})
	got := s.Known()
	if want := []string{three[2], "https://seed:6443"}; !slices.Equal(got[:2], want) || len(got) != 4 {
		t.Errorf("known are %v, want %v and then those of before", got, want)
	}
	for i := range 100 {
		_ = s.Learn([]string{fmt.Sprintf("https://10.1.0.%d:6443", i)})
	}
	if n := len(s.Known()); n > 1+1+maxEarlier {
		t.Errorf("%d servers are known", n)
	}
}

// TestBadFile: a list that cannot be read is done without.
func TestBadFile(t *testing.T) {
	for name, text := range map[string]string{
		"none": "", "torn": `{"listed":["https://10.0`, "no server": `{"listed":["file:///etc/passwd"]}`, "of another type": `{"listed":7}`,
	} {
		file := filepath.Join(t.TempDir(), "servers")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := New(Options{Node: "n1", Seeds: three[:1], File: file})
		if got := s.Known(); !slices.Equal(got, three[:1]) {
			t.Errorf("%s: known are %v", name, got)
		}
		if err := s.Learn(three); err != nil || len(New(Options{Node: "n1", Seeds: three[:1], File: file}).Known()) != 3 {
			t.Errorf("%s: it is not replaced: %v", name, err)
		}
	}
	s := New(Options{Node: "n1", Seeds: three[:1], File: filepath.Join(t.TempDir(), "absent", "servers")})
	if err := s.Learn(three); err == nil || len(s.Known()) != 3 {
		t.Errorf("where it cannot be kept: %v, known are %v", err, s.Known())
	}
}

// TestRandomFaults: in any run of faults a node that is not at a serving server is there within what is promised, if one serves.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			s, f, end := run(t, Options{Node: fmt.Sprintf("n%d", seed), Seeds: three})
			defer end()
			for i := range uint64(60) {
				draw := hash(fmt.Sprint(seed), fmt.Sprint(i))
				f.set(three[draw%3], state(draw/3%4))
				time.Sleep(promised + time.Duration(draw%1000)*time.Millisecond)
				f.mu.Lock()
				states := maps.Clone(f.is)
				f.mu.Unlock()
				any := slices.ContainsFunc(three, func(s string) bool { return states[s] == serving })
				if any && states[s.Current()] != serving {
					t.Errorf("seed %d, step %d: at %s of %v", seed, i, s.Current(), states)
				}
			}
		})
	}
}
