package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/kubectl"
	"lockstep/lab"
)

func (c *scenario) kubectl(ctx context.Context, folder string, args []string) (string, error) {
	return c.kubectlWith(ctx, c.stage.kubeconfig, folder, args)
}

// as runs kubectl with a new kubeconfig of a user, in groups.
func (c *scenario) as(ctx context.Context, folder string, args []string) (string, error) {
	if len(args) < 2 {
		return "", errUsage
	}
	names := strings.Split(args[0], ",")
	flags := []string{"--user", names[0]}
	for _, group := range names[1:] {
		flags = append(flags, "--group", group)
	}
	raw, err := c.lab.Kubeconfig(ctx, true, flags...)
	if err != nil {
		return "", err
	}
	file := filepath.Join(c.work, ".tmp", "kubeconfig-"+names[0])
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return "", fmt.Errorf("cannot keep a kubeconfig: %w", err)
	}
	return c.kubectlWith(ctx, file, folder, args[1:])
}

func (c *scenario) kubectlWith(ctx context.Context, kubeconfig, folder string, args []string) (string, error) {
	cmd := kubectl.Command(ctx, kubeconfig, filepath.Join(c.work, ".tmp"), append([]string{"--namespace", c.name}, args...)...)
	cmd.Dir = folder
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, &out)
	}
	return out.String(), err
}

func (c *scenario) lockstep(ctx context.Context, _ string, args []string) (string, error) {
	return c.lab.Server().Run(ctx, c.stage.lockstep(), args...)
}

func (c *scenario) on(ctx context.Context, _ string, args []string) (string, error) {
	if len(args) < 2 {
		return "", errUsage
	}
	h, err := c.lab.Host(args[0])
	if err != nil {
		return "", err
	}
	return h.Run(ctx, args[1], args[2:]...)
}

func (c *scenario) curl(ctx context.Context, folder string, args []string) (string, error) {
	times := 1
	if len(args) == 3 {
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return "", errUsage
		}
		times = n
	} else if len(args) != 2 {
		return "", errUsage
	}
	if strings.Contains(args[0], "=") {
		return c.in(ctx, folder, append([]string{args[0], "/standin", "ask"}, slices.Repeat(args[1:2], times)...))
	}
	h, err := c.lab.Host(args[0])
	if err != nil {
		return "", err
	}
	out := ""
	for range times {
		text, err := get(ctx, h, args[1])
		if out += text; err != nil {
			return out, err
		}
	}
	return out, nil
}

// get gets a URL from a host, over a new connection.
func get(ctx context.Context, h *lab.Host, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	ask := answer
	if request.URL.User != nil {
		ask = answerAs
	}
	code, text, err := ask(h, request)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s answers %d", url, code)
	}
	return text, err
}

// answerAs asks for a host by its name, which stands in the URL where a user would, and follows no redirects. Over TLS the answer begins
// with the name of the certificate that the host shows.
func answerAs(h *lab.Host, request *http.Request) (code int, text string, err error) {
	request.Host, request.URL.User = request.URL.User.Username(), nil
	client := h.HTTP()
	defer client.CloseIdleConnections()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if t, ok := client.Transport.(*http.Transport); ok {
		t.TLSClientConfig.ServerName = request.Host
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if response.TLS != nil {
		text = response.TLS.PeerCertificates[0].Subject.CommonName + " "
	}
	return response.StatusCode, text + string(raw), err
}

// answer makes a request from a host.
func answer(h *lab.Host, request *http.Request) (code int, text string, err error) {
	client := h.HTTP()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	return response.StatusCode, string(raw), err
}

// unsigned sends a webhook that nobody has signed.
func (c *scenario) unsigned(ctx context.Context) (string, error) {
	hub, err := c.lab.Host(lab.Hub)
	if err != nil {
		return "", err
	}
	url := "https://" + c.lab.Server().Addr + ":6443/hooks/git"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	code, _, err := answer(hub, request)
	return fmt.Sprintln(code), err
}

func (c *scenario) in(ctx context.Context, _ string, args []string) (string, error) {
	if len(args) < 2 {
		return "", errUsage
	}
	selector, name, _ := strings.Cut(args[0], "@")
	node := ""
	if name != "" {
		h, err := c.lab.Host(name)
		if err != nil {
			return "", err
		}
		node = h.Name
	}
	pods, err := c.pods(ctx, selector)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return running(p) && (node == "" || p.Spec.NodeName == node) })
	if i < 0 {
		return "", fmt.Errorf("no pod runs that is %s", args[0])
	}
	return c.inside(ctx, pods[i], args[1:]...)
}

// running says whether a pod has a container in which something can be done.
func running(p corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Running != nil
}

