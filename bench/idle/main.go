// Command idle is the container that the benchmarks start: it waits for the signal that ends it, or ends at once when it is
// given any argument but "serve", with which it answers probes by HTTP meanwhile.
package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		if os.Args[1] != "serve" {
			return
		}
		listener, err := net.Listen("tcp", ":8080")
		if err != nil {
			os.Exit(1)
		}
		context.AfterFunc(ctx, func() { listener.Close() })
		serve(listener)
	}
	<-ctx.Done()
}

// serve answers whatever it is asked with 200, until the listener is closed. It is not net/http, which would be most of the image.
func serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		var request [4096]byte // a probe is shorter, and comes at once
		if _, err := conn.Read(request[:]); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}
		conn.Close()
	}
}
