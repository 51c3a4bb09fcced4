package external

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/testrig"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
	"berth/launcher/plan"
)

// options has a directory for executables, and one for records.
func options(t *testing.T) Options {
	t.Helper()
	testrig.RequireRoot(t)
	dir := testrig.TempDir(t)
	o := Options{
		Dir: filepath.Join(dir, "isolators"), SandboxDirectory: "/mnt/sandbox", Log: slog.New(slog.DiscardHandler),
		Records: func(id container.ID) string { return filepath.Join(dir, "run", id.String(), "external") },
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "state"), 0o755); err != nil {
		t.Fatal(err)
	}
	return o
}

// install makes the text an executable.
func install(t *testing.T, o Options, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.Dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// script is an isolator that takes part in the phases and otherwise does what the lines say.
func script(phases, lines string) string {
	return "#!/bin/sh\n[ $BERTH_PHASE != describe ] || exec echo '{\"version\": 1, \"phases\": [" + phases + "]}'\n" + lines + "\n"
}

func made(t *testing.T, o Options, file string) *Isolator {
	t.Helper()
	i, err := New(t.Context(), Prefix+file, o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func newContainer(t *testing.T, config *v1.ContainerConfig) *isolator.Container {
	t.Helper()
	id, err := container.ParseID("c1")
	if err != nil {
		t.Fatal(err)
	}
	return &isolator.Container{ID: id, Config: config}
}

// forks stands for a launcher: its init processes sleep.
type forks map[container.ID]*exec.Cmd

func (f forks) fork(t *testing.T, id container.ID) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f[id] = cmd
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestConformanceOfAProgram(t *testing.T) {
	o := options(t)
	if out, err := exec.Command("go", "build", "-o", filepath.Join(o.Dir, "notes"), "./testdata/notes").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	isolatortest.Run(t, made(t, o, "notes"), isolatortest.Requests{
		Good: &v1.ContainerConfig{User: proto.String("app"), Directory: proto.String("/sandbox")},
		Bad:  map[string]*v1.ContainerConfig{"one that it refuses": {User: proto.String("refused")}},
		Fork: forks{}.fork,
	})
	if names := left(t, filepath.Join(o.Dir, "state")); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

func TestConformanceOfAShellScript(t *testing.T) {
	o := options(t)
	text, err := os.ReadFile("../../examples/isolators/scratch")
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir() // not where the same test of another process has it
	install(t, o, "scratch", strings.ReplaceAll(string(text), "/run/berth-scratch", scratch))
	isolatortest.Run(t, made(t, o, "scratch"), isolatortest.Requests{
		Good: &v1.ContainerConfig{Directory: proto.String("/sandbox"), Rootfs: proto.String("/rootfs")},
		Fork: forks{}.fork,
	})
	if names := left(t, scratch); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

func TestWhatAnExecutableIsGiven(t *testing.T) {
	o := options(t)
	install(t, o, "spy", script(`"prepare","isolate","cleanup"`, `cd "$(dirname "$0")/state"; cat > request.$BERTH_PHASE
		env | grep -vE '^(_|SHLVL|PWD|OLDPWD)=' | sort > env.$BERTH_PHASE; ls /proc/$$/fd > fds`)) // but for what shells add
	install(t, o, "where", script(`"prepare"`, `pwd > "$(dirname "$0")/state/pwd"`))
	t.Setenv("SECRET", "of berth")
	i := made(t, o, "spy")
	c := newContainer(t, &v1.ContainerConfig{User: proto.String("app & <co>")})
	if _, err := i.Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := i.Isolate(t.Context(), c, 4711); err != nil {
		t.Fatal(err)
	}
	if err := i.Cleanup(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := made(t, o, "where").Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(o.Dir, "state", name))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	config, err := v1.Marshal(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"request.prepare": `{"version":1,"phase":"prepare","container_id":"c1","config":` + string(config) + `}`,
		"request.isolate": `{"version":1,"phase":"isolate","container_id":"c1","config":` + string(config) + `,"pid":4711}`,
		"request.cleanup": `{"version":1,"phase":"cleanup","container_id":"c1"}`,
	} {
		var got, wanted any
		if err := errors.Join(json.Unmarshal([]byte(read(name)), &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(wanted, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	environment := "BERTH_CONTAINER_ID=c1\nBERTH_PHASE=%s\n%sPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
	for phase, pid := range map[string]string{"prepare": "", "isolate": "BERTH_PID=4711\n", "cleanup": ""} {
		if want, got := fmt.Sprintf(environment, phase, pid), read("env."+phase); got != want {
			t.Errorf("the environment is %q, want %q", got, want)
		}
	}
	if got := read("pwd"); got != "/\n" {
		t.Errorf("it is run in %q", got)
	}
	if got := strings.Fields(read("fds")); slices.ContainsFunc(got, func(fd string) bool { n, _ := strconv.Atoi(fd); return n > 2 && n < 10 }) {
		t.Errorf("its files are %q", got)
	}
}

func TestWhatAnExecutableMayAnswer(t *testing.T) {
	o := options(t)
	install(t, o, "x", script(`"prepare"`, `cat <<'END'
{"environment": [{"name": "A", "value": "b=c"}, {"name": "E"}],
 "mounts": [{"container_path": "/data", "host_path": "/srv/data", "mode": "RO", "options": ["nosuid", "nodev", "noexec"]},
            {"container_path": "in/sandbox", "host_path": "/srv", "mode": "RW"}],
 "masked_paths": ["/proc/version"], "read_only_paths": ["/proc/sys"], "namespaces": ["net", "ipc"], "cgroup_controllers": ["blkio"]}
END`))
	config := &v1.ContainerConfig{Rootfs: proto.String("/rootfs"), Directory: proto.String("/sandbox")}
	got, err := made(t, o, "x").Prepare(t.Context(), newContainer(t, config))
	if err != nil {
		t.Fatal(err)
	}
	want := &isolator.LaunchInfo{
		Env: []string{"A=b=c", "E="},
		Volumes: []plan.Mount{
			{Target: "/data", Source: "/srv/data", Flags: plan.ReadOnly | plan.NoSuid | plan.NoDev | plan.NoExec},
			{Target: "/mnt/sandbox/in/sandbox", Source: "/srv"},
		},
		Masked: []string{"/proc/version"}, ReadOnly: []string{"/proc/sys"},
		Namespaces: []launcher.Namespace{launcher.Network, launcher.IPC, launcher.Mount}, Controllers: []string{"blkio"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAHostileAnswerIsRefused(t *testing.T) {
	o := options(t)
	where := filepath.Join(o.Dir, "x")
	mount := func(m string) string { return `echo '{"mounts": [` + m + `]}'` }
	for name, c := range map[string]struct {
		lines string
		class error
		words string
	}{
		"not JSON":                   {"echo ok", container.ErrInvalid, "not JSON"},
		"not an object":              {"echo '[1]'", container.ErrInvalid, "array"},
		"cut off":                    {`echo '{"environment": [{"na'`, container.ErrInvalid, "not JSON"},
		"two answers":                {"echo '{} {}'", container.ErrInvalid, "not JSON"},
		"another type":               {`echo '{"masked_paths": "/proc"}'`, container.ErrInvalid, "masked_paths"},
		"an unknown member":          {`echo '{"capabilities": ["CAP_SYS_ADMIN"]}'`, container.ErrInvalid, "capabilities"},
		"an unknown member inside":   {mount(`{"container_path": "/a", "host_path": "/b", "mode": "RO", "type": "proc"}`), container.ErrInvalid, "type"},
		"a member twice":             {`echo '{"masked_paths": [], "masked_paths": ["/x"]}'`, container.ErrInvalid, "twice"},
		"endless":                    {"exec yes", container.ErrInvalid, "more than 1048576 bytes"},
		"endless, and it goes on":    {"trap '' PIPE; yes; sleep 600", container.ErrInvalid, "more than 1048576 bytes"},
		"deep":                       {`head -c 1000000 /dev/zero | tr '\0' '['`, container.ErrInvalid, ""},
		"a climbing mount":           {mount(`{"container_path": "/a/../../b", "host_path": "/b", "mode": "RO"}`), container.ErrInvalid, ".."},
		"a climbing source":          {mount(`{"container_path": "/a", "host_path": "/srv/../etc", "mode": "RO"}`), container.ErrInvalid, "/srv/../etc"},
		"a relative source":          {mount(`{"container_path": "/a", "host_path": "b", "mode": "RO"}`), container.ErrInvalid, "host_path"},
		"a mount over everything":    {mount(`{"container_path": "/", "host_path": "/b", "mode": "RO"}`), container.ErrInvalid, "container_path"},
		"a mount without a mode":     {mount(`{"container_path": "/a", "host_path": "/b"}`), container.ErrInvalid, "RO or RW"},
		"an unknown mount option":    {mount(`{"container_path": "/a", "host_path": "/b", "mode": "RO", "options": ["suid"]}`), container.ErrInvalid, "suid"},
		"a NUL in a mount":           {mount(`{"container_path": "/a\u0000", "host_path": "/b", "mode": "RO"}`), container.ErrInvalid, "NUL"},
		"a climbing masked path":     {`echo '{"masked_paths": ["/proc/../etc"]}'`, container.ErrInvalid, "/proc/../etc"},
		"a relative read-only path":  {`echo '{"read_only_paths": ["etc"]}'`, container.ErrInvalid, "etc"},
		"the root masked":            {`echo '{"masked_paths": ["/"]}'`, container.ErrInvalid, "root"},
		"a variable without a name":  {`echo '{"environment": [{"value": "x"}]}'`, container.ErrInvalid, "variable"},
		"two variables in one":       {`echo '{"environment": [{"name": "A", "value": "x\u0000B=y"}]}'`, container.ErrInvalid, "variable"},
		"a name with =":              {`echo '{"environment": [{"name": "A=B", "value": "x"}]}'`, container.ErrInvalid, "variable"},
		"an unknown namespace":       {`echo '{"namespaces": ["time"]}'`, container.ErrInvalid, "time"},
		"a controller that climbs":   {`echo '{"cgroup_controllers": ["../memory"]}'`, container.ErrInvalid, "../memory"},
		"an error without a message": {`echo '{"error": {"class": "invalid"}}'`, container.ErrInvalid, "no message"},
		"an unknown class":           {`echo '{"error": {"class": "fatal", "message": "gone"}}'`, container.ErrInvalid, "fatal"},
		"an error":                   {`printf '%s' '{"error": {"class": "not_supported", "message": "no quota\non this disk"}}'; exit 3`, container.ErrNotSupported, "no quota on this disk"},
		"an error and success":       {`echo '{"error": {"class": "unavailable", "message": "later"}}'`, container.ErrUnavailable, "later"},
		"an exit status":             {"echo it broke >&2; exit 3", nil, "exit status 3; it wrote: it broke"},
		"an answer and a status":     {"echo '{}'; exit 3", nil, "exit status 3"},
		"a signal":                   {"kill -SEGV $$", nil, "segmentation fault"},
		"a process that stays":       {`f=$(dirname $0)/state/away; rm -f $f; setsid sh -c "touch $f; sleep 3" & until [ -e $f ]; do sleep 0.01; done`, container.ErrInvalid, "left a process behind"},
	} {
		t.Run(name, func(t *testing.T) {
			install(t, o, "x", script(`"prepare"`, c.lines))
			config := &v1.ContainerConfig{Rootfs: proto.String("/rootfs"), Directory: proto.String("/sandbox")}
			info, err := made(t, o, "x").Prepare(t.Context(), newContainer(t, config))
			if info != nil || err == nil || c.class != nil && !errors.Is(err, c.class) {
				t.Fatalf("got %+v, %v, want an error of class %v", info, err, c.class)
			}
			for _, words := range []string{where, "prepare container c1", c.words} {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%q does not say %q", err, words)
				}
			}
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("the error %q is not one line", err)
			}
		})
	}
}

func TestADescriptionIsChecked(t *testing.T) {
	o := options(t)
	for name, c := range map[string]struct{ lines, words string }{
		"nothing":         {"exit 0", "version 0"},
		"another version": {`echo '{"version": 2, "phases": []}'`, "version 2"},
		"unknown phase":   {`echo '{"version": 1, "phases": ["checkpoint"]}'`, "checkpoint"},
		"an error":        {`echo '{"error": {"class": "not_supported", "message": "no such kernel"}}'`, "no such kernel"},
	} {
		install(t, o, "x", "#!/bin/sh\n"+c.lines+"\n")
		_, err := New(t.Context(), "external/x", o)
		if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), o.Dir+"/x") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"external/", "external/..", "external/a/b", "external/.x", "external/X", "external/-x"} {
		if _, err := New(t.Context(), name, o); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

func TestAnExecutableThatOthersCanChangeIsNotRun(t *testing.T) {
	for name, c := range map[string]struct {
		change func(o Options, x string) error
		class  error
		words  string
	}{
		"of another user":           {func(o Options, x string) error { return os.Chown(x, 1000, 0) }, container.ErrFailedPrecondition, "user 1000"},
		"writable by everybody":     {func(o Options, x string) error { return os.Chmod(x, 0o757) }, container.ErrFailedPrecondition, "0757"},
		"writable by its group":     {func(o Options, x string) error { return os.Chmod(x, 0o775) }, container.ErrFailedPrecondition, "0775"},
		"directory of another user": {func(o Options, x string) error { return os.Chown(o.Dir, 1000, 0) }, container.ErrFailedPrecondition, "user 1000"},
		"directory for everybody":   {func(o Options, x string) error { return os.Chmod(o.Dir, 0o777) }, container.ErrFailedPrecondition, o777},
		"directory above":           {func(o Options, x string) error { return os.Chmod(filepath.Dir(o.Dir), 0o777) }, container.ErrFailedPrecondition, o777},
		"a link of another user": {func(o Options, x string) error {
			return errors.Join(os.Rename(x, x+"2"), os.Symlink(x+"2", x), os.Lchown(x, 1000, 0))
		}, container.ErrFailedPrecondition, "user 1000"},
		"a link to another user's": {func(o Options, x string) error {
			return errors.Join(os.Rename(x, x+"2"), os.Symlink(x+"2", x), os.Chown(x+"2", 1000, 0))
		}, container.ErrFailedPrecondition, "user 1000"},
		"a directory":    {func(o Options, x string) error { return errors.Join(os.Remove(x), os.Mkdir(x, 0o755)) }, container.ErrInvalid, "executable"},
		"a FIFO":         {func(o Options, x string) error { return errors.Join(os.Remove(x), syscall.Mkfifo(x, 0o755)) }, container.ErrInvalid, "executable"},
		"not executable": {func(o Options, x string) error { return os.Chmod(x, 0o644) }, container.ErrInvalid, "executable"},
		"missing":        {func(o Options, x string) error { return os.Remove(x) }, container.ErrNotFound, "--isolator_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			install(t, o, "x", script("", ""))
			made(t, o, "x")
			ran := filepath.Join(o.Dir, "state", "ran")
			install(t, o, "x", script("", "")+"touch "+ran+"\n")
			if err := c.change(o, filepath.Join(o.Dir, "x")); err != nil {
				t.Fatal(err)
			}
			_, err := New(t.Context(), "external/x", o)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), o.Dir+"/x") {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("it was run")
			}
		})
	}
}

const o777 = "mode 0777"

// alive lists the processes whose ids are in a file.
func alive(t *testing.T, file string) (pids []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(text)) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// soon waits for processes that have been killed.
func soon(t *testing.T, file string) {
	t.Helper()
	for range 500 {
		if len(alive(t, file)) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("processes live on: %q", alive(t, file))
}

func TestAnExecutableEndsWithItsProcessesWhenItsCallIsCancelled(t *testing.T) {
	o := options(t)
	pids, ready := filepath.Join(o.Dir, "state", "pids"), filepath.Join(o.Dir, "state", "ready")
	install(t, o, "x", script(`"prepare"`, "trap '' TERM; sleep 600 & echo $$ $! > "+pids+"; touch "+ready+"; wait"))
	i := made(t, o, "x")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for _, err := os.Stat(ready); err != nil && ctx.Err() == nil; _, err = os.Stat(ready) {
			time.Sleep(time.Millisecond)
		}
		cancel(errors.New("somebody lost patience"))
	}()
	_, err := i.Prepare(ctx, newContainer(t, &v1.ContainerConfig{}))
	if err == nil || !strings.Contains(err.Error(), "somebody lost patience") {
		t.Errorf("got %v", err)
	}
	soon(t, pids)
}

func TestAnExecutableThatDoesNotAnswerIsKilled(t *testing.T) {
	o := options(t)
	pids := filepath.Join(o.Dir, "state", "pids")
	install(t, o, "x", script(`"prepare"`, "echo $$ > "+pids+"; echo still busy >&2; exec sleep 600"))
	i := made(t, o, "x")
	defer func(d time.Duration) { timeout = d }(timeout)
	timeout = 2 * time.Second
	_, err := i.Prepare(t.Context(), newContainer(t, &v1.ContainerConfig{}))
	if !errors.Is(err, container.ErrUnavailable) || !strings.Contains(err.Error(), "no answer within 2s; it wrote: still busy") {
		t.Errorf("got %v", err)
	}
	soon(t, pids)
}

func TestNothingOfAnExecutablesGroupOutlivesIt(t *testing.T) {
	o := options(t)
	pids := filepath.Join(o.Dir, "state", "pids")
	install(t, o, "x", script(`"prepare"`, "sleep 600 > /dev/null 2>&1 & echo $! > "+pids))
	if _, err := made(t, o, "x").Prepare(t.Context(), newContainer(t, &v1.ContainerConfig{})); err != nil {
		t.Error(err)
	}
	soon(t, pids)
}

func TestWhatAnExecutableWritesToItsStandardErrorIsLogged(t *testing.T) {
	o := options(t)
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	install(t, o, "x", script(`"prepare"`, "echo 'the disk is old' >&2; head -c 10000000 /dev/zero | tr '\\0' x >&2"))
	if _, err := made(t, o, "x").Prepare(t.Context(), newContainer(t, &v1.ContainerConfig{})); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "the disk is old") || !strings.Contains(log.String(), o.Dir+"/x") || log.Len() > 2*maxNotes {
		t.Errorf("the log has %d bytes: %.300s", log.Len(), log.String())
	}
}

func TestARequestNeedNotBeRead(t *testing.T) {
	o := options(t)
	install(t, o, "x", script(`"prepare"`, "exec echo '{}'"))
	config := &v1.ContainerConfig{User: proto.String(strings.Repeat("x", 1<<20))}
	if _, err := made(t, o, "x").Prepare(t.Context(), newContainer(t, config)); err != nil {
		t.Error(err)
	}
}

func TestAnExecutableIsAskedForItsPhasesOnly(t *testing.T) {
	o := options(t)
	install(t, o, "x", script("", "exit 1"))
	i, c := made(t, o, "x"), newContainer(t, &v1.ContainerConfig{})
	_, err := i.Prepare(t.Context(), c)
	if err := errors.Join(err, i.Isolate(t.Context(), c, 1), i.Cleanup(t.Context(), c.ID)); err != nil {
		t.Error(err)
	}
}

// A container is cleaned up by whoever finds it, with the executables that prepared it,
// whichever are configured there.
func TestExecutablesThatAreNotConfiguredCleanUpToo(t *testing.T) {
	o := options(t)
	cleaned := filepath.Join(o.Dir, "state", "cleaned")
	for _, name := range []string{"a", "b"} {
		install(t, o, name, script(`"prepare","cleanup"`, "[ $BERTH_PHASE != cleanup ] || echo "+name+" $BERTH_CONTAINER_ID >> "+cleaned))
	}
	c := newContainer(t, &v1.ContainerConfig{})
	a, b := made(t, o, "a"), made(t, o, "b")
	for _, i := range []*Isolator{a, b} {
		if _, err := i.Prepare(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	other := o
	other.Dir = "/elsewhere"
	for range 2 {
		if err := NewOthers(other, []string{"external/b"}).Cleanup(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	if text, _ := os.ReadFile(cleaned); string(text) != "a c1\n" {
		t.Errorf("cleaned up: %q", text)
	}
	if err := b.Cleanup(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if names := left(t, o.Records(c.ID)); len(names) > 0 {
		t.Errorf("the records %q are left", names)
	}
}

func TestACleanupThatFailsIsNotForgotten(t *testing.T) {
	o := options(t)
	install(t, o, "x", script(`"prepare","cleanup"`, "[ $BERTH_PHASE = prepare ]"))
	i, c := made(t, o, "x"), newContainer(t, &v1.ContainerConfig{})
	if _, err := i.Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(o.Records(c.ID), "x")
	for _, part := range []isolator.Isolator{i, NewOthers(o, nil)} {
		if err := part.Cleanup(t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), record) {
			t.Errorf("got %v, want an error that names %s", err, record)
		}
	}
	if err := os.Remove(filepath.Join(o.Dir, "x")); err != nil {
		t.Fatal(err)
	}
	if err := i.Cleanup(t.Context(), c.ID); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("without the executable: %v", err)
	}
	install(t, o, "x", script("", ""))
	if err := i.Cleanup(t.Context(), c.ID); err != nil || len(left(t, o.Records(c.ID))) > 0 {
		t.Errorf("once it works again: %v, %q", err, left(t, o.Records(c.ID)))
	}
}

func TestList(t *testing.T) {
	o := options(t)
	for _, name := range []string{"b", "a-1", ".hidden", "README", "x.bak"} {
		install(t, o, name, "")
	}
	got, err := List(o.Dir)
	if want := []string{"external/a-1", "external/b"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if got, err := List(filepath.Join(o.Dir, "none")); len(got) > 0 || err != nil {
		t.Errorf("without a directory: %q, %v", got, err)
	}
}

// Whatever an executable answers is refused with a class, or makes a well-formed part.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"environment":[{"name":"A","value":"b"}],"mounts":[{"container_path":"/d","host_path":"/s","mode":"RO","options":["nodev"]}]}`,
		`{"masked_paths":["/proc/a"],"read_only_paths":["/b"],"namespaces":["net"],"cgroup_controllers":["cpu"]}`,
		`{"error":{"class":"invalid","message":"no"}}`, `{"mounts":[{"container_path":"a/../..","host_path":"/..","mode":"RW"}]}`, ``, `null`, `{}`,
	} {
		f.Add([]byte(seed))
	}
	config := &v1.ContainerConfig{Rootfs: proto.String("/rootfs"), Directory: proto.String("/sandbox")}
	f.Fuzz(func(t *testing.T, body []byte) {
		var answer part
		err := decode(body, &answer)
		if err == nil && answer.said() != nil {
			if answer.said().err() == nil {
				t.Error("an error that is none")
			}
			return
		}
		var info *isolator.LaunchInfo
		if err == nil {
			info, err = answer.launchInfo(config, "/mnt/sandbox")
		}
		if err != nil {
			if !errors.Is(err, container.ErrInvalid) {
				t.Errorf("an error of no class: %v", err)
			}
			return
		}
		for _, m := range info.Volumes {
			if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target || !filepath.IsAbs(m.Source) || m.Target == "/" {
				t.Errorf("the mount %+v", m)
			}
		}
		for _, entry := range info.Env {
			if name, _, ok := strings.Cut(entry, "="); !ok || name == "" || strings.Contains(entry, "\x00") {
				t.Errorf("%q in the environment", entry)
			}
		}
	})
}

// statistics has an executable answer to usage.
func statistics(t *testing.T, o Options, lines string) (*v1.ResourceStatistics, error) {
	t.Helper()
	install(t, o, "x", script(`"usage"`, lines))
	usage := &v1.ResourceStatistics{Timestamp: proto.Float64(1), MemRssBytes: proto.Uint64(7)}
	return usage, made(t, o, "x").Usage(t.Context(), newContainer(t, nil).ID, usage)
}

func TestUsageIsAdded(t *testing.T) {
	o := options(t)
	got, err := statistics(t, o, `grep -q '"phase":"usage","container_id":"c1"}' && echo '{"statistics": {"disk_used_bytes": 5, "net_tx_bytes": 6}}'`)
	want := &v1.ResourceStatistics{Timestamp: proto.Float64(1), MemRssBytes: proto.Uint64(7), DiskUsedBytes: proto.Uint64(5), NetTxBytes: proto.Uint64(6)}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for _, lines := range []string{"exit 0", "echo '{}'", `echo '{"statistics": {}}'`} {
		if got, err := statistics(t, o, lines); err != nil || proto.Size(got) != proto.Size(&v1.ResourceStatistics{Timestamp: proto.Float64(1), MemRssBytes: proto.Uint64(7)}) {
			t.Errorf("%s: %v, %v", lines, got, err)
		}
	}
}

func TestAHostileMeasurementIsRefused(t *testing.T) {
	o := options(t)
	for name, c := range map[string]struct {
		lines string
		class error
		words string
	}{
		"not JSON":                 {"echo ok", container.ErrInvalid, "not JSON"},
		"no object":                {`echo '{"statistics": 5}'`, container.ErrInvalid, "statistics"},
		"an unknown member":        {`echo '{"statistics": {"love": 5}}'`, container.ErrInvalid, "love"},
		"a member of prepare":      {`echo '{"masked_paths": ["/x"]}'`, container.ErrInvalid, "masked_paths"},
		"what another one has":     {`echo '{"statistics": {"mem_rss_bytes": 5}}'`, container.ErrInvalid, "mem_rss_bytes"},
		"another time":             {`echo '{"statistics": {"timestamp": 5}}'`, container.ErrInvalid, "timestamp"},
		"less than nothing":        {`echo '{"statistics": {"disk_used_bytes": -5}}'`, container.ErrInvalid, "disk_used_bytes"},
		"words":                    {`echo '{"statistics": {"disk_used_bytes": "much"}}'`, container.ErrInvalid, "disk_used_bytes"},
		"more than there can be":   {`echo '{"statistics": {"disk_used_bytes": 1e30}}'`, container.ErrInvalid, "disk_used_bytes"},
		"twice":                    {`echo '{"statistics": {"disk_used_bytes": 1, "disk_used_bytes": 2}}'`, container.ErrInvalid, "twice"},
		"endless":                  {"exec yes", container.ErrInvalid, "more than 1048576 bytes"},
		"an exit status":           {"echo no disk >&2; exit 3", nil, "exit status 3; it wrote: no disk"},
		"a container that is gone": {`echo '{"error": {"class": "not_found", "message": "it is gone"}}'`, container.ErrNotFound, "it is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := statistics(t, o, c.lines)
			if err == nil || c.class != nil && !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), o.Dir+"/x") {
				t.Errorf("got %v, want an error of class %v that says %q", err, c.class, c.words)
			}
			if got.DiskUsedBytes != nil || got.GetMemRssBytes() != 7 {
				t.Errorf("it was taken: %v", got)
			}
		})
	}
}

func TestUpdateAndRecover(t *testing.T) {
	o := options(t)
	install(t, o, "x", script(`"update","recover"`, `cat > "$(dirname "$0")/state/request.$BERTH_PHASE"`))
	i := made(t, o, "x")
	config := &v1.ContainerConfig{User: proto.String("app"), Limits: map[string]*v1.Value_Scalar{"mem": {Value: proto.Float64(5)}}}
	c := newContainer(t, config)
	if err := errors.Join(i.Update(t.Context(), c), i.Recover(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "state", "request.recover")); err == nil {
		t.Error("it was asked to recover nothing")
	}
	if err := i.Recover(t.Context(), []*isolator.Container{c, c}); err != nil {
		t.Fatal(err)
	}
	text, err := v1.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	one := `{"container_id":"c1","config":` + string(text) + `}`
	for name, want := range map[string]string{
		"request.update":  `{"version":1,"phase":"update","container_id":"c1","config":` + string(text) + `}`,
		"request.recover": `{"version":1,"phase":"recover","containers":[` + one + `,` + one + `]}`,
	} {
		var got, wanted any
		data, err := os.ReadFile(filepath.Join(o.Dir, "state", name))
		if err := errors.Join(err, json.Unmarshal(data, &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(wanted, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Whatever phase it is, what fails is said, and in time.
func TestAnExecutableThatFailsInAnyPhase(t *testing.T) {
	o := options(t)
	defer func(d time.Duration) { timeout = d }(timeout)
	c := newContainer(t, &v1.ContainerConfig{})
	for lines, words := range map[string]string{
		"echo rubbish":              "not JSON",
		"echo it broke >&2; exit 4": "exit status 4; it wrote: it broke",
		"exec sleep 600":            "no answer within",
		"kill -KILL $$":             "killed",
		`echo '{"error": {"class": "failed_precondition", "message": "it uses more"}}'`: "it uses more",
		`echo '{"phases": []}'`: "phases",
	} {
		install(t, o, "x", script(`"update","usage","recover"`, lines))
		timeout = 30 * time.Second
		i := made(t, o, "x")
		if strings.Contains(lines, "sleep") {
			timeout = 100 * time.Millisecond
		}
		for phase, do := range map[string]func() error{
			"update":  func() error { return i.Update(t.Context(), c) },
			"usage":   func() error { return i.Usage(t.Context(), c.ID, &v1.ResourceStatistics{}) },
			"recover": func() error { return i.Recover(t.Context(), []*isolator.Container{c}) },
		} {
			err := do()
			if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), o.Dir+"/x: "+phase) {
				t.Errorf("%s, %s: %v", lines, phase, err)
			}
		}
	}
}
