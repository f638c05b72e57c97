// Command standin stands in for the programs of public images in tests: it serves, asks, shows, writes, takes memory, burns
// CPU time, or shares in that, or waits.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const usage = `standin serve NAME PORT…   answer every GET on the ports with NAME and the host's name
standin ask URL…           print what each URL answers; exit 1 if one does not
standin api PATH           print what the cluster's API answers, asked as client libraries do in a pod
standin show FILE          print a file
standin write FILE TEXT    add a line to a file, which is made if it is not there, and have it on the disk
standin take MEBIBYTES     take that much memory, a mebibyte at a time, and wait until terminated
standin burn               keep one CPU busy until terminated
standin share FILE NAME    burn one share of the thousandths of a CPU that the file says, of as many as the name has
                           addresses, until terminated
standin wait               do nothing until terminated`

// linger is how long a server that is to end goes on answering: the other nodes need a moment to stop sending to it.
const linger = 2 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) >= 3 && args[0] == "serve":
		return serve(ctx, args[1], args[2:])
	case len(args) >= 2 && args[0] == "ask":
		return ask(ctx, args[1:])
	case len(args) == 2 && args[0] == "api":
		return api(ctx, args[1])
	case len(args) == 2 && args[0] == "show":
		raw, err := os.ReadFile(args[1])
		fmt.Print(string(raw))
		return err
	case len(args) == 3 && args[0] == "write":
		return write(args[1], args[2])
	case len(args) == 2 && args[0] == "take":
		taken, err := take(args[1])
		if err != nil {
			return err
		}
		<-ctx.Done()
		runtime.KeepAlive(taken)
		return nil
	case len(args) == 1 && args[0] == "burn":
		for ctx.Err() == nil {
		}
		return nil
	case len(args) == 3 && args[0] == "share":
		return share(ctx, args[1], args[2])
	case len(args) == 1 && args[0] == "wait":
		<-ctx.Done()
		return nil
	}
	return errors.New(usage)
}

func serve(ctx context.Context, name string, ports []string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // every request is a new connection for the service to place
		_, _ = fmt.Fprintf(w, "%s %s\n", name, host)
	})}
	// All or none: one that cannot begin answers nobody, or it would be ready for a moment.
	var listeners []net.Listener
	for _, port := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		listeners = append(listeners, listener)
	}
	ended := make(chan error, len(ports))
	for _, listener := range listeners {
		go func() { ended <- server.Serve(listener) }()
	}
	fmt.Println(name, "serves")
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		time.Sleep(linger)
		return server.Shutdown(context.Background())
	}
}

func write(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// take returns memory of which every page was written to.
func take(mebibytes string) ([][]byte, error) {
	n, err := strconv.ParseUint(mebibytes, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("cannot take %q mebibytes: %w", mebibytes, err)
	}
	taken := make([][]byte, n)
	for i := range taken {
		taken[i] = make([]byte, 1<<20)
		for page := 0; page < len(taken[i]); page += os.Getpagesize() {
			taken[i][page] = 1
		}
	}
	return taken, nil
}

// api asks by the names, the authority and the token that every pod is given.
func api(ctx context.Context, path string) error {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount"
	token, err := os.ReadFile(account + "/token")
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(account + "/ca.crt")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kubernetes.default.svc"+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Println(response.StatusCode)
	_, err = io.Copy(os.Stdout, io.LimitReader(response.Body, 1<<16))
	return err
}

func ask(ctx context.Context, urls []string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	for _, url := range urls {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, io.LimitReader(response.Body, 1<<16))
		_ = response.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
