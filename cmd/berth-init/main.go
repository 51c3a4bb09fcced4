//go:build linux

// The runtime would keep the host's cgroup files open to follow its CPU limit, within
// reach of the container through /proc/1/fd.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Berth-init is the first process of a container. It waits until berth lets it go,
// makes the container's view of the system as its plan says, executes the command,
// forwards signals to it, reaps, and leaves the command's exit status in a file.
// berth need not live meanwhile.
//
// It is a program of its own so that it is small: it stays in memory as long as its
// container lives.
package main

import (
	"errors"
	"io"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/launcher/plan"
)

// For who looks at the host's processes: it was executed by a number. In init, this is the
// first thread, which gives the process its name. By no path: in /proc may be the
// container's. Nothing depends on it.
func init() {
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("berth-init\x00")[0])), 0, 0, 0)
}

func main() {
	// What berth's own parent left open is the host's, and the container could reach it
	// through /proc/1/fd. Before anything else, while the runtime has no files.
	if err := unix.CloseRange(plan.FirstForeignFD, ^uint(0), 0); err != nil {
		os.Exit(exitFailure)
	}
	// Whoever else executes this program, as a container may, has no plan for it; and what is
	// opened next would have the numbers of the files that are missing.
	files := plan.Inherited()
	if !files.Open() {
		os.Exit(exitFailure)
	}
	// Before the command exists: berth may send one as soon as it does.
	caught, err := catchSignals()
	if err != nil {
		os.Exit(fail(files, err))
	}
	// While berth prepares the rest. What is wrong with it is heard once this process is let go.
	p, err := plan.Decode(files.Plan)
	if !released(files.Release) {
		os.Exit(1) // berth has died before it let go; nothing was done
	}
	if err != nil {
		os.Exit(fail(files, err))
	}
	status, err := run(p, files, caught)
	if err != nil {
		os.Exit(fail(files, err))
	}
	files.Status.WriteString(strconv.Itoa(int(status)))
	os.Exit(exitCode(status))
}

// exitCode is that of a shell.
func exitCode(status unix.WaitStatus) int {
	if status.Exited() {
		return status.ExitStatus()
	}
	return 128 + int(status.Signal())
}

// released waits for the byte that lets this process go.
func released(release *os.File) bool {
	var b [1]byte
	_, err := io.ReadFull(release, b[:])
	return err == nil
}

// run does the whole work and returns the wait status of the command.
func run(p plan.Plan, files plan.Files, caught *signals) (unix.WaitStatus, error) {
	// Not that of whoever started berth: everyone shall be able to enter what is made here.
	unix.Umask(0o022)
	// The command gets the standard streams and nothing else.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, step("mark files close-on-exec", err)
	}
	if p.CgroupNamespace {
		if err := step("make a cgroup namespace", ownCgroups()); err != nil {
			return 0, err
		}
	}
	streams := standardStreams()
	if err := setUp(p, files, &streams); err != nil {
		return 0, err
	}
	logs, err := startLogs(p, files.Logs, &streams)
	if err != nil {
		return 0, err
	}
	if err := startInput(p, files, &streams); err != nil {
		return 0, err
	}
	child, err := start(p, streams)
	if err != nil {
		return 0, err
	}
	// Only the container has its terminal open, so that it ends with the container.
	if err := errors.Join(streams.close(), files.Terminal.Close()); err != nil {
		return 0, err
	}
	// The report is the last: closed without a word it says that the command was executed, and
	// that nothing is open here any more which the container should not reach.
	if err := errors.Join(files.Plan.Close(), files.Release.Close(), files.Parent.Close(), files.Sources.Close(), files.Report.Close()); err != nil {
		return 0, err
	}
	status, err := child.wait(caught, func() {
		if onlyWaits(p) {
			_ = becomeWaiter(child, caught, files.Status) // where that is not possible, all stays as it is
		}
	})
	if p.Tree {
		endRest()
	}
	logs.finish() // before anyone hears of the end
	return status, err
}

// onlyWaits reports whether this process does nothing while the command runs but what
// child.wait does, so that the waiter can take its place. Whatever else it comes to do
// belongs here.
func onlyWaits(p plan.Plan) bool {
	return !p.Tree && p.Logs == nil && !p.Input && (p.Terminal == nil || !p.Terminal.Kept)
}

// fail reports why the command was not executed, and records the exit status that
// stands for it.
func fail(files plan.Files, err error) (code int) {
	code = exitFailure
	var exit exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	// berth may be dead, so nobody may be there to read it.
	plan.Report{Message: err.Error(), Code: code}.Encode(files.Report)
	files.Status.WriteString(strconv.Itoa(code << 8))
	return code
}
