package aufs

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/provisioner/backend"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	hidesAFile = marks{whiteouts: []string{"etc/.wh.motd"}}
	isOpaqueIn = marks{opaques: []string{"etc/.wh..wh..opq"}}
	hidesBoth  = marks{whiteouts: []string{".wh.a"}, opaques: []string{"b/.wh..wh..opq"}}
)

// plans are what testdata/plans.txt has; layers are topmost first.
var plans = []struct {
	name        string
	layers      []string
	hides       []marks
	rootfs, dir string
}{
	{"one layer", []string{"/store/a"}, []marks{{}}, "/c/backends/aufs/rootfses/1", "/c/backends/aufs"},
	{"three layers", []string{"/store/c", "/store/b", "/store/a"}, []marks{{}, {}, {}}, "/c/backends/aufs/rootfses/1", "/c/backends/aufs"},
	{"layers that hide", []string{"/store/d", "/store/c", "/store/b", "/store/a"}, []marks{hidesAFile, isOpaqueIn, hidesBoth, {}}, "/c/backends/aufs/rootfses/1", "/c/backends/aufs"},
	{"names that mean something to the kernel", []string{"/store/sha256:a,b", `/store/back\slash=ro`}, []marks{{}, {}}, `/c\d,e:f/rootfses/1`, `/c\d,e:f`},
}

func TestPlan(t *testing.T) {
	const golden = "testdata/plans.txt"
	var got strings.Builder
	for _, p := range plans {
		var layers []backend.Layer
		for _, path := range p.layers {
			layers = append(layers, backend.Layer{Path: path})
		}
		a := plan(layers, p.hides, p.rootfs, p.dir)
		fmt.Fprintf(&got, "# %s\nwritable: %s\n", p.name, a.Writable)
		for _, lower := range a.Lowers {
			fmt.Fprintf(&got, "lower: %s\n", lower)
		}
		fmt.Fprintf(&got, "links: %s\noptions: %s\n\n", a.Links, strings.Join(a.Options(), "\nthen: "))
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
