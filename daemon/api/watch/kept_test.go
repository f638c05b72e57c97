package watch

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestKeptViewsGo: a view is kept for its time from when it was the newest, however often lists go on from it, and the oldest goes
// where there are too many.
func TestKeptViewsGo(t *testing.T) {
	db := view.NewDB()
	var k kept
	now := time.Unix(0, 0)
	change := func() {
		rev := db.View().Revision() + 1
		k.pass(db.Apply(rev, []view.Change{{Key: kinds.KeyOf(configMap("m")), New: configMap("m"), Revision: rev}}), now)
	}
	change()
	first := db.View()
	k.keep(first, true, now)
	change()
	for range 4 {
		now = now.Add(time.Minute)
		k.keep(first, false, now)
	}
	if k.at(first.Revision(), now) != first {
		t.Error("it is gone before its time")
	}
	if now = now.Add(time.Minute); k.at(first.Revision(), now) != nil {
		t.Error("lists that go on prolong their view")
	}
	k.keep(first, true, now)
	if now = now.Add(keptFor); len(k.views) != 1 {
		t.Fatalf("%d views", len(k.views))
	}
	if change(); len(k.views) != 0 {
		t.Error("a view that is too old waits for somebody to ask")
	}
	for range keptViews + 1 {
		change()
		k.keep(db.View(), true, now)
	}
	if k.at(db.View().Revision()-keptViews, now) != nil || k.at(db.View().Revision()-keptViews+1, now) == nil || len(k.views) != keptViews {
		t.Errorf("%d views are kept", len(k.views))
	}
}

// TestKeptViewsAreBounded changes all of a large cluster again and again while lists are read in parts.
func TestKeptViewsAreBounded(t *testing.T) {
	const objects, rounds = 10_000, 20
	for _, size := range []int{10, 10_000} {
		db := view.NewDB()
		var k kept
		now := time.Unix(0, 0)
		rev := int64(0)
		apply := func(from, to int) {
			var changes []view.Change
			for i := from; i < to; i++ {
				o := configMap(fmt.Sprintf("m%05d", i*101%objects)) // far from each other
				o.Data = map[string]string{"text": strings.Repeat("x", size)}
				changes = append(changes, view.Change{Key: kinds.KeyOf(o), New: o})
			}
			rev++
			k.pass(db.Apply(rev, changes), now)
		}
		apply(0, objects)
		before := heap()
		most := 0
		for range rounds {
			for i := 0; i < objects; i += 100 {
				k.keep(db.View(), true, now)
				apply(i, i+100)
				now = now.Add(time.Second)
			}
			most = max(most, heap()-before)
		}
		t.Logf("of %d bytes: %d views keep %d MiB", size, len(k.views), most>>20)
		if most > 3*keptBytes/2 {
			t.Errorf("of %d bytes: %d views keep %d MiB alive", size, len(k.views), most>>20)
		}
		runtime.KeepAlive(db)
	}
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
