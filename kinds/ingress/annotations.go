package ingress

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
)

// Prefix is that of ingress-nginx's annotations. Those of Known are acted on as ingress-nginx does; all others are refused.
const Prefix = "nginx.ingress.kubernetes.io/"

// Protocol is how backends are spoken to.
type Protocol string

// The protocols: HTTP/1.1 and HTTP/2, each in the clear and over TLS. Certificates of backends are not verified, as with ingress-nginx.
const (
	HTTP  Protocol = "HTTP"
	HTTPS Protocol = "HTTPS"
	GRPC  Protocol = "GRPC"
	GRPCS Protocol = "GRPCS"
)

// Settings are what the annotations of an Ingress ask for.
type Settings struct {
	// Rewrite replaces a request's path; $1 to $9 stand for what the groups of the path's expression matched. Empty: it stays.
	Rewrite string
	// Regex says that paths of type ImplementationSpecific are regular expressions, without regard to case.
	Regex bool
	// AppRoot is where requests for / are sent. Empty: nowhere else.
	AppRoot string
	// ToTLS sends requests over HTTP to HTTPS where the host has TLS, ForceTLS everywhere.
	ToTLS, ForceTLS bool
	// Redirect is where all requests are sent, with the code RedirectCode. Empty: they are served.
	Redirect     string
	RedirectCode int
	// Body is the most bytes of a request's body; 0: no bound.
	Body int64
	// Connect is how long a connection to a backend may take; Read and Send, how long a backend, or a client, may be silent within
	// a request.
	Connect, Read, Send time.Duration
	Protocol            Protocol
	// Host is sent to backends in place of the request's. Empty: that one is.
	Host string
	// Allow are the only addresses that are served, Deny are never. Empty Allow: all.
	Allow, Deny []netip.Prefix
	CORS        *CORS // nil: nothing is added
}

// CORS is what browsers are told of requests from other origins.
type CORS struct {
	// Origins may be "*", or https://*.example.org for all hosts below one.
	Origins                  []string
	Methods, Headers, Expose string
	Credentials              bool
	MaxAge                   int // seconds
}

// Fault is something that is wrong with an Ingress.
type Fault struct {
	// Reason is one word, that of its event; Field is the path of the field that it is about.
	Reason, Field, Message string
}

// The reasons.
const (
	BadAnnotation = "BadAnnotation"
	BadPath       = "BadPath"
	Taken         = "HostPathTaken"
	NoBackend     = "BackendNotFound"
	BadSecret     = "BadSecret"
)

func (f Fault) String() string { return f.Field + ": " + f.Message }

// defaults are ingress-nginx's, but that a request's body may have any size: it is passed on as it comes.
func defaults() Settings {
	return Settings{ToTLS: true, RedirectCode: 301, Connect: 5 * time.Second, Read: time.Minute, Send: time.Minute, Protocol: HTTP}
}

// setting reads an annotation's value into Settings.
type setting func(s *Settings, value string) error

// Known are the names of the annotations that are acted on, without their prefix, in order.
func Known() []string { return slices.Sorted(maps.Keys(settings())) }

