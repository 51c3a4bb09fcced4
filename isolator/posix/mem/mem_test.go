package mem

import (
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/testrig"
	"berth/isolator/isolatortest"
)

func TestConformance(t *testing.T) {
	trees := testrig.Trees{}
	isolatortest.Run(t, New(trees), isolatortest.Requests{Fork: trees.Fork, Gone: trees.Gone})
}

// A child holds 40 MB.
func TestUsageIsThatOfTheTree(t *testing.T) {
	trees := testrig.Trees{}
	id, err := container.ParseID("c")
	if err != nil {
		t.Fatal(err)
	}
	trees.Start(t, id, "sh -c 'x=$(yes | head -c 40000000); echo; sleep 1000; echo $x' & wait")
	usage := &v1.ResourceStatistics{}
	if err := New(trees).Usage(t.Context(), id, usage); err != nil {
		t.Fatal(err)
	}
	if got := usage.GetMemRssBytes(); got < 40e6 || got > 400e6 {
		t.Errorf("%d bytes", got)
	}
}
