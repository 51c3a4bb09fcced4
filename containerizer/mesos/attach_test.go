//go:build linux

package mesos

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

func withTerminal(c *v1.ContainerConfig) *v1.ContainerConfig {
	if c.ContainerInfo == nil {
		c.ContainerInfo = &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum()}
	}
	c.ContainerInfo.TtyInfo = &v1.TTYInfo{WindowSize: &v1.TTYInfo_WindowSize{Rows: proto.Uint32(3), Columns: proto.Uint32(4)}}
	return c
}

func withInput(req *containerizer.Request) { req.Input, req.Keeper = true, containerizer.Agent }

// follow attaches to an output until the end of the test.
func (r *rig) follow(id container.ID, stream containerizer.Stream, from containerizer.Position) io.ReadCloser {
	r.Helper()
	out, err := r.AttachOutput(r.Context(), id, stream, from)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := out.Close(); err != nil {
			r.Error(err)
		}
	})
	return out
}

// input attaches to the input until the end of the test.
func (r *rig) input(id container.ID) containerizer.Input {
	r.Helper()
	in, err := r.AttachInput(r.Context(), id)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { in.Close() })
	return in
}

func write(t testing.TB, in containerizer.Input, text string) {
	t.Helper()
	if n, err := io.WriteString(in, text); err != nil || n != len(text) {
		t.Errorf("wrote %d of %d bytes, %v", n, len(text), err)
	}
}

// comes reads a text that must be the next.
func comes(t testing.TB, out io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(out, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got[:n], err, want)
	}
}

// until reads up to a text.
func until(t testing.TB, out io.Reader, text string) (all string) {
	t.Helper()
	for !strings.HasSuffix(all, text) {
		var next [1]byte
		if _, err := io.ReadFull(out, next[:]); err != nil {
			t.Fatalf("read %q, %v, want %q", all, err, text)
		}
		all += string(next[:])
	}
	return all
}

// ends reads a text, and the end.
func ends(t testing.TB, out io.Reader, want string) {
	t.Helper()
	if got, err := io.ReadAll(out); err != nil || string(got) != want {
		t.Errorf("read %d bytes, %v, want %d: %.80q", len(got), err, len(want), got)
	}
}

func noise(size int) []byte {
	data := make([]byte, size)
	rand.Read(data)
	return data
}

// places are where a container can be: a root one, one nested in it, one that looks into it.
var places = map[string]func(r *rig) (container.ID, *v1.ContainerConfig){
	"root": func(r *rig) (container.ID, *v1.ContainerConfig) { return r.newID(), shell("") },
	"nested": func(r *rig) (container.ID, *v1.ContainerConfig) {
		return r.child(r.launchFor(shell("sleep 1000"), withInput), "child"), shell("")
	},
	"DEBUG": func(r *rig) (container.ID, *v1.ContainerConfig) {
		return r.child(r.launchFor(shell("sleep 1000"), withInput), "debug"), debug("")
	},
	"on the host": func(r *rig) (container.ID, *v1.ContainerConfig) { return r.newID(), bb("") },
	"DEBUG on the host": func(r *rig) (container.ID, *v1.ContainerConfig) {
		return r.child(r.launchFor(bb("sleep 1000"), withInput), "debug"), debug("")
	},
}

// launchAt launches a script in one of the places.
func (r *rig) launchAt(place, script string, terminal bool, change func(*containerizer.Request)) container.ID {
	r.Helper()
	id, c := places[place](r)
	if len(c.ImageArguments) > 0 {
		c.ImageArguments[len(c.ImageArguments)-1] = script
	} else {
		c.CommandInfo.Value = proto.String(script)
	}
	if terminal {
		withTerminal(c)
	}
	req := containerizer.Request{Config: c}
	withInput(&req)
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

func TestBytesArriveAsTheyAre(t *testing.T) {
	sent := noise(10 << 20)
	for place := range places {
		for name, script := range map[string]string{"": "echo ready; exec cat", " with a terminal": "stty raw -echo; echo ready; exec head -c 10485760"} {
			t.Run(place+name, func(t *testing.T) {
				r := newRig(t)
				terminal := name != ""
				id := r.launchAt(place, script, terminal, nil)
				out, in := r.follow(id, containerizer.Stdout, containerizer.FromStart), r.input(id)
				comes(t, out, "ready\n")
				var writing sync.WaitGroup
				defer writing.Wait()
				writing.Go(func() {
					if _, err := in.Write(sent); err != nil {
						t.Error(err)
					}
					if err := in.CloseWrite(); err != nil {
						t.Error(err)
					}
				})
				got, err := io.ReadAll(out)
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d bytes came, %v, of %d; they are not those", len(got), err, len(sent))
				}
				if got, err := r.Wait(t.Context(), id); err != nil || got.ExitCode() != 0 {
					t.Errorf("it ended with %+v, %v", got, err)
				}
				ends(t, r.follow(id, containerizer.Stderr, containerizer.FromStart), "")
			})
		}
	}
}

