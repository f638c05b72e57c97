package command

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/pflag"

	"lockstep/nodeagent"
)

// ingressFlags say how a node serves Ingresses.
type ingressFlags struct {
	serve, log       string
	http, https      uint16
	trusted, proxied []string
}

func (f *ingressFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.serve, "ingress", "on", "`on|off`: whether the node serves Ingresses; it listens while there are some")
	flags.Uint16Var(&f.http, "ingress-http-port", 80, "`PORT` of HTTP for Ingresses")
	flags.Uint16Var(&f.https, "ingress-https-port", 443, "`PORT` of HTTPS for Ingresses")
	flags.StringSliceVar(&f.trusted, "ingress-trusted-proxies", nil,
		"`NETWORKS` of proxies in front, whose X-Forwarded headers are believed")
	flags.StringSliceVar(&f.proxied, "ingress-proxy-protocol", nil,
		"`NETWORKS` of proxies in front, whose connections begin with a header of the PROXY protocol")
	flags.StringVar(&f.log, "ingress-access-log", "", "`FILE` for a line of JSON a request (default: none)")
}

// options are nil where the node is not to serve.
func (f *ingressFlags) options() (*nodeagent.Ingress, error) {
	o := &nodeagent.Ingress{HTTP: f.http, HTTPS: f.https, AccessLog: f.log}
	err := appendable(f.log)
	if err != nil {
		return nil, unusable("ingress-access-log", f.log, err)
	}
	if o.Trusted, err = networks("ingress-trusted-proxies", f.trusted); err != nil {
		return nil, err
	}
	if o.Proxied, err = networks("ingress-proxy-protocol", f.proxied); err != nil {
		return nil, err
	}
	switch {
	case f.http == 0 || f.https == 0 || f.http == f.https:
		return nil, fmt.Errorf("cannot serve ingress at ports %d and %d: want two ports from 1 to 65535", f.http, f.https)
	case f.serve == "off":
		return nil, nil
	case f.serve != "on":
		return nil, fmt.Errorf("cannot use --ingress %s: want on or off", f.serve)
	}
	return o, nil
}

// appendable says why a file cannot be written to its end; it is made where there is none. Empty: there is nothing to write.
func appendable(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// networks reads a flag's networks, each an address or in CIDR notation.
func networks(flag string, texts []string) (out []netip.Prefix, err error) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, failed := netip.ParseAddr(text)
			if failed != nil {
				return nil, fmt.Errorf("cannot use --%s %s: want networks, as 10.0.0.0/8", flag, text)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