// inside runs a command in a pod's first container. What it prints goes by a file: ctr's own pipes lose the words of one in a
// hundred commands that end at once.
func (c *scenario) inside(ctx context.Context, p corev1.Pod, command ...string) (string, error) {
	h, err := c.lab.Host(p.Spec.NodeName)
	if err != nil {
		return "", err
	}
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	name := fmt.Sprintf("script-%d", time.Now().UnixNano())
	return h.Run(ctx, "sh", append([]string{"-c", execute, "sh", name, id}, command...)...)
}

// execute runs a command, of a name of its own, in a container. The shim may close its log before it has what a command that fails
// wrote to its standard error: one that failed without a word is asked again, up to three times.
const execute = `printed=/run/$1 name=$1 container=$2
shift 2
for attempt in 1 2 3; do
	ctr -n lockstep task exec --log-uri file://$printed --exec-id $name-$attempt $container "$@"
	code=$?
	if [ $code = 0 ] || [ -s $printed ]; then break; fi
done
cat $printed
rm -f $printed
exit $code`

func (c *scenario) containers(ctx context.Context, _ string, args []string) (string, error) {
	if len(args) > 1 {
		return "", errUsage
	}
	pods, err := c.pods(ctx, strings.Join(args, ""))
	if err != nil {
		return "", err
	}
	var out []string
	for _, p := range pods {
		for _, s := range p.Status.ContainerStatuses {
			out = append(out, fmt.Sprintf("%s/%s/%s %s\n", p.Namespace, p.Name, s.Name, s.ContainerID))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ""), nil
}

func (c *scenario) state(ctx context.Context, folder string, args []string) (string, error) {
	if len(args) > 0 {
		return "", errUsage
	}
	out, err := c.containers(ctx, folder, nil)
	if err != nil {
		return "", err
	}
	namespaces, err := c.namespaces(ctx)
	if err != nil {
		return "", err
	}
	for _, namespace := range namespaces {
		deployments, err := c.stage.client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		// Not its version: after a move the file that it names is the new one with the next change of its status.
		for _, d := range deployments.Items {
			out += fmt.Sprintf("Deployment %s/%s %d\n", namespace, d.Name, d.Generation)
		}
		configs, err := c.stage.client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		for _, m := range configs.Items {
			out += fmt.Sprintf("ConfigMap %s/%s %s\n", namespace, m.Name, m.ResourceVersion)
		}
	}
	return out, nil
}

// service returns a Service by its name, or NAME.NAMESPACE.
func (c *scenario) service(ctx context.Context, text string) (*corev1.Service, error) {
	name, namespace, _ := strings.Cut(text, ".")
	if namespace == "" {
		namespace = c.name
	}
	return c.stage.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
}

// urls are where a service answers from outside of pods: its address, and its node port on each node.
func (c *scenario) urls(s *corev1.Service) []string {
	port := s.Spec.Ports[0]
	out := []string{fmt.Sprintf("http://%s:%d/", s.Spec.ClusterIP, port.Port)}
	for _, h := range c.lab.Agents() {
		if port.NodePort != 0 {
			out = append(out, fmt.Sprintf("http://%s:%d/", h.Addr, port.NodePort))
		}
	}
	return out
}

func (c *scenario) everywhere(_ *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	ctx := c.t.Context()
	s, err := c.service(ctx, args[0])
	if err != nil {
		return err
	}
	fits := func(answer string, err error) error {
		if err == nil && slices.Contains(args[1:], strings.SplitN(answer, " ", 2)[0]) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("%s answers %q, want one of %q", args[0], answer, args[1:]))
	}
	pods, err := c.pods(ctx, "")
	if err != nil {
		return err
	}
	ask := func(p corev1.Pod, name string) error {
		url := fmt.Sprintf("http://%s:%d/", name, s.Spec.Ports[0].Port)
		if err := eventually(ctx, func() error { return fits(c.inside(ctx, p, "/standin", "ask", url)) }); err != nil {
			return fmt.Errorf("from pod %s on %s: %w", p.Name, p.Spec.NodeName, err)
		}
		return nil
	}
	beside := false
	for _, h := range c.lab.Agents() {
		near := func(p corev1.Pod) bool { return running(p) && p.Namespace == s.Namespace && p.Spec.NodeName == h.Name }
		if i := slices.IndexFunc(pods, near); i >= 0 {
			beside = true
			if err := ask(pods[i], s.Name); err != nil {
				return err
			}
		}
		asker, err := c.stage.asker(ctx, h)
		if err != nil {
			return err
		}
		for _, name := range []string{s.Name + "." + s.Namespace, s.Name + "." + s.Namespace + ".svc.cluster.local"} {
			if err := ask(*asker, name); err != nil {
				return err
			}
		}
		for _, url := range c.urls(s) {
			if err := eventually(ctx, func() error { return fits(get(ctx, h, url)) }); err != nil {
				return fmt.Errorf("%s from %s: %w", url, h.Name, err)
			}
		}
	}
	if !beside {
		return fmt.Errorf("no pod runs in %s", s.Namespace)
	}
	return nil
}
