package main

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	rows := []Row{
		within("kept", "s", 3, 2, 1.5), within("missed", "s", 3.1, 2, 1.5), reaching("rate", "/s", 50, 100, 0.5),
		reaching("slow", "/s", 49, 100, 0.5),
		below("small", "MiB", 150, 150), below("large", "MiB", 151, 150), beside("beside", "s", 9, 1), plain("plain", "s", 1234.5),
	}
	var passed []string
	for _, r := range rows {
		if r.Pass {
			passed = append(passed, r.Name)
		}
	}
	if got := strings.Join(passed, " "); got != "kept rate small beside plain" {
		t.Errorf("passed: %s", got)
	}
	var out strings.Builder
	if err := table(&out, rows); err != nil {
		t.Fatal(err)
	}
	want := `NAME    VALUE  UNIT  BOUND  RATIO  GOAL        PASS
kept    3      s     2      1.50   <= 1.5 x    yes
missed  3.1    s     2      1.55   <= 1.5 x    NO
rate    50.0   /s    100    0.50   >= 0.5 x    yes
slow    49.0   /s    100    0.49   >= 0.5 x    NO
small   150    MiB   -      -      <= 150 MiB  yes
large   151    MiB   -      -      <= 150 MiB  NO
beside  9      s     1      9.00   -           -
plain   1234   s     -      -      -           -
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