// The agent dies in the middle, and another one comes after it.
func TestStreamsOutliveTheAgent(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Input: "first\n", Args: []string{"sh", "-c", "cat; echo rest >&2; exit 3"}})
	id := mustID(t, "c")
	r.agent()
	out, in := r.follow(id, containerizer.Stdout, containerizer.FromStart), r.input(id)
	comes(t, out, "first\n")
	now := r.follow(id, containerizer.Stdout, containerizer.FromNow)
	write(t, in, "second\n")
	comes(t, now, "second\n")
	if err := in.CloseWrite(); err != nil {
		t.Error(err)
	}
	ends(t, out, "second\n")
	ends(t, now, "")
	if got, err := r.Wait(t.Context(), id); err != nil || got.ExitCode() != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	r.unlock(id)
	r.agent() // the next one knows the logs of a container that has ended
	ends(t, r.follow(id, containerizer.Stdout, containerizer.FromStart), "first\nsecond\n")
	ends(t, r.follow(id, containerizer.Stderr, containerizer.FromStart), "rest\n")
	ends(t, r.follow(id, containerizer.Stderr, containerizer.FromNow), "")
	r.gone(id)
	if _, err := r.AttachOutput(t.Context(), id, containerizer.Stdout, containerizer.FromStart); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("of one that is removed: %v", err)
	}
}

func TestATerminalOutlivesTheAgent(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Input: "first\n", Terminal: true, Args: []string{"sh", "-c", `stty -echo -onlcr; trap 'stty size' WINCH; tty; stty size; until test "$l" = second; do read -r l && echo "$l"; done; cat; echo end`}})
	id := mustID(t, "c")
	r.agent()
	all, in := r.follow(id, containerizer.Stdout, containerizer.FromStart), r.input(id)
	if before := until(t, all, "first\n"); !strings.HasSuffix(before, "/dev/pts/0\n3 4\nfirst\n") {
		t.Errorf("the terminal says %q", before)
	}
	now := r.follow(id, containerizer.Stdout, containerizer.FromNow)
	if err := r.Resize(t.Context(), id, 30, 40); err != nil {
		t.Fatal(err)
	}
	comes(t, all, "30 40\n")
	if err := in.CloseWrite(); err != nil { // which nobody hears
		t.Error(err)
	}
	write(t, in, "second\n\x04")
	ends(t, all, "second\nend\n")
	ends(t, now, "30 40\nsecond\nend\n")
	r.gone(id)
}

func TestManyFollowAtOnce(t *testing.T) {
	r := newRig(t)
	id := r.launchFor(shell("cat"), withInput)
	sent := noise(1 << 20)
	var all sync.WaitGroup
	for range 50 {
		out := r.follow(id, containerizer.Stdout, containerizer.FromStart)
		all.Go(func() {
			if got, err := io.ReadAll(out); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came, %v", len(got), err)
			}
		})
	}
	in := r.input(id)
	for chunk := range len(sent) >> 14 {
		write(t, in, string(sent[chunk<<14:][:1<<14]))
	}
	if err := in.CloseWrite(); err != nil {
		t.Error(err)
	}
	all.Wait()
}

