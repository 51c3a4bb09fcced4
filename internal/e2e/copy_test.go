//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

func TestCopyInAndOut(t *testing.T) {
	w := newWorkshop(t)
	w.does("run", "-d", "--name", "w-box", w.image, "--", "sh", "-c", "mkdir -p /data/sub && echo inside >/data/sub/file && ln -s /data/sub /lnk && touch /ready; sleep 1000")
	await(t, func() bool { return w.Run("exec", "w-box", "test", "-e", "/ready").ExitCode == 0 })
	host := testrig.TempDir(t)
	content := func(name string) string {
		data, err := os.ReadFile(filepath.Join(host, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	w.does("cp", "w-box:/data", host)           // into a directory
	w.does("cp", "w-box:/data", host+"/other")  // as another
	w.does("cp", "w-box:/lnk/file", host+"/of") // through a link of the container's
	for _, name := range []string{"data/sub/file", "other/sub/file", "of"} {
		if got := content(name); got != "inside\n" {
			t.Errorf("%s has %q", name, got)
		}
	}
	if err := os.WriteFile(host+"/data/new", []byte("outside\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	w.does("cp", host+"/data", "w-b:/tmp")
	w.does("cp", host+"/data/new", "w-box:/lnk")       // into the directory that a link leads to
	w.does("cp", host+"/data/new", "w-box:/tmp/named") // as a file
	w.prints("outside\noutside\noutside\n", "exec", "w-box", "cat", "/tmp/data/new", "/data/sub/new", "/tmp/named")
	w.prints("0:0 640\n", "exec", "w-box", "stat", "-c", "%u:%g %a", "/tmp/named")

	w.refuses([]string{"cp", "w-box:/none", host}, "/none", "not found")
	w.refuses([]string{"cp", "w-box:/data", "w-box:/x"}, "one of the two is ID:PATH")
	w.refuses([]string{"cp", host, host}, "one of the two is ID:PATH")
	w.refuses([]string{"cp", host + "/none", "w-box:/"}, "none")
	w.refuses([]string{"cp", "w-none:/x", host}, "w-none", "not found")
	w.refuses([]string{"cp", host + "/of", "w-box:/none/x"}, "not found")
	w.refuses([]string{"cp", host + "/of", "w-box:/proc/1/root/evil"}, "w-box")
	w.refuses([]string{"cp", "w-box:/data", host + "/none/x"}, "none")

	w.does("run", "-d", "--name", "w-ids", "--userns", "1000000:65536", w.image, "--", "sleep", "1000")
	w.does("cp", "w-ids:/etc/passwd", host+"/passwd")
	w.does("exec", "w-ids", "sh", "-c", "mkdir -m 700 /theirs && chown 7:7 /theirs && echo old >/theirs/of && chown 7:7 /theirs/of")
	w.does("cp", host+"/data", "w-ids:/tmp")
	w.does("cp", host+"/of", "w-ids:/theirs") // its root may, like root
	w.prints("outside\ninside\n", "exec", "w-ids", "cat", "/tmp/data/new", "/theirs/of")
	w.prints("0:0 640\n0:0 644\n7:7 700\n", "exec", "w-ids", "stat", "-c", "%u:%g %a", "/tmp/data/new", "/theirs/of", "/theirs")
}

// What a hostile container has put into the way leads to its own files (CVE-2018-15664), and
// nothing of it is executed or loaded (CVE-2019-14271).
func TestCopyWithAHostileContainer(t *testing.T) {
	w := newWorkshop(t)
	host := testrig.TempDir(t)
	secret := filepath.Join(host, "secret")
	if err := os.WriteFile(secret, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.does("run", "-d", "--name", "w-evil", w.image, "--", "sh", "-c", "mkdir /dir && ln -s "+host+" /dir/up && ln -s ../../../../.."+host+" /dir/dots && ln -s /proc/1/root /dir/magic; touch /ready; sleep 1000")
	await(t, func() bool { return w.Run("exec", "w-evil", "test", "-e", "/ready").ExitCode == 0 })
	for _, name := range []string{"/dir/up/secret", "/dir/dots/secret", "/../../.." + secret, "/dir/magic" + secret} {
		if r := w.Run("cp", "w-evil:"+name, host+"/got"); r.ExitCode != 125 {
			t.Errorf("%s was read: %+v", name, r)
		}
		if r := w.Run("cp", secret, "w-evil:"+filepath.Dir(name)+"/new"); r.ExitCode != 125 {
			t.Errorf("%s was written: %+v", name, r)
		}
	}
	// Links come as links.
	w.does("cp", "w-evil:/dir", host+"/dir")
	if target, err := os.Readlink(host + "/dir/up"); err != nil || target != host {
		t.Errorf("the link is %q, %v", target, err)
	}
	if names, err := filepath.Glob(host + "/*"); err != nil || len(names) != 2 {
		t.Errorf("on the host there are %q, %v", names, err)
	}
}

func TestTopStatsAndEvents(t *testing.T) {
	w := newWorkshop(t)
	events, lines := w.Start("events"), w.Start("events", "--json")
	w.does("run", "-d", "--name", "w-busy", "--memory", "64m", w.image, "--", "sh", "-c", "while :; do :; done")
	await(t, func() bool {
		text, _ := events.Output()
		list, _ := lines.Output()
		return strings.Contains(text, "container.launched  w-busy") && strings.Contains(list, "container.launched")
	})
	if table := w.does("top", "w-busy"); !strings.Contains(table, "sh -c while :; do :; done") || !strings.HasPrefix(table, "PID") {
		t.Errorf("top:\n%s", table)
	}
	var processes []struct{ Pid int }
	if err := json.Unmarshal([]byte(w.does("top", "--json", "w-busy")), &processes); err != nil || len(processes) == 0 || processes[0].Pid == 0 {
		t.Errorf("top --json: %+v, %v", processes, err)
	}
	table := w.does("stats", "--no-stream")
	lineOf := func(table string) []string { return strings.Fields(table[strings.Index(table, "w-busy"):]) }
	if !strings.Contains(table, "w-busy") || !strings.HasSuffix(lineOf(table)[1], "%") || lineOf(table)[1] == "0.0%" || !strings.Contains(table, "67.1 MB") {
		t.Errorf("stats:\n%s", table)
	}
	var measured []struct {
		Statistics struct {
			Memory int `json:"mem_total_bytes"`
		} `json:"resource_statistics"`
	}
	if err := json.Unmarshal([]byte(w.does("stats", "--no-stream", "--json", "w-busy")), &measured); err != nil || len(measured) != 1 || measured[0].Statistics.Memory == 0 {
		t.Errorf("stats --json: %+v, %v", measured, err)
	}
	w.refuses([]string{"top", "w-none"}, "w-none", "not found")
	w.refuses([]string{"stats", "w-none"}, "w-none", "not found")
	w.does("rm", "-f", "w-busy")
	await(t, func() bool {
		text, _ := events.Output()
		return strings.Contains(text, "container.ended  w-busy  exit code 137") && strings.Contains(text, "container.removed  w-busy")
	})
	var event struct{ Type string }
	list, _ := lines.Output()
	if err := json.Unmarshal([]byte(strings.SplitN(list, "\n", 2)[0]), &event); err != nil || event.Type != "container.launched" {
		t.Errorf("events --json: %q, %v", list, err)
	}
	events.Signal(syscall.SIGINT)
	expect(t, events.Wait(), 0)
	lines.Signal(syscall.SIGINT)
	expect(t, lines.Wait(), 0)
}
