package testrig

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// debianRecipe changes whenever the recipe does: the cached image is then built
// anew.
const debianRecipe = "2"

// debianLayers are the packages of the layers over the base system. Besides
// python3 and perl they were chosen for many small files at little download.
var debianLayers = [][]string{
	{"tzdata", "ncurses-term"},
	{"perl"},
	{"python3"},
	{"python3-pip", "python3-setuptools", "vim-runtime"},
	{"libc6-dev", "linux-libc-dev", "manpages-dev"},
}

// DebianImage pushes a Debian image with python3 and perl: seven gzip layers
// and more than 15 000 files, built by debootstrap, apt and buildah. The last
// layer removes documentation, so that there are whiteouts and an opaque
// directory.
//
// It is built once a machine, in about a minute, from the archive that the
// machine's own apt uses, and kept in the cache (see doc.go).
func DebianImage(tb testing.TB, reg *RegistryServer, name string) (ref string) {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "skopeo")
	layout := cached(tb, "debian", debianRecipe+"-"+runtime.GOARCH, func(dir string) { buildDebian(tb, dir) })
	return reg.Push(tb, "oci:"+layout+":debian", name)
}

// LargeDebianImage pushes what DebianImage does with compilers besides: eight gzip layers,
// of more than 450 MB when they are uncompressed.
func LargeDebianImage(tb testing.TB, reg *RegistryServer, name string) (ref string) {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "skopeo")
	layout := cached(tb, "debian-large", debianRecipe+"-"+runtime.GOARCH, func(dir string) { buildDebian(tb, dir, []string{"g++"}) })
	return reg.Push(tb, "oci:"+layout+":debian", name)
}

// buildDebian makes a layer of the packages that further names, too.
func buildDebian(tb testing.TB, layout string, further ...[]string) {
	tb.Helper()
	RequireTools(tb, "buildah", "debootstrap", "apt-get")
	tb.Log("building the Debian image; this is done once a machine")
	apt := newHostApt(tb)
	b := newBuildah(tb)
	b.layer(func(root string) {
		apt.debootstrap(root)
		removeGlob(tb, root, "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "var/log/*.log", "var/cache/ldconfig/*")
	}, "--env="+imagePath, "--cmd=bash")
	for _, packages := range slices.Concat(debianLayers, further) {
		b.layer(func(root string) { apt.install(root, packages) })
	}
	b.layer(func(root string) {
		w := writer{tb, root}
		w.remove("usr/share/doc")
		w.dir("usr/share/doc", 0o755) // made anew: opaque
		w.file("usr/share/doc/README", 0o644, "The documentation was removed.\n")
		w.remove("usr/share/lintian")
	})
	b.save(layout, "debian")
}

// removeGlob removes what matches below root, where anything does.
func removeGlob(tb testing.TB, root string, patterns ...string) {
	tb.Helper()
	for _, pattern := range patterns {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			tb.Fatalf("glob %s: %v", pattern, err)
		}
		for _, path := range matches {
			if err := os.RemoveAll(path); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// hostApt downloads packages as the host would (its sources, proxy and keys)
// but for another root, and without touching the host's own package lists.
type hostApt struct {
	tb   testing.TB
	dir  string
	tool tool
}

func newHostApt(tb testing.TB) hostApt {
	tb.Helper()
	a := hostApt{tb: tb, dir: TempDir(tb)}
	a.tool = tool{dir: a.dir, env: []string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}}
	for _, d := range []string{"lists/partial", "archives/partial"} {
		writer{tb, a.dir}.dir(d, 0o755)
	}
	a.get("update")
	return a
}

// options points apt at the lists and archives of our own directory. Its user
// for downloads (_apt) may not write there, so root downloads.
func (a hostApt) options() []string {
	return []string{
		"--quiet", "--yes", "--no-install-recommends",
		"-oDir::State::lists=" + filepath.Join(a.dir, "lists"),
		"-oDir::Cache=" + a.dir,
		"-oDir::Cache::archives=" + filepath.Join(a.dir, "archives"),
		"-oAcquire::Languages=none",
		"-oAPT::Sandbox::User=root",
		"-oAPT::Get::List-Cleanup=false",
		"-oDebug::NoLocking=true",
	}
}

func (a hostApt) get(args ...string) {
	a.tb.Helper()
	a.tool.run(a.tb, "apt-get", append(a.options(), args...)...)
}

// archive is where the host gets Debian's main component from, and the
// release's code name.
func (a hostApt) archive() (suite, uri string) {
	a.tb.Helper()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		a.tb.Fatalf("read which Debian this is: %v", err)
	}
	for line := range strings.Lines(string(release)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			suite = strings.Trim(v, `"`)
		}
	}
	out := a.tool.run(a.tb, "apt-get", append(a.options(), "indextargets",
		"--format", "$(LABEL) $(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")...)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 4 && slices.Equal(f[:3], []string{"Debian", suite, "main"}) {
			return suite, f[3]
		}
	}
	a.tb.Fatalf("apt has no source of Debian %q main; its sources:\n%s", suite, out)
	return "", ""
}

func (a hostApt) debootstrap(root string) {
	a.tb.Helper()
	suite, uri := a.archive()
	a.tool.run(a.tb, "debootstrap", "--variant=minbase", suite, root, uri)
}

// install installs packages below root without a network there: the host
// downloads what is missing, apt in the root installs these files.
func (a hostApt) install(root string, packages []string) {
	a.tb.Helper()
	removeGlob(a.tb, a.dir, "archives/*.deb")
	a.get(append([]string{"-oDir::State::status=" + filepath.Join(root, "var/lib/dpkg/status"),
		"--download-only", "install"}, packages...)...)
	debs := filepath.Join(root, "tmp/debs")
	if err := os.CopyFS(debs, os.DirFS(filepath.Join(a.dir, "archives"))); err != nil {
		a.tb.Fatalf("copy the packages: %v", err)
	}
	a.tool.run(a.tb, "chroot", root, "/bin/sh", "-c",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin exec apt-get --quiet --yes --no-install-recommends"+
			" -oDpkg::Options::=--force-unsafe-io install /tmp/debs/*.deb")
	if err := os.RemoveAll(debs); err != nil {
		a.tb.Fatalf("remove the packages: %v", err)
	}
}