func settings() map[string]setting {
	cors := func(set func(c *CORS, value string) error) setting {
		return func(s *Settings, value string) error { return set(s.CORS, value) }
	}
	text := func(to func(c *CORS) *string) setting {
		return cors(func(c *CORS, value string) (err error) {
			*to(c), err = header(value)
			return err
		})
	}
	return map[string]setting{
		"app-root": func(s *Settings, v string) error {
			s.AppRoot = v
			return want(strings.HasPrefix(v, "/") && plainText(v), "a path that begins with /")
		},
		"backend-protocol": func(s *Settings, v string) error {
			s.Protocol = Protocol(strings.ToUpper(v))
			return want(slices.Contains([]Protocol{HTTP, HTTPS, GRPC, GRPCS}, s.Protocol), "HTTP, HTTPS, GRPC or GRPCS")
		},
		"enable-cors":            func(*Settings, string) error { return nil }, // looked at first
		"cors-allow-origin":      cors(origins),
		"cors-allow-methods":     text(func(c *CORS) *string { return &c.Methods }),
		"cors-allow-headers":     text(func(c *CORS) *string { return &c.Headers }),
		"cors-expose-headers":    text(func(c *CORS) *string { return &c.Expose }),
		"cors-allow-credentials": cors(func(c *CORS, v string) error { return boolean(&c.Credentials, v) }),
		"cors-max-age": cors(func(c *CORS, v string) (err error) {
			c.MaxAge, err = number(v, 0, 1<<31-1)
			return err
		}),
		"allowlist-source-range": func(s *Settings, v string) error { return ranges(&s.Allow, v) },
		"whitelist-source-range": func(s *Settings, v string) error { return ranges(&s.Allow, v) },
		"denylist-source-range":  func(s *Settings, v string) error { return ranges(&s.Deny, v) },
		"force-ssl-redirect":     func(s *Settings, v string) error { return boolean(&s.ForceTLS, v) },
		"ssl-redirect":           func(s *Settings, v string) error { return boolean(&s.ToTLS, v) },
		"permanent-redirect":     func(s *Settings, v string) error { return redirect(s, v, 301) },
		"permanent-redirect-code": func(s *Settings, v string) (err error) {
			s.RedirectCode, err = number(v, 300, 308)
			return err
		},
		"temporal-redirect":     func(s *Settings, v string) error { return redirect(s, v, 302) },
		"proxy-body-size":       func(s *Settings, v string) error { return size(&s.Body, v) },
		"proxy-connect-timeout": func(s *Settings, v string) error { return seconds(&s.Connect, v) },
		"proxy-read-timeout":    func(s *Settings, v string) error { return seconds(&s.Read, v) },
		"proxy-send-timeout":    func(s *Settings, v string) error { return seconds(&s.Send, v) },
		// Nothing is ever buffered here.
		"proxy-buffering":         func(_ *Settings, v string) error { return want(v == "off", "off: answers are passed on") },
		"proxy-request-buffering": func(_ *Settings, v string) error { return want(v == "off", "off: requests are passed on") },
		"rewrite-target": func(s *Settings, v string) error {
			s.Rewrite = v
			return want(strings.HasPrefix(v, "/") && plainText(v), "a path that begins with /")
		},
		"upstream-vhost": func(s *Settings, v string) error {
			s.Host = v
			return want(v != "" && !strings.ContainsAny(v, "/$\\") && plainText(v), "a host")
		},
		"use-regex": func(s *Settings, v string) error { return boolean(&s.Regex, v) },
	}
}

// Read returns what the annotations of an Ingress ask for, and those that are refused: of ingress-nginx's annotations all others than
// Known, and values that say nothing.
func Read(i *networkingv1.Ingress) (Settings, []Fault) {
	s, known := defaults(), settings()
	var faults []Fault
	refuse := func(name, format string, args ...any) {
		faults = append(faults, Fault{BadAnnotation, "metadata.annotations[" + Prefix + name + "]", fmt.Sprintf(format, args...)})
	}
	cors := false
	if v, ok := i.Annotations[Prefix+"enable-cors"]; ok {
		if err := boolean(&cors, v); err != nil {
			refuse("enable-cors", "%v", err)
		}
	}
	s.CORS = &CORS{Origins: []string{"*"}, Methods: "GET, PUT, POST, DELETE, PATCH, OPTIONS", Credentials: true, MaxAge: 1728000,
		Headers: "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization"}
	for _, key := range slices.Sorted(maps.Keys(i.Annotations)) {
		name, ours := strings.CutPrefix(key, Prefix)
		if !ours {
			continue
		}
		set, ok := known[name]
		if !ok {
			refuse(name, "is not supported: Lockstep's ingress would not act on it (docs/ingress.md has those that it does)")
			continue
		}
		if err := set(&s, strings.TrimSpace(i.Annotations[key])); err != nil {
			refuse(name, "%v", err)
		}
	}
	if !cors {
		s.CORS = nil
	}
	s.Regex = s.Regex || s.Rewrite != ""
	return s, append(faults, s.paths(i)...)
}

