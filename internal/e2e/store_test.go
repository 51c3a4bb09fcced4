//go:build linux

package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/testrig"
)

// pruned is what `berth prune --json` prints.
type pruned struct {
	Images   []struct{ Reference string }
	Layers   []string
	Partials []string
	Bytes    int64
}

func (p pruned) names() []string {
	var names []string
	for _, i := range p.Images {
		names = append(names, i.Reference)
	}
	slices.Sort(names)
	return names
}

// report is what `berth check --json` prints.
type report struct {
	Checked int
	Broken  []struct {
		Layer    string
		Images   []string
		Problems []struct{ Path, What string }
	}
	Records []struct{ Path, Image, Problem string }
	Unknown []string
}

// repaired is what `berth repair --json` prints.
type repaired struct {
	Fetched, Removed, Images []string
	Remained                 []struct{ Layer string }
}

// decode reads what a run has printed.
func decode[T any](t *testing.T, r testrig.Result) (value T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), &value); err != nil {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", err, r.Stdout, r.Stderr)
	}
	return value
}

// recorded lists the images in the store.
func recorded(t *testing.T, b *testrig.Command) (names []string) {
	t.Helper()
	r := b.Run("images", "--json")
	expect(t, r, 0)
	for _, i := range decode[[]struct{ Reference string }](t, r) {
		names = append(names, i.Reference)
	}
	return names
}

// sleeper runs a container until the test ends it.
func sleeper(t *testing.T, b *testrig.Command, name, image string) *testrig.Process {
	t.Helper()
	p := b.Start("run", "--name", name, image, "--", "sh", "-c", "echo ready; exec sleep 1000")
	await(t, func() bool { out, _ := p.Output(); return strings.Contains(out, "ready") })
	return p
}

func end(t *testing.T, p *testrig.Process) {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	expect(t, p.Wait(), 143)
}

// flip changes one byte of a file in a layer, as a disk may, and returns the layer.
func flip(t *testing.T, b *testrig.Command, name string) (layer string) {
	t.Helper()
	path, offset := contentInStore(t, b, name)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var first [1]byte
	if _, err := f.ReadAt(first[:], offset); err != nil {
		t.Fatal(err)
	}
	first[0] ^= 1
	if _, err := f.WriteAt(first[:], offset); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	layer, _, _ = strings.Cut(strings.TrimPrefix(path, b.WorkDir+"/store/layers/"), "/")
	return layer
}

// contentInStore returns where the content of a file of some layer begins: in a tree, or in
// the tar of the form erofs.
func contentInStore(t *testing.T, b *testrig.Command, name string) (path string, offset int64) {
	t.Helper()
	found, err := filepath.Glob(b.WorkDir + "/store/layers/*/tree/fs/" + name)
	if err == nil && len(found) == 1 {
		return found[0], 0
	}
	tars, err := filepath.Glob(b.WorkDir + "/store/layers/*/erofs/tar")
	if err != nil || len(found) > 0 {
		t.Fatal(found, err)
	}
	for _, path := range tars {
		if offset := contentInTar(t, path, name); offset >= 0 {
			return path, offset
		}
	}
	t.Fatalf("no layer has %s: looked into %q", name, tars)
	return "", 0
}

