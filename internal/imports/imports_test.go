package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "berth/"

// rooms says for each room what it may import of the project. A room that ends in "/*"
// is each of the packages below it, of which none may import another.
var rooms = []struct {
	room string
	may  []string
}{
	{"cmd/berth", []string{"agent", "agent/client", "engine", "containerizer", "isolator/namespaces/user", "launcher", "provisioner", "provisioner/store",
		"layer", "image", "container", "api/v1", "internal/pty", "internal/archive"}},
	// A program that embeds berth needs no more.
	{"examples/*", []string{"engine", "containerizer", "container", "api/v1"}},
	{"cmd/berth-init", []string{"launcher/plan", "internal/calls", "internal/mount", "internal/nofile", "internal/pty"}},
	{"agent/page", nil},
	{"agent/client", []string{"container", "api/v1", "internal/recordio"}},
	{"agent/operator", []string{"containerizer", "container", "api/v1", "internal/recordio", "internal/strictjson"}},
	{"agent", []string{"agent/operator", "agent/page", "engine", "containerizer", "provisioner", "container", "api/v1", "internal/archive", "internal/filelock", "internal/idmap", "internal/inroot"}},
	{"engine", []string{"containerizer", "containerizer/*", "fetcher", "isolator", "isolator/*", "launcher", "launcher/*",
		"provisioner", "provisioner/*", "layer", "registry", "image", "container", "state", "api/v1", "internal/*"}},
	{"containerizer/*", []string{"containerizer", "isolator", "launcher", "launcher/plan", "provisioner", "image", "container", "state", "api/v1", "internal/*"}},
	{"containerizer", []string{"container", "api/v1"}},
	{"isolator/*", []string{"isolator", "launcher", "launcher/plan", "image", "image/appc", "container", "api/v1", "internal/*"}},
	{"isolator", []string{"launcher", "launcher/plan", "image", "container", "api/v1", "internal/capability", "internal/device"}},
	{"launcher/plan", nil},
	{"launcher/initproc", []string{"launcher", "launcher/plan", "container", "internal/*"}},
	{"launcher/launchertest", []string{"launcher", "launcher/initproc", "launcher/plan", "container", "state", "internal/*"}},
	{"launcher/*", []string{"launcher", "launcher/initproc", "launcher/launchertest", "launcher/plan", "container", "state", "internal/*"}},
	{"launcher", []string{"launcher/plan", "container"}},
	// Conformance suites may use what makes tests possible.
	{"provisioner/backend/backendtest", []string{"provisioner/backend", "layer", "layer/erofs", "image", "container", "state", "internal/*"}},
	{"provisioner/store/storetest", []string{"provisioner/store", "layer", "image", "container", "api/v1", "internal/*"}},
	{"isolator/isolatortest", []string{"isolator", "launcher", "launcher/plan", "image", "image/appc", "container", "api/v1", "internal/*"}},
	{"provisioner/backend/*", []string{"provisioner/backend", "layer", "container", "state", "internal/*"}},
	{"provisioner/backend", []string{"layer", "layer/erofs", "container", "state", "internal/*"}},
	// What stores have in common whose images are found at a source.
	{"provisioner/store/fetch", []string{"provisioner/store", "layer", "image", "container", "api/v1", "internal/*"}},
	{"provisioner/store/layout", []string{"provisioner/store", "provisioner/store/fetch", "layer", "image", "container", "internal/*"}},
	{"provisioner/store/*", []string{"provisioner/store", "provisioner/store/fetch", "provisioner/store/layout", "layer", "registry", "image", "image/appc", "container", "api/v1", "internal/*"}},
	{"provisioner/store", []string{"layer", "image", "container", "api/v1", "internal/stages"}},
	{"provisioner", []string{"provisioner/backend", "provisioner/store", "layer", "image", "container", "state", "api/v1", "internal/*"}},
	{"layer/erofs", []string{"container"}},
	{"layer", []string{"layer/erofs", "image", "container", "internal/*"}},
	{"registry", []string{"image", "container"}},
	{"fetcher", []string{"container", "api/v1", "internal/*"}},
	{"state", []string{"container"}},
	{"image", []string{"image/appc", "container", "internal/strictjson"}},
	{"image/appc", []string{"container", "internal/strictjson"}},
	{"api/*", []string{"container"}},
	{"container", nil},
	// Tools with one job; those that make tests possible may use everything they test.
	{"internal/testrig", []string{"*"}},
	{"internal/*", []string{"image", "container", "api/v1", "internal/*"}},
}

// kernelRooms may make system calls that the standard library does not have.
var kernelRooms = []string{"agent", "cmd/berth-init", "engine", "fetcher", "isolator/cgroups/mem", "isolator/cgroups/perfevent", "isolator/network/ports", "launcher/*", "layer", "provisioner/backend", "provisioner/backend/*", "provisioner/store/layout", "internal/*"}

type goPackage struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func list(t *testing.T, args ...string) (packages []goPackage) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Standard"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	decode := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := decode.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// matches reports whether a package is in a room.
func matches(room, pkg string) bool {
	if dir, ok := strings.CutSuffix(room, "*"); ok {
		return strings.HasPrefix(pkg, dir)
	}
	return room == pkg
}

func TestEveryPackageImportsOnlyWhatItsRoomMay(t *testing.T) {
	for _, p := range list(t, "./...") {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		at := slices.IndexFunc(rooms, func(r struct {
			room string
			may  []string
		}) bool {
			return matches(r.room, pkg)
		})
		if at < 0 {
			t.Errorf("%s is in no room: add it to the table, with what it may import", pkg)
			continue
		}
		for _, imported := range p.Imports {
			name, ours := strings.CutPrefix(imported, module)
			allowed := slices.ContainsFunc(rooms[at].may, func(room string) bool { return matches(room, name) })
			if ours && !allowed {
				t.Errorf("%s imports %s: the room %s may import %q", pkg, name, rooms[at].room, rooms[at].may)
			}
			if imported == "golang.org/x/sys/unix" && !slices.ContainsFunc(kernelRooms, func(room string) bool { return matches(room, pkg) }) {
				t.Errorf("%s imports %s: system calls belong in %q", pkg, imported, kernelRooms)
			}
		}
	}
}

// The init process stays in memory with every container, so what it is made of counts.
func TestInitIsTiny(t *testing.T) {
	may := []string{"berth/cmd/berth-init", "berth/launcher/plan", "berth/internal/calls", "berth/internal/mount", "berth/internal/disk", "berth/internal/nofile", "berth/internal/pty", "golang.org/x/sys/unix"}
	for _, p := range list(t, "-deps", "./cmd/berth-init") {
		if !p.Standard && !slices.Contains(may, p.ImportPath) {
			t.Errorf("berth-init depends on %s; it may on the standard library and %q", p.ImportPath, may)
		}
	}
}
