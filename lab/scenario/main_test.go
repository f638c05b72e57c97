package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"lockstep/internal/kubectl"
	"lockstep/lab"
	"lockstep/lab/image"
	"lockstep/lab/programs"
)

// cluster is the lab that all tests of the package share: one server and two agents, with the repository shop over
// HTTP and the repository poll over SSH as its sources.
var cluster struct {
	*lab.Lab
	client   *kubernetes.Clientset
	lockstep string
	standin  string // the program that containers run
	config   string // kubeconfig
}

func TestMain(m *testing.M) {
	kubectl.Main()
	programs.Main(m, "the tests of a lab", up, down)
}

func down(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return lab.Remove(ctx, filepath.Join(dir, "lab"))
}

func up(dir string) error {
	bin, err := programs.Find(dir, map[string]string{"standin": "lockstep/lab/standin"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cluster.lockstep, cluster.standin = filepath.Join(bin, "lockstep"), filepath.Join(dir, "standin")
	l, err := lab.Up(ctx, lab.Options{
		Dir: filepath.Join(dir, "lab"), Lockstep: cluster.lockstep, Self: filepath.Join(bin, "lockstep-lab"), Prefix: "push-",
		Sources: []string{
			fmt.Sprintf("http://%s:%d/lab/shop.git", lab.HubAddr, lab.GitPort),
			fmt.Sprintf("ssh://git@%s:%d/lab/poll.git", lab.HubAddr, lab.SSHPort),
		},
	})
	if err != nil {
		return err
	}
	cluster.Lab = l
	if cluster.client, err = l.Client(ctx); err != nil {
		return err
	}
	raw, err := l.Kubeconfig(ctx, true)
	if err != nil {
		return err
	}
	cluster.config = filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(cluster.config, raw, 0o600); err != nil {
		return err
	}
	program, err := image.Program(cluster.standin, "/standin")
	if err != nil {
		return err
	}
	tars, err := pack(dir, program, images)
	if err != nil {
		return err
	}
	return l.Images(ctx, tars...)
}

// images are what the manifests of the tests run, each with the arguments of the stand-in that takes its place.
var images = map[string][]string{
	"registry.example.org/shop/web:v1":   {"serve", "web-v1", "8080"},
	"registry.example.org/shop/web:v2":   {"serve", "web-v2", "8080"},
	"registry.example.org/shop/cache:v1": {"serve", "cache", "6379"},
	"poll-db:15":                         {"serve", "db", "5432"},
	"examples/poll-vote":                 {"serve", "vote", "80"},
	"examples/poll-worker":               {"wait"},
}

// pack makes images in a folder and returns their tars.
func pack(dir string, program image.File, images map[string][]string) ([]string, error) {
	var tars []string
	for name, args := range images {
		tar := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(name)+".tar")
		i := image.Image{Files: []image.File{program}, Entrypoint: append([]string{"/standin"}, args...)}
		if err := i.Save(tar, name); err != nil {
			return nil, err
		}
		tars = append(tars, tar)
	}
	return tars, nil
}