// contentInTar returns where the content of a file begins; -1: the tar does not have it.
func contentInTar(t *testing.T, path, name string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for archive := tar.NewReader(f); ; {
		hdr, err := archive.Next()
		if err == io.EOF {
			return -1
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimPrefix(hdr.Name, "./") != name {
			continue
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		return offset
	}
}

// blobsSince lists the downloads of blobs after the first requests.
func blobsSince(reg *testrig.RegistryServer, requests int) []string {
	return slices.DeleteFunc(reg.AccessLog()[requests:], func(line string) bool {
		return !strings.HasPrefix(line, "GET ") || !strings.Contains(line, "/blobs/")
	})
}

// A byte that has flipped is found, and mended by fetching that one layer, while a
// container runs on it.
func TestCheckNamesWhatIsBrokenAndRepairMendsIt(t *testing.T) {
	testrig.RequireRoot(t)
	// A tree tells which file it is, a tar only that it is another one.
	for backend, path := range map[string]string{"overlay": "etc/group", "erofs": ""} {
		t.Run(backend, func(t *testing.T) {
			t.Setenv("BERTH_IMAGE_PROVISIONER_BACKEND", backend)
			checkNamesAndRepairMends(t, path)
		})
	}
}

func checkNamesAndRepairMends(t *testing.T, path string) {
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	expect(t, b.Run("pull", testrig.SmallImage(t, reg, "small:1", "one")), 0)
	running := b.Start("run", image, "--", "sh", "-c",
		"echo ready; while :; do while ! test -e /mnt/mesos/sandbox/go; do sleep 0.05; done; rm /mnt/mesos/sandbox/go; head -n1 /etc/passwd; done")
	await(t, func() bool { out, _ := running.Output(); return strings.Contains(out, "ready") })
	// reads has the container read a file once more.
	reads := func(times int) {
		t.Helper()
		found, err := filepath.Glob(b.WorkDir + "/containers/*")
		found = slices.DeleteFunc(found, func(path string) bool { return strings.HasSuffix(path, ".foreground") })
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		if err := os.WriteFile(filepath.Join(found[0], "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { out, _ := running.Output(); return strings.Count(out, "root:x:0:0:") == times })
	}
	reads(1)
	expect(t, b.Run("check"), 0)

	layer := flip(t, b, "etc/group")
	r := b.Run("check", "--json")
	expect(t, r, 1)
	found := decode[report](t, r)
	if len(found.Broken) != 1 || found.Broken[0].Layer != layer || !slices.Equal(found.Broken[0].Images, []string{image}) ||
		found.Broken[0].Problems[0].Path != path || found.Checked != 4 {
		t.Errorf("check found %s, want etc/group of layer %s of %s", r.Stdout, layer, image)
	}
	if r := b.Run("check"); r.ExitCode != 1 || !strings.Contains(r.Stdout, layer) || !strings.Contains(r.Stdout, "berth repair") {
		t.Errorf("exit code %d, said %s", r.ExitCode, r.Stdout)
	}

	before := reg.Requests()
	r = b.Run("repair", "--json")
	expect(t, r, 0)
	if mended := decode[repaired](t, r); !slices.Equal(mended.Fetched, []string{layer}) || len(mended.Removed)+len(mended.Images)+len(mended.Remained) > 0 {
		t.Errorf("repair has done %s, want %s fetched and nothing else", r.Stdout, layer)
	}
	if blobs := blobsSince(reg, before); len(blobs) != 1 {
		t.Errorf("repair fetched the blobs %q, want one", blobs)
	}
	reads(2)
	expect(t, b.Run("check"), 0)
	if r := b.Run("run", image, "head", "-n1", "/etc/group"); r.Stdout != "root:x:0:\n" {
		t.Errorf("a container that is started after the repair reads %q", r.Stdout)
	}
	r = b.Run("repair", "--json")
	expect(t, r, 0)
	if again := decode[repaired](t, r); len(again.Fetched) > 0 {
		t.Errorf("repair has mended what was whole: %s", r.Stdout)
	}
	reads(3)
	end(t, running)
	expect(t, b.Run("check"), 0)
}

func TestRepairWithoutTheRegistrySaysWhatRemains(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	expect(t, b.Run("pull", image), 0)
	layer := flip(t, b, "etc/passwd")
	reg.Fail(http.StatusServiceUnavailable)
	r := b.Run("repair", "--json")
	expect(t, r, 1, "unavailable", "503", image)
	if left := decode[repaired](t, r); len(left.Remained) != 1 || left.Remained[0].Layer != layer || len(left.Fetched) > 0 {
		t.Errorf("repair has done %s", r.Stdout)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	expect(t, b.Run("check"), 1)
	reg.Fail(0)
	expect(t, b.Run("repair"), 0)
	expect(t, b.Run("check"), 0)
}

func TestPruneSparesWhatIsUsedOrExcluded(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	used := testrig.BusyboxImage(t, reg, "busybox:1")
	kept, other := testrig.SmallImage(t, reg, "kept", "one"), testrig.SmallImage(t, reg, "other", "two")
	b := testrig.Berth(t)
	for _, image := range []string{used, kept, other} {
		expect(t, b.Run("pull", image), 0)
	}
	container := sleeper(t, b, "busy", used)
	all := recorded(t, b)

	// However the name is spelled, it is one image.
	exclude := "--exclude=docker://" + strings.TrimSuffix(kept, ":latest")
	r := b.Run("prune", exclude, "--dry-run", "--json")
	expect(t, r, 0)
	would := decode[pruned](t, r)
	// The lowest of three layers is in both of the small images.
	if !slices.Equal(would.names(), []string{other}) || len(would.Layers) != 2 || would.Bytes <= 0 {
		t.Errorf("would prune %s, want %s and two layers", r.Stdout, other)
	}
	if r := b.Run("prune", exclude, "--dry-run"); !strings.Contains(r.Stdout, "would remove image "+other) || !strings.Contains(r.Stdout, "would free ") {
		t.Errorf("a dry run says %q", r.Stdout)
	}
	if left := recorded(t, b); !slices.Equal(left, all) {
		t.Errorf("after a dry run there are %q", left)
	}

	r = b.Run("prune", exclude)
	expect(t, r, 0)
	if !strings.Contains(r.Stdout, "removed image "+other) || !strings.Contains(r.Stdout, "freed ") {
		t.Errorf("prune says %q", r.Stdout)
	}
	if left := recorded(t, b); !slices.Equal(left, []string{used, kept}) {
		t.Errorf("left are %q", left)
	}
	expect(t, b.Run("check"), 0)
	expect(t, b.Run("rmi", used), 125, "busy uses it")
	end(t, container)

	r = b.Run("rmi", "--json", used)
	expect(t, r, 0)
	if removed := decode[pruned](t, r); len(removed.Layers) != 1 || removed.Bytes <= 0 {
		t.Errorf("rmi removed %s", r.Stdout)
	}
	expect(t, b.Run("prune"), 0)
	wantNothing(t, b)
	if r := b.Run("prune", "--json"); r.Stdout != "{\n  \"images\": [],\n  \"layers\": [],\n  \"partials\": [],\n  \"bytes\": 0\n}\n" {
		t.Errorf("with nothing to remove prune says %s", r.Stdout)
	}
}

// A container whose berth was killed uses nothing.
func TestPruneTakesTheImagesOfDeadContainers(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	container := sleeper(t, b, "dead", image)
	container.Signal(syscall.SIGKILL)
	container.Wait()
	expect(t, b.Run("prune"), 0)
	wantNothing(t, b)
}

// free is how many bytes the file system of dir has free.
func free(t *testing.T, dir string) int64 {
	t.Helper()
	unix.Sync() // what is yet to be written, or yet to be given back
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

func TestPruneFreesWhatItSays(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	images := []string{
		testrig.BusyboxImage(t, reg, "busybox:1"),
		testrig.SmallImage(t, reg, "small:1", "one"),
		testrig.SmallImage(t, reg, "small:2", "two"),
		testrig.BigLayerImage(t, reg, "big:1", 8<<20),
	}
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			dir := testrig.LoopFS(t, fstype, 64)
			b := testrig.Berth(t)
			b.WorkDir = filepath.Join(dir, "work")
			for _, image := range images {
				expect(t, b.Run("pull", image), 0)
			}
			var would, did pruned
			r := b.Run("prune", "--dry-run", "--json")
			expect(t, r, 0)
			would = decode[pruned](t, r)
			before := free(t, dir)
			r = b.Run("prune", "--json")
			expect(t, r, 0)
			did = decode[pruned](t, r)
			gained := free(t, dir) - before
			for name, said := range map[string]int64{"the dry run": would.Bytes, "prune": did.Bytes} {
				if off := max(said-gained, gained-said); off*100 > gained {
					t.Errorf("%s says %d bytes, and %d are free: %.2f %% off", name, said, gained, float64(off)/float64(gained)*100)
				}
			}
			if len(did.Images) != len(images) || !slices.Equal(did.Layers, would.Layers) {
				t.Errorf("would prune %v, pruned %v", would, did)
			}
			wantNothing(t, b)
		})
	}
}

func TestImagesTellsWhatEachCosts(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	b := testrig.Berth(t)
	for _, variant := range []string{"one", "two"} {
		expect(t, b.Run("pull", testrig.SmallImage(t, reg, variant, variant)), 0)
	}
	r := b.Run("images", "--json")
	expect(t, r, 0)
	images := decode[[]struct{ Size, Unique, Shared int64 }](t, r)
	if len(images) != 2 {
		t.Fatalf("there are %s", r.Stdout)
	}
	for _, i := range images {
		if i.Size <= 0 || i.Unique <= 0 || i.Shared <= 0 || i.Shared != images[0].Shared {
			t.Errorf("the images cost %s", r.Stdout)
		}
	}
	if r := b.Run("images"); !strings.Contains(r.Stdout, "UNIQUE") || !strings.Contains(r.Stdout, "SHARED") {
		t.Errorf("images prints\n%s", r.Stdout)
	}
}

// However a command ends, it closes the store: what is not closed in order has to be
// verified after the machine went down.
func TestEveryCommandClosesTheStore(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	for _, test := range []struct {
		code int
		args []string
	}{
		{0, []string{"pull", image}},
		{125, []string{"pull", image + "-none"}},
		{7, []string{"run", image, "--", "sh", "-c", "exit 7"}},
		{127, []string{"run", image, "/none"}},
		{125, []string{"run", "--user=none", image, "true"}},
		{0, []string{"provision", "--id=mine", image}},
		{125, []string{"rmi", image}},
		{0, []string{"destroy", "mine"}},
		{0, []string{"images"}},
		{0, []string{"check"}},
		{0, []string{"repair"}},
		{0, []string{"prune", "--exclude", image}},
		{0, []string{"info"}},
		{0, []string{"rmi", image}},
	} {
		expect(t, b.Run(test.args...), test.code)
		session, err := os.ReadFile(b.WorkDir + "/store/session")
		if err != nil || !strings.HasPrefix(string(session), "closed ") {
			t.Errorf("after %q the session is %q, %v", test.args, session, err)
		}
	}
}

// What is not berth's stays, is reported once by each run and does not stop it.
func TestUnknownFilesAreLeftAloneAndReported(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	expect(t, b.Run("run", image, "true"), 0)
	unknown := []string{b.WorkDir + "/provisioner/containers/notes", b.WorkDir + "/store/docker/images/notes", b.WorkDir + "/store/layers/notes"}
	alone := append(slices.Clone(unknown), b.WorkDir+"/store/notes", b.WorkDir+"/notes", b.RuntimeDir+"/notes")
	for _, path := range alone {
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantReported := func(by, text string, paths ...string) {
		t.Helper()
		for _, path := range paths {
			if n := strings.Count(text, path); n != 1 {
				t.Errorf("%s names %s %d times:\n%s", by, path, n, text)
			}
		}
	}
	r := b.Run("run", image, "true")
	expect(t, r, 0)
	wantReported("run", r.Stderr, unknown[0])
	for line := range strings.Lines(r.Stderr) {
		if !strings.HasPrefix(line, "berth: warning: ") {
			t.Errorf("run says %q", line)
		}
	}
	r = b.Run("check", "--json")
	expect(t, r, 0) // it is no fault
	if found := decode[report](t, r); !slices.Equal(slices.Sorted(slices.Values(found.Unknown)), unknown) {
		t.Errorf("check names %q, want %q", found.Unknown, unknown)
	}
	wantReported("check", b.Run("check").Stdout, unknown...)
	expect(t, b.Run("repair"), 0)
	expect(t, b.Run("prune"), 0)
	for _, path := range alone {
		if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
			t.Errorf("%s: %q, %v", path, content, err)
		}
	}
}

// What another kernel's backend has made, this one cannot destroy, and that stops nobody.
func TestABackendThatIsGoneStopsNobody(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	old := b.WorkDir + "/provisioner/containers/old/backends/zfs/rootfses/x"
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	r := b.Run("run", image, "--", "sh", "-c", "exit 7")
	expect(t, r, 7, "berth: warning: ", `backend "zfs"`)
	if n := strings.Count(r.Stderr, "zfs\""); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.Stderr)
	}
	expect(t, b.Run("check"), 0)
	if _, err := os.Stat(old); err != nil {
		t.Error(err)
	}
}

// Of an image whose record cannot be read nobody knows the layers, so none is removed.
func TestPruneWithARecordThatCannotBeRead(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	expect(t, b.Run("pull", image), 0)
	found, err := filepath.Glob(b.WorkDir + "/store/docker/images/*.json")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := os.Truncate(found[0], 10); err != nil {
		t.Fatal(err)
	}
	expect(t, b.Run("prune"), 125, found[0], "berth repair")
	if layers, err := filepath.Glob(b.WorkDir + "/store/layers/sha256:*"); len(layers) != 1 {
		t.Errorf("layers %q, %v", layers, err)
	}
	r := b.Run("check", "--json")
	expect(t, r, 1)
	if report := decode[report](t, r); len(report.Records) != 1 || report.Records[0].Path != found[0] {
		t.Errorf("check found %s", r.Stdout)
	}
	reg.Fail(http.StatusServiceUnavailable)
	expect(t, b.Run("repair"), 1, found[0], "503")
	reg.Fail(0)
	before := reg.Requests()
	r = b.Run("repair", "--json")
	expect(t, r, 0)
	if mended := decode[repaired](t, r); !slices.Equal(mended.Images, []string{image}) || len(mended.Fetched) > 0 {
		t.Errorf("repair has done %s", r.Stdout)
	}
	if blobs := blobsSince(reg, before); len(blobs) > 1 { // that of its configuration
		t.Errorf("repair of a record fetched the blobs %q", blobs)
	}
	expect(t, b.Run("check"), 0)
	expect(t, b.Run("run", "--pull=never", image, "true"), 0)
	expect(t, b.Run("prune"), 0)
	wantNothing(t, b)
}

func TestInfoPrintsTheBackendTable(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	r := b.Run("info", "--json")
	expect(t, r, 0)
	info := decode[struct {
		Backends []struct {
			Name, Reason   string
			Works, Default bool
		}
	}](t, r)
	var names, defaults []string
	text := b.Run("info")
	expect(t, text, 0)
	for _, backend := range info.Backends {
		names = append(names, backend.Name)
		line := backend.Name + " yes"
		if !backend.Works {
			line = backend.Name + " no: " + backend.Reason
		}
		if backend.Default {
			line += " (default)"
			defaults = append(defaults, backend.Name)
		}
		if !slices.ContainsFunc(strings.Split(text.Stdout, "\n"), func(printed string) bool {
			return strings.Join(strings.Fields(printed), " ") == strings.Join(strings.Fields(line), " ")
		}) {
			t.Errorf("the table has no line %q:\n%s", line, text.Stdout)
		}
	}
	if !slices.Equal(names, []string{"erofs", "overlay", "aufs", "copy", "bind"}) || len(defaults) != 1 {
		t.Errorf("the backends are %q, the default %q", names, defaults)
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if aufs := info.Backends[2]; !strings.Contains(string(known), "\taufs\n") && (aufs.Works || !strings.Contains(aufs.Reason, "not supported by this kernel")) {
		t.Errorf("aufs works: %v, for the reason %q", aufs.Works, aufs.Reason)
	}
}

// An overlay in an overlay is what a kernel refuses, or gets wrong.
func TestBackendThatCannotWork(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	dir := testrig.LoopFS(t, "ext4", 64)
	for _, sub := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(merged, unix.MNT_DETACH) })
	b := testrig.Berth(t)
	b.WorkDir = filepath.Join(merged, "work")
	for range 2 { // the second time nothing has been remembered that it should not
		for _, command := range [][]string{{"run", image, "true"}, {"agent"}, {"provision", "--id=x", image}} {
			command = append([]string{command[0], "--image_provisioner_backend=overlay"}, command[1:]...)
			expect(t, b.Run(command...), 125, "--image_provisioner_backend=overlay", merged, "leave the flag out")
		}
	}
	// Who makes no root filesystem needs no backend.
	expect(t, b.Run("images", "--image_provisioner_backend=overlay"), 0)
	expect(t, b.Run("run", image, "true"), 0)
	r := b.Run("info")
	expect(t, r, 0)
	backends, _, _ := strings.Cut(r.Stdout, "USER NAMESPACES")
	for _, line := range strings.Split(backends, "\n") {
		if strings.HasPrefix(line, "copy ") && !strings.HasSuffix(line, "yes (default)") || strings.HasPrefix(line, "overlay ") && !strings.Contains(line, " no: ") {
			t.Errorf("info says %q", line)
		}
	}
	expect(t, b.Run("prune"), 0)
}

