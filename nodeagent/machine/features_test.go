package machine

import (
	"slices"
	"testing"
)

func TestFeatures(t *testing.T) {
	for text, want := range map[string][2]bool{
		`{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"]}`:                                       {true, false},
		`{"mountOptions": ["rro"], "linux": {"mountExtensions": {"idmap": {"enabled": true}}}}`:           {true, true},
		`{"mountOptions": ["ro"], "linux": {"mountExtensions": {"idmap": {"enabled": false}}}}`:           {},
		`{"mountOptions": ["rro"], "linux": {"mountExtensions": {"idmap": {"enabled": "yes, I think"}}}}`: {},
		`{}`: {}, "": {}, "No help topic for 'features'": {},
	} {
		f := parseFeatures([]byte(text))
		if got := [2]bool{slices.Contains(f.MountOptions, "rro"), f.Linux.MountExtensions.IDMap.Enabled}; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
