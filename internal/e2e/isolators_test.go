//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

// The isolators that these tests use beside external ones.
const isolationBesides = "--isolation=filesystem/linux,namespaces/pid,cgroups/mem,docker/runtime,volume/image,volume/host_path,"

// isolators is an --isolator_dir with the one of examples/ and those given as shell scripts. The
// one of examples/ has its directories in scratch, and not where that of another test has them.
func isolators(t *testing.T, scripts map[string]string) (dir, scratch string) {
	t.Helper()
	dir, scratch = testrig.TempDir(t), testrig.TempDir(t)
	example, err := os.ReadFile("../../examples/isolators/scratch")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"scratch": strings.ReplaceAll(string(example), "/run/berth-scratch", scratch)}
	for name, lines := range scripts {
		files[name] = "#!/bin/sh\n" + `[ $BERTH_PHASE != describe ] || exec echo '{"version": 1, "phases": ["prepare", "isolate", "cleanup"]}'` + "\n" + lines + "\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir, scratch
}

func TestAContainerWithAnExternalIsolator(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	dir, scratch := isolators(t, nil)
	r := b.Run("run", "--name", "outside", "--isolator_dir="+dir, isolationBesides+"external/scratch", image, "--",
		"sh", "-c", "echo $SCRATCH; echo x > /scratch/file; cat /proc/self/oom_score_adj; grep ' /scratch ' /proc/self/mountinfo | grep -o nosuid,nodev")
	expect(t, r, 0)
	if want := "/scratch\n1000\nnosuid,nodev\n"; r.Stdout != want {
		t.Errorf("stdout %q, want %q", r.Stdout, want)
	}
	if _, err := os.Stat(scratch + "/outside"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the container: %v", err)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	r = b.Run("info", "--isolator-dir="+dir)
	if expect(t, r, 0); !strings.Contains(r.Stdout, "external/scratch") {
		t.Errorf("berth info does not know external/scratch:\n%s", r.Stdout)
	}
}

func TestAnExternalIsolatorRefusesAContainer(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	dir, scratch := isolators(t, map[string]string{
		"no":    `[ $BERTH_PHASE = cleanup ] || echo '{"error": {"class": "invalid", "message": "not on a Saturday"}}'`,
		"late":  `[ $BERTH_PHASE != isolate ] || echo '{"error": {"class": "failed_precondition", "message": "no address is free"}}'`,
		"chaos": `yes '{'`,
	})
	for name, words := range map[string]string{"no": "not on a Saturday", "late": "no address is free", "chaos": "more than"} {
		r := b.Run("run", "--isolator_dir="+dir, isolationBesides+"external/scratch,external/"+name, "--name", "refused", image, "--", "echo", "it runs")
		if expect(t, r, 125, words, filepath.Join(dir, name)); r.Stdout != "" {
			t.Errorf("%s: stdout %q", name, r.Stdout)
		}
		if name == "chaos" { // whose cleanup fails, too
			expect(t, b.Run("prune", "--exclude", image), 0, filepath.Join(dir, name))
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			expect(t, b.Run("prune", "--exclude", image), 0)
		}
		if _, err := os.Stat(scratch + "/refused"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: what the other isolator made: %v", name, err)
		}
		if left := leftBy(t, b); len(left) > 0 {
			t.Errorf("%s: left behind: %q", name, left)
		}
	}
}

// A volume of a kind that berth itself does not know is one for an external isolator.
func TestAnExternalIsolatorBringsAKindOfVolumes(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	store := testrig.TempDir(t)
	if err := os.WriteFile(filepath.Join(store, "file"), []byte("of a driver\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := json.Marshal(map[string]any{"type": "MESOS", "volumes": []any{map[string]any{
		"container_path": "/data", "mode": "RO", "source": map[string]any{"type": "DOCKER_VOLUME", "docker_volume": map[string]any{"name": "v"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := isolators(t, map[string]string{
		"driver": `[ $BERTH_PHASE != prepare ] || echo '{"mounts": [{"container_path": "/data", "host_path": "` + store + `", "mode": "RO"}]}'`,
	})
	run := func(isolation string) testrig.Result {
		return b.Run("run", "--isolator_dir="+dir, isolationBesides+isolation, "--container_info="+string(info), image, "--", "cat", "/data/file")
	}
	if r := run("external/driver"); r.ExitCode != 0 || r.Stdout != "of a driver\n" {
		t.Errorf("exit code %d, stdout %q, stderr %s", r.ExitCode, r.Stdout, r.Stderr)
	}
	expect(t, run("namespaces/uts"), 125, "no isolator of --isolation mounts")
}

// The berth that comes after a killed one has another --isolation, and cleans up.
func TestExternalIsolatorsCleanUpAfterAKilledBerth(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	for name, isolation := range map[string]string{"while the container runs": "external/scratch", "while it prepares": "external/scratch,external/slow"} {
		t.Run(name, func(t *testing.T) {
			b := testrig.Berth(t)
			ready := filepath.Join(testrig.TempDir(t), "ready")
			dir, scratch := isolators(t, map[string]string{"slow": `[ $BERTH_PHASE != prepare ] || { echo $$ > ` + ready + `; exec sleep 600; }`})
			p := b.Start("run", "--name", "killed", "--isolator_dir="+dir, isolationBesides+isolation, image, "--", "sh", "-c", "echo 0 > /scratch/ready; sleep 600")
			for _, file := range []string{scratch + "/killed/ready", ready} {
				if file == ready != strings.Contains(isolation, "slow") {
					continue
				}
				until(t, func() bool { _, err := os.Stat(file); return err == nil })
			}
			p.Signal(syscall.SIGKILL)
			p.Wait()
			if _, err := os.Stat(scratch + "/killed"); err != nil {
				t.Fatalf("it was cleaned up before: %v", err)
			}
			expect(t, b.Run("prune", "--exclude", image), 0)
			if _, err := os.Stat(scratch + "/killed"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what the isolator made: %v", err)
			}
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if pid, err := os.ReadFile(ready); err == nil {
				until(t, func() bool {
					command, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline")
					return !strings.HasPrefix(string(command), "sleep\x00600")
				})
			}
		})
	}
}

// until waits for something that is about to happen.
func until(t *testing.T, happened func() bool) {
	t.Helper()
	for range 3000 {
		if happened() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not happen")
}
