// Package profiles reads the daemon's whole configuration: its sources, and the profiles of the scheduler.
package profiles

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"lockstep/daemon/config"
	"lockstep/kinds/v1alpha1"
	"lockstep/reconcilers/scheduler"
)

// The document that declares profiles of the scheduler, as kube-scheduler's own file does; what is not done of that has no field here,
// and is refused by name.
const schedulerVersion = "kubescheduler.config.k8s.io/v1"

// mostProfiles bounds them: each is a table of rows.
const mostProfiles = 64

type schedulerDocument struct {
	metav1.TypeMeta `json:",inline"`
	Profiles        []profileDocument `json:"profiles"`
}

type profileDocument struct {
	SchedulerName string `json:"schedulerName"`
	Plugins       struct {
		Score struct {
			Enabled  []weighed `json:"enabled"`
			Disabled []weighed `json:"disabled"`
		} `json:"score"`
	} `json:"plugins"`
	PluginConfig []struct {
		Name string               `json:"name"`
		Args runtime.RawExtension `json:"args"`
	} `json:"pluginConfig"`
}

type weighed struct {
	Name   string `json:"name"`
	Weight *int64 `json:"weight,omitempty"`
}

type fitArgs struct {
	metav1.TypeMeta `json:",inline"`
	ScoringStrategy struct {
		Type      string `json:"type"`
		Resources []struct {
			Name   corev1.ResourceName `json:"name"`
			Weight int64               `json:"weight"`
		} `json:"resources"`
		RequestedToCapacityRatio struct {
			Shape []struct {
				Utilization int64 `json:"utilization"`
				Score       int64 `json:"score"`
			} `json:"shape"`
		} `json:"requestedToCapacityRatio"`
	} `json:"scoringStrategy"`
}

type affinityArgs struct {
	metav1.TypeMeta `json:",inline"`
	AddedAffinity   *corev1.NodeAffinity `json:"addedAffinity"`
}

type spreadArgs struct {
	metav1.TypeMeta    `json:",inline"`
	DefaultConstraints []corev1.TopologySpreadConstraint `json:"defaultConstraints"`
	DefaultingType     string                            `json:"defaultingType"`
}

type expressionArgs struct {
	Expression string `json:"expression"`
}

// Read returns the sources and the profiles that a configuration file states, as config.Read does; at most one of its documents
// declares profiles.
func Read(path string) ([]v1alpha1.Source, []scheduler.Profile, error) {
	var out []scheduler.Profile
	sources, err := config.Read(path, func(node *config.Document) error {
		before := out
		var err error
		if out, err = decode(node); err == nil && before != nil {
			err = errors.New("the scheduler's profiles are declared before")
		}
		return err
	})
	if sources == nil && err != nil {
		return nil, nil, err
	}
	return sources, out, errors.Join(err, unique(out))
}

