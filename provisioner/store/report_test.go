package store

import (
	"testing"
	"time"

	"berth/internal/stages"
)

func TestReportFigures(t *testing.T) {
	report := PullReport{
		Total:  4 * time.Second,
		Stages: []stages.Spent{{Stage: stages.Resolve, Time: time.Second}, {Stage: stages.Fetch, Time: 3 * time.Second}},
		Layers: []LayerReport{
			{Size: 5_000_000},
			{Size: 1_000_000, Fetched: true, Stages: []stages.Spent{
				{Stage: stages.Queue, Time: 300 * time.Millisecond}, {Stage: stages.Connect, Time: 500 * time.Millisecond},
				{Stage: stages.Unpack, Time: 1500 * time.Millisecond}, {Stage: stages.Wait, Time: 600 * time.Millisecond},
				{Stage: stages.Sync, Time: 100 * time.Millisecond}}},
			{Size: 3_000_000, Fetched: true},
		},
	}
	if n, bytes := report.Fetched(); n != 2 || bytes != 4_000_000 {
		t.Errorf("fetched were %d layers of %d bytes", n, bytes)
	}
	if got := report.Rate(); got != 1_000_000 {
		t.Errorf("%d bytes a second", got)
	}
	if got := report.Slowest().Stage; got != stages.Fetch {
		t.Errorf("the slowest stage of the pull is %q", got)
	}
	if got := report.Layers[1].Rate(); got != 500_000 {
		t.Errorf("of the layer %d bytes a second of its turn of two seconds", got)
	}
	if got := report.Layers[1].Slowest().Stage; got != stages.Unpack {
		t.Errorf("the slowest stage of the layer is %q", got)
	}
	if got := report.Layers[0].Rate(); got != 0 {
		t.Errorf("of a layer that was there %d bytes a second", got)
	}
}
