package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/rogpeppe/go-internal/testscript"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"lockstep/kinds"
	"lockstep/store"
	"lockstep/store/view"
)

func (c *scenario) tamper(_ *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errUsage
	}
	i := slices.IndexFunc(kinds.All, func(k *kinds.Kind) bool { return k.Kind == args[0] })
	if i < 0 {
		return fmt.Errorf("there is no kind %s", args[0])
	}
	kind, namespace := kinds.All[i], ""
	if kind.Namespaced {
		namespace = c.name
	}
	change := func(v *view.View) (store.Group, error) {
		o := v.Get(kind.Key(namespace, args[1]))
		if o == nil {
			return nil, fmt.Errorf("there is no %s %s", args[0], args[1])
		}
		write := store.Write{Key: kinds.KeyOf(o), If: kinds.Revision(o), Reason: "by hand"}
		if args[2] != "gone" {
			changed, err := patched(kind, o, args[2])
			if err != nil {
				return nil, err
			}
			write.Object = changed
		}
		return store.Group{write}, nil
	}
	for {
		if err := c.lab.Tamper(c.t.Context(), change); !errors.Is(err, store.ErrConflict) {
			return err // who tampers wins
		}
	}
}

// patched is an object after a merge patch (RFC 7396).
func patched(kind *kinds.Kind, o kinds.Object, patch string) (kinds.Object, error) {
	before, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	after, err := jsonpatch.MergePatch(before, []byte(patch))
	if err != nil {
		return nil, err
	}
	changed := kind.New()
	return changed, json.Unmarshal(after, changed)
}