// decode reads the profiles of a document.
func decode(node *config.Document) ([]scheduler.Profile, error) {
	var doc schedulerDocument
	if err := config.Decode(node, &doc); err != nil {
		return nil, err
	}
	if doc.APIVersion != schedulerVersion {
		return nil, fmt.Errorf("want apiVersion %s, got %q", schedulerVersion, doc.APIVersion)
	}
	if len(doc.Profiles) > mostProfiles {
		return nil, fmt.Errorf("profiles: there are %d, %d are the most", len(doc.Profiles), mostProfiles)
	}
	var out []scheduler.Profile
	var errs []error
	for i := range doc.Profiles {
		p, err := doc.Profiles[i].profile()
		if err == nil {
			err = p.Validate()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("profiles[%d] %s: %w", i, doc.Profiles[i].SchedulerName, err))
		}
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

func (d *profileDocument) profile() (scheduler.Profile, error) {
	p := scheduler.Profile{Name: d.SchedulerName, Weights: map[string]int64{}}
	if d.SchedulerName == "" {
		p.Name = corev1.DefaultSchedulerName
	}
	for _, one := range d.PluginConfig {
		if err := read(&p, one.Name, one.Args.Raw); err != nil {
			return p, fmt.Errorf("pluginConfig %s: %w", one.Name, err)
		}
	}
	known := scheduler.Scores()
	for _, one := range d.Plugins.Score.Disabled {
		switch {
		case one.Name == "*":
			for _, name := range known {
				p.Weights[name] = 0
			}
			if p.Expression == nil {
				delete(p.Weights, known[len(known)-1])
			}
		case !slices.Contains(known, one.Name):
			return p, fmt.Errorf("plugins.score.disabled: there is no score %q, there are %q", one.Name, known)
		default:
			p.Weights[one.Name] = 0
		}
	}
	for _, one := range d.Plugins.Score.Enabled {
		if !slices.Contains(known, one.Name) {
			return p, fmt.Errorf("plugins.score.enabled: there is no score %q, there are %q", one.Name, known)
		}
		p.Weights[one.Name] = 1
		if one.Weight != nil && *one.Weight != 0 {
			p.Weights[one.Name] = *one.Weight
		}
	}
	return p, nil
}

// read reads the arguments of one plugin.
func read(p *scheduler.Profile, plugin string, raw []byte) error {
	switch plugin {
	case "NodeResourcesFit":
		var args fitArgs
		if err := config.Strictly(raw, &args); err != nil {
			return err
		}
		p.Fit.Strategy = args.ScoringStrategy.Type
		if p.Fit.Strategy == "" {
			p.Fit.Strategy = scheduler.LeastAllocated
		}
		for _, r := range args.ScoringStrategy.Resources {
			p.Fit.Resources = append(p.Fit.Resources, scheduler.ResourceWeight{Name: r.Name, Weight: max(1, r.Weight)})
		}
		for _, point := range args.ScoringStrategy.RequestedToCapacityRatio.Shape {
			p.Fit.Shape = append(p.Fit.Shape, scheduler.ShapePoint{Utilization: point.Utilization, Score: point.Score})
		}
	case "NodeAffinity":
		var args affinityArgs
		if err := config.Strictly(raw, &args); err != nil {
			return err
		}
		p.AddedAffinity = args.AddedAffinity
	case "PodTopologySpread":
		var args spreadArgs
		if err := config.Strictly(raw, &args); err != nil {
			return err
		}
		return readSpread(p, args)
	case "Expression":
		var args expressionArgs
		if err := config.Strictly(raw, &args); err != nil {
			return err
		}
		e, err := scheduler.NewExpression(args.Expression)
		if err != nil {
			return fmt.Errorf("cannot use expression %q: %w", args.Expression, err)
		}
		p.Expression = e
	default:
		return errors.New("it has no settings; NodeResourcesFit, NodeAffinity, PodTopologySpread and Expression have")
	}
	return nil
}

func readSpread(p *scheduler.Profile, args spreadArgs) error {
	switch args.DefaultingType {
	case "", "System":
		if len(args.DefaultConstraints) > 0 {
			return errors.New(`defaultConstraints want defaultingType: List`)
		}
		return nil
	case "List":
	default:
		return fmt.Errorf("defaultingType is %q, want System or List", args.DefaultingType)
	}
	for i, c := range args.DefaultConstraints {
		switch {
		case c.LabelSelector != nil:
			return fmt.Errorf("defaultConstraints[%d]: a default has no labelSelector", i)
		case c.TopologyKey == "" || c.MaxSkew < 1:
			return fmt.Errorf("defaultConstraints[%d]: want a topologyKey, and a maxSkew of 1 or more", i)
		case c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway:
			return fmt.Errorf("defaultConstraints[%d]: whenUnsatisfiable is %q, want DoNotSchedule or ScheduleAnyway", i,
				c.WhenUnsatisfiable)
		case len(c.MatchLabelKeys) > 0:
			return fmt.Errorf("defaultConstraints[%d]: a default has no matchLabelKeys", i)
		}
	}
	list := args.DefaultConstraints
	if list == nil {
		list = []corev1.TopologySpreadConstraint{}
	}
	p.Spread = &list
	return nil
}

func unique(list []scheduler.Profile) error {
	seen := map[string]bool{}
	for _, p := range list {
		if seen[p.Name] {
			return fmt.Errorf("there are two scheduler profiles %q", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}
