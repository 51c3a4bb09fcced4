package container

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestParseID(t *testing.T) {
	for _, good := range []string{"a", "root.child.grandchild", strings.Repeat("x", 242), "A-b_c:1", "café"} {
		id, err := ParseID(good)
		if err != nil || id.String() != good {
			t.Errorf("%q: %v, %v", good, id, err)
		}
	}
	for name, bad := range map[string]string{
		"empty": "", "empty child": "a.", "empty root": ".a", "parent directory": "..", "slash": "a/b", "backslash": `a\b`,
		"blank": "a b", "newline": "a\nb", "NUL": "a\x00", "delete": "a\x7f", "too long": strings.Repeat("x", 243),
	} {
		if _, err := ParseID(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIDsKnowTheirParents(t *testing.T) {
	root, err := ParseID("root")
	if err != nil {
		t.Fatal(err)
	}
	child, err := root.Child("child")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.Child("a.b"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a child of two values: %v", err)
	}
	if parent, ok := child.Parent(); !ok || parent != root {
		t.Errorf("parent of %v: %v, %v", child, parent, ok)
	}
	if _, ok := root.Parent(); ok || child.Value() != "child" || len(child.Values()) != 2 {
		t.Errorf("root has a parent, or %v is not nested", child)
	}
	if !(ID{}).IsZero() || root.IsZero() {
		t.Error("zero")
	}
}

func TestExitCode(t *testing.T) {
	status := func(s syscall.WaitStatus) *syscall.WaitStatus { return &s }
	for name, c := range map[string]struct {
		termination Termination
		want        int
	}{
		"success":     {Termination{Status: status(0)}, 0},
		"own code":    {Termination{Status: status(7 << 8)}, 7},
		"signal":      {Termination{Status: status(15)}, 143},
		"core dump":   {Termination{Status: status(11 | 0x80)}, 139},
		"limitation":  {Termination{Status: status(1 << 8), Limitation: &Limitation{Reason: ReasonLimitationMemory}}, 137},
		"not started": {Termination{}, 125},
	} {
		if got := c.termination.ExitCode(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
