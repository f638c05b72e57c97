package images

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// latestTimeout bounds one question to a registry.
const latestTimeout = 30 * time.Second

// Latest asks the registry which digest an image's name has now, with the credentials that it would be pulled with. Nothing is pulled.
func (m *Manager) Latest(ctx context.Context, req Request) (digest string, err error) {
	name, err := Normalize(req.Image)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(m.context(ctx), latestTimeout)
	defer cancel()
	ctx, heard := unlessSilent(ctx, silence)
	defer heard.end()
	keys := m.keysFor(name, req.Secrets)
	var errs []error
	for _, c := range keys.credentials {
		_, found, err := m.resolver(ctx, name, c, heard).Resolve(ctx, name)
		if err == nil {
			return found.Digest.String(), nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("cannot ask which image %s is: %w", name, errors.Join(errs...))
}
