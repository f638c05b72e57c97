package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"lockstep/kinds"
	"lockstep/store"
)

// templates are PodTemplates of a namespace, every other one red.
func templates(namespace string, n int) []kinds.Object {
	var out []kinds.Object
	for i := range n {
		o := &corev1.PodTemplate{ObjectMeta: named(namespace, fmt.Sprintf("template-%04d", i))}
		o.Labels = map[string]string{"colour": []string{"red", "blue"}[i%2]}
		o.Template.Spec.Containers = []corev1.Container{{Name: "test", Image: "test2"}}
		out = append(out, o)
	}
	return out
}

// TestChunks reads a list in parts, in each encoding and by each selector, while it changes: all parts are of one revision, and
// together what was there.
func TestChunks(t *testing.T) {
	const all, limit = 100, 17
	s := newTestServer(t, nil, append(templates("a", all), templates("b", 3)...)...)
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		for name, test := range map[string]struct {
			opts  metav1.ListOptions
			of    int
			whole bool
		}{
			"all":       {metav1.ListOptions{}, all, true},
			"by labels": {metav1.ListOptions{LabelSelector: "colour=red"}, all / 2, false},
			"by fields": {metav1.ListOptions{FieldSelector: "metadata.name!=template-0000"}, all - 1, false},
			"any":       {metav1.ListOptions{ResourceVersion: "0"}, all, true},
		} {
			config := rest.CopyConfig(s.viewer())
			config.ContentType = contentType
			c := client(t, config).CoreV1().PodTemplates("a")
			opts := test.opts
			opts.Limit = limit
			found, revision := 0, ""
			for {
				list, err := c.List(t.Context(), opts)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if revision == "" {
					revision = list.ResourceVersion
				}
				found += len(list.Items)
				left := list.RemainingItemCount
				if len(list.Items) > limit || list.ResourceVersion != revision || (left != nil) != (test.whole && list.Continue != "") ||
					left != nil && int(*left)+found != test.of {
					t.Errorf("%s: %d items of revision %s, remaining %v after %d", name, len(list.Items), list.ResourceVersion, left, found)
				}
				if opts.Continue = list.Continue; opts.Continue == "" {
					break
				}
				opts.ResourceVersion = ""
				s.put(templates("a", 1)[0]) // the first is written anew, which is a revision
			}
			if found != test.of {
				t.Errorf("%s: %d of %d are in the parts", name, found, test.of)
			}
		}
	}
	list, err := client(t, s.viewer()).CoreV1().PodTemplates("a").List(t.Context(), metav1.ListOptions{Limit: all})
	if err != nil || len(list.Items) != all || list.Continue != "" || list.RemainingItemCount != nil {
		t.Errorf("as many as there are: %v, %d, %q, %v", err, len(list.Items), list.Continue, list.RemainingItemCount)
	}
}

// TestChunksThatExpire is what Kubernetes' conformance wants: a token that is used again and again expires, and its error has one by
// which the list goes on, of one newer revision.
func TestChunksThatExpire(t *testing.T) {
	const all, limit = 40, 4
	s := newTestServer(t, nil)
	var passed atomic.Int64
	s.opts.Now = func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
	s.restart()
	s.put(templates("a", all)...)
	c := client(t, s.viewer()).CoreV1().PodTemplates("a")
	first, err := c.List(t.Context(), metav1.ListOptions{Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	opts := metav1.ListOptions{Limit: limit, Continue: first.Continue}
	token := ""
	for range 30 {
		s.put(configMap("a", "beat", nil))
		if _, err = c.List(t.Context(), opts); err != nil {
			token = err.(apierrors.APIStatus).Status().Continue
			break
		}
		passed.Add(int64(20 * time.Second))
	}
	if !apierrors.IsResourceExpired(err) || token == "" || time.Duration(passed.Load()) > 6*time.Minute {
		t.Fatalf("after %s: %v", time.Duration(passed.Load()), err)
	}
	found, revision := limit, ""
	for token != "" {
		list, err := c.List(t.Context(), metav1.ListOptions{Limit: limit, Continue: token})
		if err != nil {
			t.Fatal(err)
		}
		if revision == "" {
			revision = list.ResourceVersion
		}
		if list.ResourceVersion != revision || revision == first.ResourceVersion {
			t.Errorf("of revision %s, then of %s", revision, list.ResourceVersion)
		}
		for _, o := range list.Items {
			if want := fmt.Sprintf("template-%04d", found); o.Name != want {
				t.Errorf("%s, want %s", o.Name, want)
			}
			found++
		}
		token = list.Continue
		s.put(configMap("a", "beat", nil))
	}
	if found != all {
		t.Errorf("%d of %d", found, all)
	}
}

// TestPager: client-go's pager reads all, also where its token expires.
func TestPager(t *testing.T) {
	s := newTestServer(t, nil)
	var passed atomic.Int64
	s.opts.Now = func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
	s.restart()
	s.put(templates("a", 50)...)
	c := client(t, s.viewer()).CoreV1().PodTemplates("a")
	for name, between := range map[string]func(){
		"in time": func() {},
		"late": func() {
			s.put(configMap("a", "beat", nil))
			passed.Add(int64(time.Hour))
		},
	} {
		asked := 0
		p := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			asked++
			defer between()
			return c.List(ctx, opts)
		})
		p.PageSize = 20
		list, _, err := p.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		o, err := json.Marshal(list)
		if names := strings.Count(string(o), `"template-00`); err != nil || names != 50 || asked != 3 {
			t.Errorf("%s: %d items by %d requests", name, names, asked)
		}
	}
}

