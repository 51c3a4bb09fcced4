package cpu

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

// Two busy shells below a third, of which one has ended: its time counts.
func TestUsageIsThatOfTheTree(t *testing.T) {
	trees := testrig.Trees{}
	id, err := container.ParseID("c")
	if err != nil {
		t.Fatal(err)
	}
	busy := `i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done`
	trees.Start(t, id, "sh -c '"+busy+"'; sleep 1000 & sleep 1000 & echo; wait")
	usage := &v1.ResourceStatistics{}
	if err := New(trees).Usage(t.Context(), id, usage); err != nil {
		t.Fatal(err)
	}
	if usage.GetProcesses() != 3 || usage.GetThreads() != 3 {
		t.Errorf("%d processes, %d threads", usage.GetProcesses(), usage.GetThreads())
	}
	if sum := usage.GetCpusUserTimeSecs() + usage.GetCpusSystemTimeSecs(); sum < 0.03 || sum > 100 {
		t.Errorf("%v s", sum)
	}
}
