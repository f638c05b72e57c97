package etcd

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
)

// TestAwayForLong: an external etcd that was out of reach for long is dialled as often as at first.
func TestAwayForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const away, longest = 10 * time.Minute, 1500 * time.Millisecond
		var mu sync.Mutex
		last, worst := time.Now(), time.Duration(0)
		note := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			worst, last = max(worst, time.Since(last)), time.Now()
			return worst
		}
		dial := func(context.Context, string) (net.Conn, error) {
			note()
			return nil, errors.New("no route to host")
		}
		client, err := connect([]string{"http://192.0.2.1:2379"}, nil, grpc.WithContextDialer(dial))
		if err != nil {
			t.Fatal(err)
		}
		client.ActiveConnection().Connect()
		time.Sleep(away)
		if worst := note(); worst > longest {
			t.Errorf("nobody asked for etcd for %s", worst)
		}
		if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