// paths finds the paths that are no expressions where they are to be, and groups that they have not.
func (s Settings) paths(i *networkingv1.Ingress) (faults []Fault) {
	if !s.Regex {
		return nil
	}
	all := 0
	for r, rule := range i.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for p, path := range rule.HTTP.Paths {
			groups, at := 0, pathOf(r, p)+".path"
			if !s.Expression(path) {
				if strings.ContainsAny(path.Path, "()*[]|^$\\") {
					faults = append(faults, Fault{BadPath, at, "a regular expression needs pathType: ImplementationSpecific"})
					continue
				}
			} else if re, err := Compile(path.Path); err != nil {
				faults = append(faults, Fault{BadPath, at, "is no regular expression as Go has them (RE2): " + reasonOf(err)})
				continue
			} else {
				groups = re.NumSubexp()
				all += partsOf(path.Path)
			}
			if all > maxAllParts {
				return append(faults, Fault{BadPath, at, fmt.Sprintf("it and those before are regular expressions of more than %d parts",
					maxAllParts)})
			}
			if n := highest(s.Rewrite); n > groups {
				faults = append(faults, Fault{BadAnnotation, "metadata.annotations[" + Prefix + "rewrite-target]",
					fmt.Sprintf("$%d is of no group: %s has %d", n, at, groups)})
			}
		}
	}
	return faults
}

// Expression says that a path of the Ingress is a regular expression.
func (s Settings) Expression(p networkingv1.HTTPIngressPath) bool {
	return s.Regex && p.PathType != nil && *p.PathType == networkingv1.PathTypeImplementationSpecific
}

// highest is the highest group that a rewrite names.
func highest(rewrite string) (n int) {
	for i := 0; i+1 < len(rewrite); i++ {
		if d := rewrite[i+1]; rewrite[i] == '$' && d >= '1' && d <= '9' {
			n = max(n, int(d-'0'))
		}
	}
	return n
}

func pathOf(rule, path int) string { return fmt.Sprintf("spec.rules[%d].http.paths[%d]", rule, path) }

func want(ok bool, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("want %s", what)
}

// plainText says that a value can stand in a header.
func plainText(v string) bool {
	return !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f || r > 0x7e })
}

func header(v string) (string, error) {
	return v, want(v != "" && plainText(v), "what may stand in a header")
}

func boolean(to *bool, v string) error {
	*to = v == "true"
	return want(v == "true" || v == "false", `"true" or "false"`)
}

func number(v string, least, most int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return least, fmt.Errorf("want a number from %d to %d", least, most)
	}
	return n, nil
}

// seconds reads a time as ingress-nginx has it; a day is more than anything waits for.
func seconds(to *time.Duration, v string) error {
	n, err := number(v, 1, 24*60*60)
	*to = time.Duration(n) * time.Second
	return err
}

// size reads a size as nginx has it: 10, 10k, 10m or 10g.
func size(to *int64, v string) error {
	digits, unit := v, int64(1)
	if v != "" {
		switch v[len(v)-1] {
		case 'k', 'K':
			unit = 1 << 10
		case 'm', 'M':
			unit = 1 << 20
		case 'g', 'G':
			unit = 1 << 30
		}
		if unit > 1 {
			digits = v[:len(v)-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	*to = n * unit
	return want(err == nil && n >= 0, "a size as 10, 10k, 10m or 10g; 0 is no limit")
}

func ranges(to *[]netip.Prefix, v string) error {
	for text := range strings.SplitSeq(v, ",") {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if err != nil {
			addr, failed := netip.ParseAddr(text)
			if failed != nil {
				return want(false, "addresses and networks between commas")
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		*to = append(*to, p.Masked())
	}
	return nil
}

// redirect reads where all is sent; permanent-redirect-code comes after permanent-redirect.
func redirect(s *Settings, v string, code int) error {
	u, err := url.Parse(v)
	s.Redirect, s.RedirectCode = v, code
	return want(err == nil && plainText(v) && !strings.Contains(v, "$") && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "",
		"a URL of http or https, without variables")
}

func origins(c *CORS, v string) error {
	c.Origins = nil
	for text := range strings.SplitSeq(v, ",") {
		text = strings.TrimSpace(text)
		scheme, host, ok := strings.Cut(text, "://")
		if text != "*" && (!ok || scheme == "" || host == "" || strings.Contains(host, "/") || !plainText(text)) {
			return want(false, `"*", or origins between commas, as https://example.org or https://*.example.org`)
		}
		c.Origins = append(c.Origins, text)
	}
	return nil
}
