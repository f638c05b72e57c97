package command

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"lockstep/nodeagent"
	"lockstep/nodeagent/access"
)

// pullFlags say how a node pulls images; they are the kubelet's but for the file of credentials.
type pullFlags struct {
	credentials, verify string
	allowed             []string
	serialize           bool
	parallel            int
}

func (f *pullFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.credentials, "registry-credentials", "",
		"`FILE` as docker's config.json with what every pod of the node may pull with (default: config.json in the data folder, "+
			"else .docker/config.json in the home folder)")
	flags.BoolVar(&f.serialize, "serialize-image-pulls", false, "pull one image at a time")
	flags.IntVar(&f.parallel, "max-parallel-image-pulls", 0,
		"most images that are pulled at a time, `N`, however long each takes (default: 4 begin together, and 32 at most go on)")
	flags.StringVar(&f.verify, "image-pull-credentials-verification-policy", string(access.NeverVerifyPreloadedImages),
		"`POLICY` by which pods show that they could pull an image that is on the node: NeverVerify, NeverVerifyPreloadedImages, "+
			"NeverVerifyAllowlistedImages or AlwaysVerify")
	flags.StringSliceVar(&f.allowed, "preloaded-images-verification-allowlist", nil,
		"`IMAGES` without tag that NeverVerifyAllowlistedImages is about; a /* at the end stands for all below")
}

func (f *pullFlags) apply(o *nodeagent.Options) error {
	if err := readable("registry-credentials", f.credentials, false); err != nil {
		return err
	}
	o.Credentials, o.ImagePulls = f.credentials, f.parallel
	switch {
	case f.parallel < 0:
		return fmt.Errorf("cannot use --max-parallel-image-pulls %d: want a number above 0, or 0 for the default", f.parallel)
	case f.serialize && f.parallel > 1:
		return errors.New("cannot use --max-parallel-image-pulls with --serialize-image-pulls")
	case f.serialize:
		o.ImagePulls = 1
	}
	var err error
	if o.VerifyImages, err = access.Parse(f.verify, f.allowed); err != nil {
		return fmt.Errorf("cannot use the flags of images' verification: %w", err)
	}
	return nil
}