// TestTokensOfOtherLists: a token continues the list it is of, and no other.
func TestTokensOfOtherLists(t *testing.T) {
	s := newTestServer(t, nil, configMap("a", "one", nil), configMap("a", "two", nil))
	s.put(append(templates("a", 9), templates("b", 9)...)...)
	v := s.viewer()
	token := func(path string, query url.Values) string {
		code, body := s.ask(v, "GET", path+"?"+query.Encode(), "")
		var list metav1.PartialObjectMetadataList
		if err := json.Unmarshal([]byte(body), &list); err != nil || code != 200 || list.Continue == "" {
			t.Fatalf("%s: %d %s", path, code, body)
		}
		return list.Continue
	}
	const path = "/api/v1/namespaces/a/podtemplates"
	red := url.Values{"limit": {"2"}, "labelSelector": {"colour=red"}}
	made := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	own := token(path, red)
	raw, err := base64.RawURLEncoding.DecodeString(own)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		token string
		more  url.Values
		code  int
		says  string
	}{
		"its own":              {own, nil, 200, "template-0004"},
		"its own, more":        {own, url.Values{"limit": {"9223372036854775807"}}, 200, "template-0008"},
		"its own, all":         {own, url.Values{"limit": {"0"}}, 200, "template-0008"},
		"fewer than none":      {own, url.Values{"limit": {"-1"}}, 200, "template-0008"},
		"more than there are":  {own, url.Values{"limit": {"9223372036854775808"}}, 400, ""},
		"with a revision":      {own, url.Values{"resourceVersion": {"1"}}, 400, "not allowed when using continue"},
		"with any revision":    {own, url.Values{"resourceVersion": {"0"}}, 200, "template-0004"},
		"of another kind":      {token("/api/v1/namespaces/a/configmaps", url.Values{"limit": {"1"}}), nil, 400, "another kind"},
		"of another namespace": {token("/api/v1/namespaces/b/podtemplates", red), nil, 400, "another kind, namespace"},
		"of all namespaces":    {token("/api/v1/podtemplates", red), nil, 400, "another kind, namespace"},
		"of no selector":       {token(path, url.Values{"limit": {"2"}}), nil, 400, "selector"},
		"of another selector":  {own, url.Values{"labelSelector": {"colour=blue"}}, 400, "selector"},
		"of fields, too":       {own, url.Values{"fieldSelector": {"metadata.name!=x"}}, 400, "selector"},
		"garbage":              {"rubbish", nil, 400, "invalid continue token"},
		"no base64":            {"%%%", nil, 400, "invalid continue token"},
		"nothing":              {made(`{}`), nil, 400, "invalid continue token"},
		"no place":             {made(`{"v":"meta.k8s.io/v1","rv":5,"start":""}`), nil, 400, "invalid continue token"},
		"upwards":              {made(`{"v":"meta.k8s.io/v1","rv":5,"start":"../../a"}`), nil, 400, "invalid continue token"},
		"of Kubernetes":        {made(`{"v":"meta.k8s.io/v1","rv":5,"start":"a/template-0001\u0000"}`), nil, 400, "invalid continue token"},
		"what is to come": {made(strings.Replace(string(raw), `"rv":`, `"rv":9`, 1)), nil, 410,
			"The provided continue parameter is too old to display a consistent list result"},
		"deep": {made(strings.Repeat(`{"v":`, 3_000)), nil, 400, "invalid continue token"},
	} {
		query := url.Values{"continue": {test.token}}
		for _, values := range []url.Values{red, test.more} {
			for key := range values {
				query[key] = values[key]
			}
		}
		code, body := s.ask(v, "GET", path+"?"+query.Encode(), "")
		if code != test.code || !strings.Contains(body, test.says) {
			t.Errorf("%s: %d %.300s, want %d and %q", name, code, body, test.code, test.says)
		}
	}
}

// TestKubectlReadsInChunks: kubectl asks for parts, and shows all of them as tables and as objects.
func TestKubectlReadsInChunks(t *testing.T) {
	s := newTestServer(t, nil, templates("a", 25)...)
	for _, output := range []string{"", "name", "jsonpath={range .items[*]}{.metadata.name}{'\\n'}{end}"} {
		args := []string{"get", "podtemplates", "-n", "a", "--chunk-size=4"}
		if output != "" {
			args = append(args, "-o", output)
		}
		out, ok := s.kubectl(t.Context(), args...)
		var found []string
		for _, word := range strings.FieldsFunc(out, func(r rune) bool { return strings.ContainsRune(" \n/", r) }) {
			if strings.HasPrefix(word, "template-") {
				found = append(found, word)
			}
		}
		if !ok || len(found) != 25 || !slices.IsSorted(found) {
			t.Errorf("-o %q: %d\n%s", output, len(found), out)
		}
	}
}

// BenchmarkChunks lists 10,000 objects whole, and in parts of 500.
func BenchmarkChunks(b *testing.B) {
	s := newTestServer(b, nil)
	var group store.Group
	for _, o := range templates("a", 10_000) {
		group = append(group, put(o))
	}
	for some := range slices.Chunk(group, 100) {
		s.commit(some...)
	}
	if _, err := s.server.hub.Wait(b.Context(), s.store.View().Revision()); err != nil {
		b.Fatal(err)
	}
	config := s.viewer()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.QPS, config.Burst = -1, -1
	c := client(b, config).CoreV1().PodTemplates("a")
	for _, limit := range []int64{0, 500} {
		b.Run(fmt.Sprint("limit=", limit), func(b *testing.B) {
			for b.Loop() {
				found, opts := 0, metav1.ListOptions{Limit: limit}
				for more := true; more; more = opts.Continue != "" {
					list, err := c.List(b.Context(), opts)
					if err != nil {
						b.Fatal(err)
					}
					found += len(list.Items)
					opts.Continue = list.Continue
				}
				if found != 10_000 {
					b.Fatal(found)
				}
			}
		})
	}
}
