package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"lockstep/internal/sleep"
	"lockstep/kinds"
	"lockstep/nodeagent/client"
	"lockstep/nodeagent/register"
	"lockstep/nodeagent/servers"
	"lockstep/nodeagent/tunnel"
)

const (
	// joinRetry is the longest pause between attempts to join; the first is a tenth, for a server that is just starting.
	joinRetry = time.Second
	// joinPatience is how long a failure to join is not worth a warning: a server that starts is ready within it.
	joinPatience = 3 * time.Second
	renewCheck   = time.Hour // certificates last for months
	renewRetry   = time.Second
	// renewSpread is the time over which nodes renew their certificates when the cluster's authority is another one.
	renewSpread = 10 * time.Second
	// authorityHeader of an answer names the authority that signs, and those that are trusted.
	authorityHeader = "Lockstep-Authority"
	// historyHeader of an answer names the history that the API's revisions are of.
	historyHeader = "Lockstep-History"
)

// joinCluster joins, then keeps what needs the API running until ctx ends. A
// refused token is an error; a server that does not answer is waited for.
func (a *Agent) joinCluster(ctx context.Context) error {
	id := a.identity()
	if err := a.join(ctx, id); err != nil {
		return err
	}
	link, err := id.Link()
	if err != nil {
		return err
	}
	line := tunnel.NewLine(a.serverAddress, id.TLS)
	link.Heard, link.Servers, a.link = a.heard, a.servers, link
	a.begin([]task{{"servers", func(ctx context.Context) error { return a.servers.Run(ctx, moving{link, line}) }}})
	if _, told, _ := a.opts.keptSettings(); told || len(a.allPods()) > 0 { // it goes on, and is told when there is somebody to tell it
		a.begin([]task{{"settings", func(ctx context.Context) error { return a.learnSettings(ctx, link) }}})
	} else if err := a.learnSettings(ctx, link); err != nil {
		return err
	}
	client, err := client.New(link.Config())
	if err != nil {
		return fmt.Errorf("cannot make client for %s: %w", a.opts.Server, err)
	}
	a.mu.Lock()
	a.client = client
	a.mu.Unlock()
	a.statuses.nudge()
	for _, p := range a.allPods() {
		p.Poke()
	}
	poke(a.contentWake)
	close(a.connected)
	a.begin(a.joinedTasks(client, id, link, line.Dial))
	return nil
}

// identity is the node's, towards the server that it uses now.
func (a *Agent) identity() register.Identity {
	id := register.Identity{Node: a.opts.NodeName, Dir: a.opts.agentDir()}
	if a.servers != nil {
		id.Server = a.servers.Current()
	}
	return id
}

// atEach has a request that is not a link's answered by any of the servers, the one in use first: by the next one where a server does not
// answer, or cannot.
func (a *Agent) atEach(ctx context.Context, ask func(register.Identity) error) error {
	id := a.identity()
	err := ask(id)
	for _, server := range a.servers.Known() {
		if err == nil || ctx.Err() != nil || errors.Is(err, register.ErrRefused) || errors.Is(err, register.ErrToken) {
			return err
		}
		if server != id.Server {
			next := id
			next.Server = server
			if again := ask(next); again == nil || errors.Is(again, register.ErrRefused) {
				err = again
			}
		}
	}
	return err
}

// Joined says that the node has a certificate that holds: it needs no token.
func Joined(o Options) bool {
	o, err := o.withDefaults()
	return err == nil && (&Agent{opts: o}).identity().Joined(time.Now())
}

// join gets a certificate unless there is one.
func (a *Agent) join(ctx context.Context, id register.Identity) error {
	begun, told, pause := time.Now(), false, joinRetry/10
	for !id.Joined(time.Now()) {
		token := a.opts.Token
		if token == "" && a.opts.TokenFile != "" {
			data, err := os.ReadFile(a.opts.TokenFile)
			if err != nil {
				return fmt.Errorf("cannot read token: %w", err)
			}
			token = string(data)
		}
		if token == "" {
			return fmt.Errorf("cannot join %s: a token is needed", id.Server)
		}
		by := ""
		err := a.atEach(ctx, func(id register.Identity) error { by = id.Server; return id.Join(ctx, token) })
		switch {
		case err == nil:
			a.log.Info("joined cluster", "server", by)
			return nil
		case errors.Is(err, register.ErrRefused), errors.Is(err, register.ErrToken):
			return err
		case !told && ctx.Err() == nil && time.Since(begun) > joinPatience:
			a.log.Warn("cannot join yet", "error", err)
			told = true
		}
		if !sleep.For(ctx, pause) {
			return nil
		}
		pause = min(2*pause, joinRetry)
	}
	return nil
}

// renewCertificate replaces the node's certificate long before it expires. One
// that expired while no server answered is bought anew, if there is a token.
func (a *Agent) renewCertificate(ctx context.Context, id register.Identity, link *register.Link) error {
	for ctx.Err() == nil {
		c, err := id.Certificate()
		if err != nil {
			a.log.Warn("cannot read own certificate", "error", err)
			sleep.For(ctx, renewRetry)
			continue
		}
		other := a.otherAuthority(id)
		if due := time.Until(register.RenewAt(c)); due > 0 && !other {
			timer := time.NewTimer(min(due, renewCheck)) // the clock may be set meanwhile
			select {
			case <-ctx.Done():
			case <-timer.C:
			case <-a.authorityWake:
			}
			timer.Stop()
			continue
		}
		if other && !sleep.For(ctx, servers.Delay(a.opts.NodeName, renewSpread)) {
			return nil
		}
		if id.Joined(time.Now()) {
			err = a.atEach(ctx, func(id register.Identity) error { return id.Renew(ctx) })
		} else {
			err = a.join(ctx, id)
		}
		a.metrics.report("certificate", time.Now(), err)
		if err == nil {
			err = link.Trust()
			a.otherAuthority(id)
			a.reportNode()
		}
		if err == nil && other { // until the servers have told of yet another
			continue
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot renew certificate", "error", err, "expires", c.NotAfter)
		}
		if other {
			sleep.For(ctx, renewSpread)
		} else if c, err = id.Certificate(); err == nil {
			sleep.For(ctx, min(max(time.Until(c.NotAfter)/3, renewRetry), renewCheck))
		}
	}
	return nil
}

// authoritySeen takes in which authority an answer of the API names.
func (a *Agent) authoritySeen(mark string) {
	a.mu.Lock()
	changed := a.authority != mark
	a.authority = mark
	a.mu.Unlock()
	if changed {
		poke(a.authorityWake)
	}
}

// otherAuthority says whether the servers have another authority than the node got its certificate from.
func (a *Agent) otherAuthority(id register.Identity) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.certified = id.Mark()
	return a.authority != "" && a.authority != a.certified
}

// marks are labels and annotations that the node has for itself: those of CSI drivers, and which authority its certificate is of.
func (a *Agent) marks() (labels, annotations map[string]string) {
	labels, annotations = a.csi.Marks()
	a.mu.Lock()
	mark := a.certified
	a.mu.Unlock()
	if mark != "" {
		annotations = maps.Clone(annotations)
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[kinds.Authority] = mark
	}
	return labels, annotations
}