func TestASlowReaderKeepsNobodyWaiting(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		r := newRig(t)
		c := shell("seq 1 500000")
		if terminal {
			c = withTerminal(shell("stty -onlcr; seq 1 500000"))
		}
		id := r.launchFor(c, withInput)
		out := r.follow(id, containerizer.Stdout, containerizer.FromStart)
		if got, err := r.Wait(t.Context(), id); err != nil || got.ExitCode() != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		ends(t, out, numbers(1, 500000))
	}
}

func TestRenamedFilesAreFollowedByteForByte(t *testing.T) {
	for name, change := range map[string]func(*v1.ContainerConfig) *v1.ContainerConfig{
		"a pipe":     func(c *v1.ContainerConfig) *v1.ContainerConfig { return c },
		"a terminal": withTerminal,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			id := r.launchFor(change(shell("test -t 0 && stty raw -echo; echo ready; cat")), func(req *containerizer.Request) {
				withInput(req)
				req.Logs = containerizer.Logs{MaxSize: 4096, MaxFiles: 2}
			})
			out, in := r.follow(id, containerizer.Stdout, containerizer.FromStart), r.input(id)
			comes(t, out, "ready\n")
			for range 100 {
				text := string(noise(3000))
				write(t, in, text)
				comes(t, out, text)
			}
		})
	}
}

func TestWhatIsOverwrittenIsSaidToBeLost(t *testing.T) {
	for _, files := range []int{1, 3} {
		r := newRig(t)
		id := r.launchFor(shell("echo first; read go; seq 1 30000; echo end"), func(req *containerizer.Request) {
			withInput(req)
			req.Logs = containerizer.Logs{MaxSize: 10000, MaxFiles: files}
		})
		out, in := r.follow(id, containerizer.Stdout, containerizer.FromStart), r.input(id)
		comes(t, out, "first\n")
		write(t, in, "go\n")
		if _, err := r.Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		before, err := io.ReadAll(out) // the rest of the first file
		if !errors.Is(err, containerizer.ErrLost) || !strings.HasPrefix(numbers(1, 30000), string(before)) {
			t.Errorf("%d files: %d bytes, %v", files, len(before), err)
		}
		after, err := io.ReadAll(out)
		if err != nil || len(after) > files*10000 || len(after) < (files-1)*5000 || !strings.HasSuffix(numbers(1, 30000)+"end\n", string(after)) {
			t.Errorf("%d files: then %d bytes, %v", files, len(after), err)
		}
	}
}

