//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

// startAgent starts an agent and waits until it is ready.
func startAgent(t *testing.T, b *testrig.Command, flags ...string) *testrig.Process {
	t.Helper()
	p := b.Start(append([]string{"agent"}, flags...)...)
	await(t, func() bool { _, log := p.Output(); return strings.Contains(log, "the agent is ready") })
	return p
}

// metricsOf asks the agent on its socket.
func metricsOf(t *testing.T, b *testrig.Command) map[string]float64 {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(b.RuntimeDir, "agent.sock"))
		}}}
	answer, err := client.Get("http://agent/metrics/snapshot")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var metrics map[string]float64
	if err := json.NewDecoder(answer.Body).Decode(&metrics); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status, err)
	}
	return metrics
}

func TestAgentLivesBesideOtherCommandsAndEndsInOrder(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	killed := startAgent(t, b)
	killed.Signal(syscall.SIGKILL)
	killed.Wait()
	agent := startAgent(t, b)

	pid := fmt.Sprint(agent.Pid)
	expect(t, b.Run("agent"), 125, "process id "+pid, "--work_dir")
	other := testrig.Berth(t)
	other.WorkDir = b.WorkDir
	expect(t, other.Run("agent"), 125, "process id "+pid, b.WorkDir)
	other = testrig.Berth(t)
	other.RuntimeDir = b.RuntimeDir
	expect(t, other.Run("agent"), 125, "process id "+pid, b.RuntimeDir)

	info, err := os.Stat(filepath.Join(b.RuntimeDir, "agent.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	const errors = "containerizer/mesos/provisioner/remove_container_errors"
	if got := metricsOf(t, b); got[errors] != 0 || !slices.Contains(keys(got), errors) {
		t.Errorf("the metrics are %v", got)
	}

	expect(t, b.Run("run", image, "--", "sh", "-c", "exit 7"), 7)
	expect(t, b.Run("prune"), 0)
	wantNothing(t, b)

	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	if _, err := os.Stat(filepath.Join(b.RuntimeDir, "agent.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket of an agent that has ended: %v", err)
	}
	agent = startAgent(t, b)
	agent.Signal(syscall.SIGINT)
	expect(t, agent.Wait(), 0)
}

func keys(m map[string]float64) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}

func TestAgentDestroysWhatDeadProcessesLeft(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	b := testrig.Berth(t)
	dead := sleeper(t, b, "dead", testrig.BusyboxImage(t, reg, "busybox:1"))
	dead.Signal(syscall.SIGKILL)
	dead.Wait()
	agent := startAgent(t, b)
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
}

// The disk fills up: what no container uses and nobody has excluded goes.
func TestAgentRemovesImagesWhenTheDiskFillsUp(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	used, kept := testrig.BusyboxImage(t, reg, "busybox:1"), testrig.SmallImage(t, reg, "kept:1", "one")
	big := testrig.BigLayerImage(t, reg, "big:1", 24<<20)
	b := testrig.Berth(t)
	b.WorkDir = filepath.Join(testrig.LoopFS(t, "ext4", 64), "work")
	config := filepath.Join(testrig.TempDir(t), "gc.json")
	text := `{"image_disk_headroom": 0.7, "image_disk_watch_interval": {"nanoseconds": 20000000},
		"excluded_images": [{"type": "DOCKER", "docker": {"name": "` + kept + `"}}]}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := startAgent(t, b, "--image_gc_config=file://"+config)
	container := sleeper(t, b, "busy", used)
	expect(t, b.Run("pull", kept), 0)
	want := []string{used, kept}
	if got := recorded(t, b); !slices.Equal(got, want) {
		t.Errorf("with enough free the images are %q, want %q", got, want)
	}
	expect(t, b.Run("pull", big), 0)
	await(t, func() bool { _, log := agent.Output(); return strings.Contains(log, "images="+"["+big+"]") })
	if got := recorded(t, b); !slices.Equal(got, want) {
		t.Errorf("with the disk full the images are %q, want %q", got, want)
	}
	expect(t, b.Run("run", "--pull=never", kept, "--", "/none"), 127)
	expect(t, b.Run("check"), 0)
	end(t, container)
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
}

// An agent that removes whatever it may, all the time, takes nothing from those who are
// just getting an image or running one.
func TestRunsBesideAnAgentThatPrunesAllTheTime(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	images := []string{testrig.BusyboxImage(t, reg, "one:1"), testrig.BusyboxImage(t, reg, "two:1", "--config.env=A=b")}
	b := testrig.Berth(t)
	agent := startAgent(t, b, `--image_gc_config={"image_disk_headroom": 1, "image_disk_watch_interval": {"nanoseconds": 2000000}}`)
	for range 5 {
		var runs []*testrig.Process
		for _, image := range images {
			runs = append(runs, b.Start("run", image, "--", "sh", "-c", "cat /etc/passwd && exit 7"))
		}
		for _, r := range runs {
			expect(t, r.Wait(), 7)
		}
	}
	// At the latest now that nobody uses them.
	await(t, func() bool { _, log := agent.Output(); return strings.Contains(log, "image GC: images removed") })
	agent.Signal(syscall.SIGTERM)
	r := agent.Wait()
	expect(t, r, 0)
	if strings.Contains(r.Stderr, "level=ERROR") {
		t.Errorf("the agent logged\n%s", r.Stderr)
	}
	expect(t, b.Run("prune"), 0)
	wantNothing(t, b)
}
