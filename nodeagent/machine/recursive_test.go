package machine

import "testing"

func TestHasMountOption(t *testing.T) {
	for features, want := range map[string]bool{
		`{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"]}`: true, `{"mountOptions": ["ro"]}`: false, `{}`: false,
		"": false, "No help topic for 'features'": false,
	} {
		if got := hasMountOption([]byte(features), "rro"); got != want {
			t.Errorf("%s: %v", features, got)
		}
	}
}
