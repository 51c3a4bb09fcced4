//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

// launchLogged launches a container whose outputs go to its sandbox, which it returns.
func (r *rig) launchLogged(config *v1.ContainerConfig, logs containerizer.Logs) (container.ID, string) {
	r.Helper()
	id := r.launchFor(config, func(req *containerizer.Request) { req.Logs = logs })
	return id, r.Layout.Sandbox(id)
}

// launchFor launches a container that nobody holds a stream of.
func (r *rig) launchFor(config *v1.ContainerConfig, change func(*containerizer.Request)) container.ID {
	r.Helper()
	id := r.newID()
	req := containerizer.Request{Config: config, Keeper: containerizer.Foreground}
	if change != nil {
		change(&req)
	}
	if err := r.Launch(r.Context(), id, req); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if _, err := r.Destroy(context.Background(), id); err != nil {
			r.Error(err)
		}
		if err := r.Remove(context.Background(), id); err != nil {
			r.Error(err)
		}
	})
	return id
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

func numbers(from, to int) string {
	var all strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&all, i)
	}
	return all.String()
}

var bounds = map[string]containerizer.Logs{"files": {}, "bounded files": {MaxSize: 1 << 20, MaxFiles: 2}}

func TestOutputsGoToTheSandbox(t *testing.T) {
	for name, logs := range bounds {
		for _, image := range []string{baseImage, ""} {
			t.Run(name+" "+image, func(t *testing.T) {
				r := newRig(t)
				c := shell(`cd "$MESOS_SANDBOX" && mkfifo go && echo out; echo err >&2; echo by-name >>/dev/stdout; cat; read go <go; seq 1 20000; printf 'end\000'`)
				user, group := uint32(1000), uint32(7)
				if image == "" { // no other user gets through to the sandbox, on the host
					c.ContainerInfo, user, group = nil, 0, 0
				}
				c.User = proto.String(fmt.Sprintf("%d:%d", user, group))
				id, sandbox := r.launchLogged(c, logs)
				soon(t, "the first lines", func() bool {
					return read(t, sandbox+"/stdout") == "out\nby-name\n" && read(t, sandbox+"/stderr") == "err\n"
				})
				var open [2]*os.File // the sandbox goes with the container
				for i, name := range []string{"stdout", "stderr"} {
					var err error
					if open[i], err = os.Open(filepath.Join(sandbox, name)); err != nil {
						t.Fatal(err)
					}
					defer open[i].Close()
					info, err := open[i].Stat()
					if err != nil {
						t.Fatal(err)
					}
					if st := info.Sys().(*syscall.Stat_t); st.Uid != user || st.Gid != group || info.Mode() != 0o644 {
						t.Errorf("%s is %d:%d, %v", name, st.Uid, st.Gid, info.Mode())
					}
				}
				if err := os.WriteFile(sandbox+"/go", []byte("go\n"), 0); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Wait(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				want := "out\nby-name\n" + numbers(1, 20000) + "end\x00"
				if all, err := io.ReadAll(open[0]); err != nil || string(all) != want {
					t.Errorf("stdout has %d bytes, %v, want %d", len(all), err, len(want))
				}
			})
		}
	}
}

func TestBoundedLogsHaveTheNewestLinesWhole(t *testing.T) {
	r := newRig(t)
	const size = 10000
	id, sandbox := r.launchLogged(shell(`seq 1 30000; printf 'last words'; sleep 1000`), containerizer.Logs{MaxSize: size, MaxFiles: 3})
	soon(t, "the last words", func() bool { return strings.HasSuffix(read(t, sandbox+"/stdout"), "last words") })
	files, err := filepath.Glob(sandbox + "/std*")
	if err != nil || len(files) != 4 { // stdout, .1, .2, stderr
		t.Errorf("files %q, %v", files, err)
	}
	var all string
	for _, name := range []string{"stdout.2", "stdout.1", "stdout"} {
		text := read(t, filepath.Join(sandbox, name))
		if len(text) > size || name != "stdout" && (len(text) < size/2 || !strings.HasSuffix(text, "\n")) {
			t.Errorf("%s has %d bytes and ends with %q", name, len(text), text[max(0, len(text)-8):])
		}
		all += text
	}
	if want := numbers(1, 30000) + "last words"; !strings.HasSuffix(want, "\n"+all) {
		t.Errorf("the logs are not the end of the output: %q...", all[:min(len(all), 40)])
	}
	if ok, err := r.Destroy(t.Context(), id); !ok || err != nil {
		t.Errorf("destroyed %v, %v", ok, err)
	}
}

// Who has launched the container is not needed for its logs.
func TestLogsGoOnWhenTheLauncherIsKilled(t *testing.T) {
	for name, logs := range bounds {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			id := r.newID()
			h := r.startHelper(helper{ID: id.String(), Logs: &logs, Args: []string{"sh", "-c", `cd "$MESOS_SANDBOX"; until test -e go; do sleep 0.01; done; seq 1 20000; sleep 1000`}})
			h.says("ready")
			h.says("launched")
			h.kill()
			sandbox := r.Layout.Sandbox(id)
			if err := os.WriteFile(sandbox+"/go", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			soon(t, "the output", func() bool { return read(t, sandbox+"/stdout") == numbers(1, 20000) })
			if err := r.Recover(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// What is not a line, and one file only.
func TestABoundHoldsWhateverIsWritten(t *testing.T) {
	r := newRig(t)
	_, sandbox := r.launchLogged(shell(`head -c 1000000 /dev/zero; printf end; sleep 1000`), containerizer.Logs{MaxSize: 5000, MaxFiles: 1})
	soon(t, "the end", func() bool {
		text := read(t, sandbox+"/stdout")
		if len(text) > 5000 {
			t.Errorf("%d bytes", len(text))
		}
		return strings.HasSuffix(text, "end")
	})
	if files, err := filepath.Glob(sandbox + "/stdout*"); err != nil || len(files) != 1 {
		t.Errorf("files %q, %v", files, err)
	}
}

// The command owns its sandbox, and the files there; berth-init writes to none but those
// that it has made.
func TestAContainerCannotPointItsLogsElsewhere(t *testing.T) {
	r := newRig(t)
	c := shell(`cd "$MESOS_SANDBOX" && rm stdout && ln -s ` + r.canary + ` stdout && seq 1 5000; mkdir stdout.1; rm stdout; ln -s ` + r.canary + ` stdout; seq 1 5000; echo done >&2; sleep 1000`)
	c.ContainerInfo = nil
	_, sandbox := r.launchLogged(c, containerizer.Logs{MaxSize: 4096, MaxFiles: 3})
	soon(t, "the end", func() bool { return strings.HasSuffix(read(t, sandbox+"/stderr"), "done\n") })
}

func TestBoundsThatAreNone(t *testing.T) {
	r := newRig(t)
	for _, logs := range []containerizer.Logs{{MaxSize: 4095, MaxFiles: 1}, {MaxSize: 4096}, {MaxFiles: 2}, {MaxSize: -1, MaxFiles: 1}} {
		err := r.Launch(t.Context(), r.newID(), containerizer.Request{Config: shell("true"), Logs: logs, Keeper: containerizer.Foreground})
		if !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%+v: error %v", logs, err)
		}
	}
}

// Who does something for the streams stays in memory as what it was at its start.
func TestTheMemoryOfIdleStreams(t *testing.T) {
	const most = 1300 // KiB
	for name, change := range map[string]func(*containerizer.Request){
		"bounded logs": func(req *containerizer.Request) { req.Logs = bounds["bounded files"] },
		"an input":     func(req *containerizer.Request) { req.Input = true },
		"a terminal":   func(req *containerizer.Request) { req.Input = true; withTerminal(req.Config) },
	} {
		if got := idleMemory(t, change); got > most {
			t.Errorf("berth-init takes %d KiB for each container with %s", got, name)
		} else {
			t.Logf("with %s it takes %d KiB", name, got)
		}
	}
}

// idleMemory is what berth-init takes for each of 20 containers, in KiB.
func idleMemory(t *testing.T, change func(*containerizer.Request)) int {
	t.Helper()
	r := newRig(t)
	var pids []string
	for range 20 {
		id := r.launchFor(shell("echo up; exec sleep 1000"), change)
		soon(t, "the output", func() bool { return strings.TrimSpace(read(t, r.Layout.Sandbox(id)+"/stdout")) == "up" })
		pids = append(pids, strings.Fields(read(t, r.Layout.Container(id).Pid()))[0])
	}
	total := 0
	for _, pid := range pids {
		total += pss(t, pid)
	}
	return total / len(pids)
}

// pss is the memory of a process in KiB; of pages that others share, its part.
func pss(t *testing.T, pid string) int {
	t.Helper()
	for line := range strings.Lines(read(t, "/proc/"+pid+"/smaps_rollup")) {
		var size int
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &size); n == 1 {
			return size
		}
	}
	t.Fatalf("process %s has no Pss", pid)
	return 0
}
