package register

import (
	"testing"
)

func TestReadLeft(t *testing.T) {
	l, err := ReadLeft(1<<50, t.TempDir(), "/")
	if err != nil {
		t.Fatal(err)
	}
	if l.Memory <= 0 || l.Node.Bytes <= 0 || l.Node.Bytes > l.Node.Size || l.Images.Size <= 0 || l.PIDs <= 0 || l.PIDs >= l.PIDsAtMost {
		t.Errorf("ReadLeft() = %+v", l)
	}
	if _, err := ReadLeft(1, "/nonexistent", "/"); err == nil {
		t.Error("a directory that does not exist was measured")
	}
}
