package shrink

import (
	"fmt"
	"testing"
)

func TestCleanMappings(t *testing.T) {
	smaps := `00400000-01408000 r--p 00000000 fe:00 99 /usr/bin/lockstep
Size:                 10 kB
Anonymous:             0 kB
01408000-033a8000 r-xp 01008000 fe:00 99 /usr/bin/lockstep
Anonymous:             0 kB
033a8000-033a9000 r--p 02fa8000 fe:00 99 /usr/bin/lockstep
Anonymous:             4 kB
033a9000-033aa000 rw-p 02fa8000 fe:00 99 /usr/bin/lockstep
Anonymous:             0 kB
7ff000000000-7ff000001000 r-xp 00000000 fe:00 7 /usr/lib/libc.so.6
Anonymous:             0 kB
`
	got := fmt.Sprintf("%x", cleanMappings(smaps, "/usr/bin/lockstep"))
	if want := "[{400000 1408000} {1408000 33a8000}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
