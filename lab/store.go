package lab

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"lockstep/daemon/config"
	"lockstep/daemon/encryption"
	"lockstep/daemon/pki"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
)

// AddSource has the lab's daemon follow one more source: it gets its Source object now, and its document for the daemon's
// next start. A source on the hub gets its repository, and what is needed to reach it. A name that is taken is an error.
func (l *Lab) AddSource(ctx context.Context, s v1alpha1.Source) error {
	if repository := l.hubRepository(s.Spec.URL); repository != "" {
		if _, err := l.createRepo(ctx, repository); err != nil {
			return err
		}
	}
	l.atHub(&s)
	return l.change(func() error {
		documents, sources, err := l.configured()
		if err != nil {
			return err
		}
		sources = append(sources, s)
		if err := config.Unique(sources); err != nil {
			return err
		}
		if err := l.writeConfig(documents, sources); err != nil {
			return err
		}
		return l.commit(ctx, func(*view.View) (store.Group, error) {
			return store.Group{{Key: kinds.KeyOf(&s), Object: &s, Reason: "added to the lab"}}, nil
		})
	})
}

// RemoveSource has the daemon let go of a source: its objects stay, and belong to nobody. A source that the daemon was
// started with is put back, and stays until the next start. One that is not there is no error.
func (l *Lab) RemoveSource(ctx context.Context, name string) error {
	return l.change(func() error {
		documents, sources, err := l.configured()
		if err != nil {
			return err
		}
		sources = slices.DeleteFunc(sources, func(s v1alpha1.Source) bool { return s.Name == name })
		if err := l.writeConfig(documents, sources); err != nil {
			return err
		}
		return l.commit(ctx, func(*view.View) (store.Group, error) {
			key := kinds.For[*v1alpha1.Source]().Key("", name)
			return store.Group{{Key: key, If: store.Anyway, Reason: "removed from the lab"}}, nil
		})
	})
}

// Tamper changes the store of the running daemon as somebody does who has etcd at hand: nobody is asked.
func (l *Lab) Tamper(ctx context.Context, change func(*view.View) (store.Group, error)) error {
	return l.change(func() error { return l.commit(ctx, change) })
}

// commit writes to the store of the running daemon what change makes of its newest view.
func (l *Lab) commit(ctx context.Context, change func(*view.View) (store.Group, error)) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	socket := filepath.Join(fmt.Sprintf("/proc/%d/root/run/lockstep/etcd", l.Server().Holder.PID), "etcd.sock")
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("cannot reach the lab's store: %w", err)
	}
	defer func() { _ = client.Close() }()
	vault := pki.Dir(filepath.Join(l.Server().DataDir(), "pki"))
	keys, err := pki.OpenSealingKeys(vault, time.Now(), func() error { return fs.ErrNotExist })
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, client, store.Options{
		Transformer: encryption.NewKeyring(encryption.Config{}, keys), Log: slog.New(slog.DiscardHandler), Server: "lab",
	})
	if err != nil {
		return err
	}
	running, end := context.WithCancel(ctx)
	failed := make(chan error, 1)
	var ended sync.WaitGroup
	ended.Go(func() { failed <- s.Run(running) })
	defer ended.Wait()
	defer end()
	select {
	case <-s.Ready():
	case err := <-failed:
		return fmt.Errorf("cannot read the lab's store: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("cannot read the lab's store: %w", ctx.Err())
	}
	group, err := change(s.View())
	if err != nil {
		return err
	}
	if err := s.Commit(ctx, group)[0].Err; err != nil {
		return fmt.Errorf("cannot write to the lab's store: %w", err)
	}
	return nil
}
