//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/launcher/plan"
)

// outputNames are the files of the sandbox, by descriptor.
var outputNames = map[int]string{1: "stdout", 2: "stderr"}

// logs writes what the command says to files. nil: there is nothing to write.
type logs struct {
	sources []source
	copies  sync.WaitGroup
}

// source is where what the command says comes from. After Finish, which does not wait, its
// reads return what is there, and then io.EOF.
type source interface {
	io.ReadCloser
	Finish()
}

// startLogs gives the command pipes for the outputs that are to be written to dir, unless
// they are its terminal.
func startLogs(p plan.Plan, dir *os.File, s *streams) (*logs, error) {
	if p.Logs == nil {
		return nil, dir.Close()
	}
	l := &logs{}
	for _, output := range p.Logs.Outputs {
		log := &boundedLog{dir: dir, name: outputNames[output], maxSize: p.Logs.MaxSize, maxFiles: p.Logs.MaxFiles, uid: int(p.Command.UID), gid: int(p.Command.GID)}
		if log.maxSize == 0 {
			log.maxSize = math.MaxInt64
		}
		if err := log.open(); err != nil {
			return nil, step("open the log "+log.name, err)
		}
		from, err := l.source(output, s, p.Command)
		if err != nil {
			return nil, step("make a pipe for "+log.name, err)
		}
		l.sources = append(l.sources, from)
		l.copies.Go(func() { log.copy(from) })
	}
	return l, nil
}

func (l *logs) source(output int, s *streams, user plan.Command) (source, error) {
	if s.kept != nil {
		return s.kept, nil
	}
	reader, writer, err := userPipe(user)
	if err != nil {
		return nil, err
	}
	s.take(output, writer)
	return pipe{reader}, nil
}

// userPipe returns a pipe that its user can open by name, as /dev/stdout.
func userPipe(user plan.Command) (reader, writer *os.File, err error) {
	if reader, writer, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	if err := unix.Fchown(int(writer.Fd()), int(user.UID), int(user.GID)); err != nil {
		return nil, nil, errors.Join(err, reader.Close(), writer.Close())
	}
	return reader, writer, nil
}

// pipe is the end of an output that is read.
type pipe struct{ *os.File }

// Read implements source.
func (p pipe) Read(buffer []byte) (int, error) {
	n, err := p.File.Read(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return readNow(p.File, buffer)
	}
	return n, err
}

// Finish implements source.
func (p pipe) Finish() { _ = p.SetReadDeadline(time.Now()) } // pipes have deadlines

// finish writes what the command has said before it ended. Others who have the pipe may go
// on for ever; they are about to be killed.
func (l *logs) finish() {
	if l == nil {
		return
	}
	for _, s := range l.sources {
		s.Finish()
	}
	l.copies.Wait()
}

// boundedLog is a file that is renamed, with .1 for the newest, when it is full. The last
// of them is removed. Only files that this process has made are written to, whatever the
// container puts in their place.
type boundedLog struct {
	dir      *os.File
	name     string
	maxSize  int64
	maxFiles int
	uid, gid int

	fd   int
	size int64
}

// logBuffer is how much of an output is read at a time. Without output it is not in memory:
// the kernel makes its pages when they are written to.
const logBuffer = 16 << 10

// copy copies until the output ends, or finish was called and it is read. A full disk loses
// what does not fit: the container must not wait for whoever makes room.
func (l *boundedLog) copy(from io.ReadCloser) {
	defer from.Close()
	buffer := make([]byte, logBuffer)
	for {
		n, err := from.Read(buffer)
		l.write(buffer[:n])
		if err != nil {
			return
		}
	}
}

// readNow reads what is there; io.EOF: nothing is.
func readNow(reader *os.File, buffer []byte) (n int, err error) {
	raw, err := reader.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buffer) })
	if controlErr != nil || err != nil || n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// write puts the next file in place where this one is full: between lines, unless a line
// is longer than a file, or came in pieces.
func (l *boundedLog) write(data []byte) {
	for len(data) > 0 {
		room := l.maxSize - l.size
		if int64(len(data)) <= room {
			l.append(data)
			return
		}
		cut := bytes.LastIndexByte(data[:room], '\n') + 1
		if cut == 0 && l.size == 0 {
			cut = int(room)
		}
		l.append(data[:cut])
		l.rotate()
		data = data[cut:]
	}
}

func (l *boundedLog) append(data []byte) {
	for len(data) > 0 {
		n, err := unix.Write(l.fd, data)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // see copy
		}
		l.size += int64(n)
		data = data[n:]
	}
}

// rotate renames the files and opens a new one. When that fails, the one there is begins
// anew: the bound holds.
func (l *boundedLog) rotate() {
	full := l.fd
	if l.shift() != nil || l.open() != nil {
		l.fd = full
		_ = unix.Ftruncate(full, 0) // of a file of its own, opened for writing
		l.size = 0
		return
	}
	unix.Close(full)
}

// shift makes name.1 of name, and so on. One that is removed is not cut: whoever reads it
// has it to its end.
func (l *boundedLog) shift() error {
	dir := int(l.dir.Fd())
	if l.maxFiles == 1 {
		if err := unix.Unlinkat(dir, l.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove %s: %w", l.name, err)
		}
		return nil
	}
	for i := l.maxFiles - 1; i > 0; i-- {
		err := unix.Renameat(dir, l.numbered(i-1), dir, l.numbered(i))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("rename %s: %w", l.numbered(i-1), err)
		}
	}
	return nil
}

func (l *boundedLog) numbered(i int) string {
	if i == 0 {
		return l.name
	}
	return l.name + "." + strconv.Itoa(i)
}

// open makes the file. One that is there already is not taken: it, or what it links to,
// may be anything.
func (l *boundedLog) open() error {
	fd, err := unix.Openat(int(l.dir.Fd()), l.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, l.uid, l.gid); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	l.fd, l.size = fd, 0
	return nil
}
