package backend

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// plans are what testdata/plans.txt has.
var plans = []struct {
	name        string
	layers      []string
	rootfs, dir string
}{
	{"one layer", []string{"/store/a"}, "/c/backends/overlay/rootfses/1", "/c/backends/overlay"},
	{"three layers", []string{"/store/a", "/store/b", "/store/c"}, "/c/backends/overlay/rootfses/1", "/c/backends/overlay"},
	{"a layer that occurs twice", []string{"/store/a", "/store/b", "/store/a"}, "/c/backends/overlay/rootfses/1", "/c/backends/overlay"},
	{"an empty layer between all others", []string{"/store/0", "/store/a", "/store/0", "/store/b", "/store/0"}, "/c/backends/overlay/rootfses/1", "/c/backends/overlay"},
	{"two root filesystems of one container have nothing in common", []string{"/store/a"}, "/c/backends/overlay/rootfses/2", "/c/backends/overlay"},
	{"names that mean something to the kernel", []string{"/store/sha256:a,b", `/store/back\slash`}, `/c\d,e:f/rootfses/1`, `/c\d,e:f`},
	{"no layers", nil, "/c/rootfses/1", "/c"},
}

func TestPlan(t *testing.T) {
	const golden = "testdata/plans.txt"
	var got strings.Builder
	for _, p := range plans {
		var layers []Layer
		for _, path := range p.layers {
			layers = append(layers, Layer{Path: path})
		}
		o := overlayPlan(layers, p.rootfs, p.dir)
		fmt.Fprintf(&got, "# %s\n", p.name)
		for _, option := range o.Options() {
			fmt.Fprintf(&got, "%s=%s\n", option.Key, option.Value)
		}
		fmt.Fprintf(&got, "links: %s\n\n", o.Links)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