func TestTheEndOfTheInput(t *testing.T) {
	r := newRig(t)
	id := r.launchFor(shell("cat; echo end; sleep 1000"), withInput)
	out, in := r.follow(id, containerizer.Stdout, containerizer.FromStart), r.input(id)
	write(t, in, "a\n")
	if _, err := r.AttachInput(t.Context(), id); !errors.Is(err, container.ErrExists) {
		t.Errorf("a second writer: %v", err)
	}
	if err := errors.Join(in.Close(), in.Close()); err != nil { // which is not the end
		t.Error(err)
	}
	if _, err := in.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
	in = r.input(id)
	write(t, in, "b\n")
	comes(t, out, "a\nb\n")
	if err := errors.Join(in.CloseWrite(), in.CloseWrite(), in.Close()); err != nil {
		t.Error(err)
	}
	comes(t, out, "end\n")
	if _, err := r.AttachInput(t.Context(), id); !errors.Is(err, containerizer.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// The other side is gone: nobody is kept waiting.
func TestAnInputThatNobodyReads(t *testing.T) {
	r := newRig(t)
	id := r.launchFor(shell("exec <&-; echo closed; sleep 1000"), withInput)
	comes(t, r.follow(id, containerizer.Stdout, containerizer.FromStart), "closed\n")
	if _, err := r.AttachInput(t.Context(), id); !errors.Is(err, containerizer.ErrClosed) {
		t.Errorf("closed by the command: %v", err)
	}
	for _, terminal := range []bool{false, true} {
		c := shell("sleep 1000")
		if terminal {
			withTerminal(c)
		}
		id := r.launchFor(c, withInput)
		in := r.input(id)
		waited := make(chan error)
		go func() { _, err := in.Write(make([]byte, 10<<20)); waited <- err }()
		if _, err := r.Destroy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; !errors.Is(err, containerizer.ErrClosed) {
			t.Errorf("a writer whose container has ended: %v", err)
		}
		if _, err := r.AttachInput(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("of a container that has ended: %v", err)
		}
		if err := r.Resize(t.Context(), id, 1, 1); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("the size of one that has ended: %v", err)
		}
	}
}

func TestStreamsThatThereAreNot(t *testing.T) {
	r := newRig(t)
	c := r.start(shell("sleep 1000")) // with streams that the test holds
	for name, err := range map[string]error{
		"output": second(r.AttachOutput(t.Context(), c.id, containerizer.Stdout, containerizer.FromStart)),
		"input":  second(r.AttachInput(t.Context(), c.id)),
		"size":   r.Resize(t.Context(), c.id, 1, 1),
	} {
		if !errors.Is(err, container.ErrFailedPrecondition) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"output": second(r.AttachOutput(t.Context(), r.newID(), containerizer.Stdout, containerizer.FromStart)),
		"input":  second(r.AttachInput(t.Context(), r.newID())),
		"size":   r.Resize(t.Context(), r.newID(), 1, 1),
	} {
		if !errors.Is(err, container.ErrNotFound) {
			t.Errorf("of nobody, %s: %v", name, err)
		}
	}
	req := containerizer.Request{Config: shell("true"), Keeper: containerizer.Foreground, Input: true}
	req.Stdio[0] = os.Stdin
	if err := r.Launch(t.Context(), r.newID(), req); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("an input of two ends: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// The command owns its sandbox. What it puts in place of its output is not opened, unless
// it is a file there.
func TestWhatAContainerPutsInPlaceOfItsOutput(t *testing.T) {
	r := newRig(t)
	for name, put := range map[string]string{
		"a link": "ln -s " + r.canary + " stdout", "a pipe": "mkfifo stdout", "a directory": "mkdir stdout", "a device": "mknod stdout c 1 5",
	} {
		id := r.launchFor(shell(`cd "$MESOS_SANDBOX"; rm stdout; `+put+`; echo done >&2; sleep 1000`), withInput)
		comes(t, r.follow(id, containerizer.Stderr, containerizer.FromStart), "done\n")
		for _, from := range []containerizer.Position{containerizer.FromStart, containerizer.FromNow} {
			if _, err := r.AttachOutput(t.Context(), id, containerizer.Stdout, from); !errors.Is(err, container.ErrFailedPrecondition) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	id := r.launchFor(shell(`cd "$MESOS_SANDBOX"; rm stdout; truncate -s $((1<<40)) stdout; echo done >&2; sleep 1000`), withInput)
	comes(t, r.follow(id, containerizer.Stderr, containerizer.FromStart), "done\n")
	comes(t, r.follow(id, containerizer.Stdout, containerizer.FromStart), strings.Repeat("\x00", 1<<20))
	end := r.follow(id, containerizer.Stdout, containerizer.FromNow)
	if _, err := r.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
	ends(t, end, "")
}

// Clients come and go, mostly without a word (CVE-2022-23471, CVE-2022-31030, CVE-2025-64329).
func TestWhoAttachesAndGoesLeavesNothing(t *testing.T) {
	count := 300
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		count = 10_000
	}
	r := newRig(t)
	id := r.launchFor(withTerminal(shell("sleep 1000")), withInput)
	abort := func() {
		out, err := r.AttachOutput(t.Context(), id, containerizer.Stdout, containerizer.FromNow)
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		go func() { _, err := out.Read(make([]byte, 1)); waiting <- err }()
		in, err := r.AttachInput(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Resize(t.Context(), id, 5, 6), in.Close(), out.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-waiting; !errors.Is(err, os.ErrClosed) {
			t.Fatalf("the read: %v", err)
		}
	}
	abort()
	goroutines, files := runtime.NumGoroutine(), descriptors()
	init := r.Layout.Container(id).Pid()
	memory := pss(t, strings.Fields(read(t, init))[0])
	for range count {
		abort()
	}
	soon(t, "the end of the goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
	if leaks := newDescriptors(files); len(leaks) > 0 {
		t.Error(leaks)
	}
	if after := pss(t, strings.Fields(read(t, init))[0]); after > memory+200 {
		t.Errorf("berth-init has grown from %d to %d KiB", memory, after)
	}
}