func TestCommandsRefuseWhatTheyCannotRead(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	for _, test := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"excluded image that is none", []string{"prune", "--exclude", "UPPER/case"}, []string{"--exclude", "UPPER/case"}},
		{"second excluded image that is none", []string{"prune", "--exclude", "a", "--exclude", ""}, []string{"--exclude"}},
		{"prune with an image", []string{"prune", "a"}, []string{"a"}},
		{"repair with an image", []string{"repair", "a"}, []string{"a"}},
		{"unknown flag", []string{"prune", "--force"}, []string{"--force"}},
		{"unknown flag of the agent", []string{"agent", "--no_such"}, []string{"--no_such"}},
		{"image GC without a value", []string{"agent", "--image_gc_config"}, []string{"--image_gc_config"}},
		{"image GC that is no JSON", []string{"agent", "--image_gc_config={"}, []string{"--image_gc_config"}},
		{"image GC without an interval", []string{"agent", `--image_gc_config={"image_disk_headroom": 0.1}`}, []string{"--image_gc_config", "image_disk_watch_interval"}},
		{"image GC with too much headroom", []string{"agent", `--image_gc_config={"image_disk_headroom": 10, "image_disk_watch_interval": {"nanoseconds": 1}}`},
			[]string{"--image_gc_config", "image_disk_headroom", "0.0 to 1.0"}},
		{"image GC with an image that is none", []string{"agent", `--image_gc_config={"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": 1},
			"excluded_images": [{"type": "DOCKER", "docker": {"name": "UPPER/case"}}]}`}, []string{"--image_gc_config", "excluded_images", "UPPER/case"}},
		{"unknown provider", []string{"agent", "--image_providers=rpm"}, []string{"--image_providers", "rpm"}},
		{"rmi of nothing known", []string{"rmi", "127.0.0.1:1/none"}, []string{"127.0.0.1:1/none", "not found"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			expect(t, b.Run(test.args...), 125, test.words...)
		})
	}
}
