package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Dir is a group's directory for one controller: where an isolator sets limits and
// reads statistics. The names and the formats of the files depend on Version.
//
// Errors name the file. Their class is container.ErrNotFound when the directory is
// gone (the container has ended), container.ErrNotSupported when only the file is
// missing (this kernel does not have the feature) and none otherwise; the errno
// of the kernel is wrapped.
type Dir struct {
	path    string
	version Version
	kept    *kept // nil: of no Group
	keeps   bool  // files that are read stay open
}

// DirAt returns the Dir of a directory that exists already: of a cgroup that is not
// berth's, or of a temporary directory in a test, which holds the files of the
// given version that shall be written.
func DirAt(path string, version Version) Dir { return Dir{path: path, version: version} }

// Version returns the version whose files the directory holds.
func (d Dir) Version() Version { return d.version }

// Path returns the path of the directory, for what has no file to read and
// write: watching, bind mounting, attaching BPF programs.
func (d Dir) Path() string { return d.path }

// Write sets a file with one write(2). A nil error proves that the kernel took the
// value, which it may have rounded. The empty value empties a list (cpuset.cpus).
func (d Dir) Write(file, value string) error {
	if err := writeAt(unix.AT_FDCWD, path.Join(d.path, file), value); err != nil {
		return d.explain("write "+strconv.Quote(value)+" to", file, err)
	}
	return nil
}

// WriteEach writes several values to a file that takes one with each write(2), and stops at the
// first that the kernel does not take.
func (d Dir) WriteEach(file string, values []string) error {
	if len(values) == 0 {
		return nil
	}
	fd, err := openAt(unix.AT_FDCWD, path.Join(d.path, file), unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return d.explain("open", file, err)
	}
	defer unix.Close(fd)
	for _, value := range values {
		if err := writeTo(fd, value); err != nil {
			return d.explain("write "+strconv.Quote(value)+" to", file, err)
		}
	}
	return nil
}

// Read returns the content of a file, without the newline at its end.
func (d Dir) Read(file string) (string, error) {
	var content string
	err := d.read(file, func(text []byte) error {
		content = string(bytes.TrimSuffix(text, []byte("\n")))
		return nil
	})
	return content, err
}

// ReadUint returns the number in a file. "max" and "-1", by which v2 and v1 say
// that there is no limit, are math.MaxUint64.
func (d Dir) ReadUint(file string) (n uint64, err error) {
	err = d.read(file, func(text []byte) error {
		text = bytes.TrimSuffix(text, []byte("\n"))
		switch string(text) {
		case "max", "-1":
			n = math.MaxUint64
			return nil
		}
		n, err = parseUint(text)
		return err
	})
	return n, err
}

// ReadKeyed returns the numbers of a file whose lines are "key number", such as
// memory.stat, cpu.stat and memory.oom_control.
func (d Dir) ReadKeyed(file string) (map[string]uint64, error) {
	values := make(map[string]uint64)
	err := d.Scan(file, func(key []byte, n uint64) { values[string(key)] = n })
	if err != nil {
		return nil, err
	}
	return values, nil
}

// Scan calls visit with each line of a file whose lines are "key number". It makes
// nothing for the garbage collector: it is for what is read of every container all the
// time. The key is valid during the call.
func (d Dir) Scan(file string, visit func(key []byte, n uint64)) error {
	return d.read(file, func(text []byte) error { return scanKeyed(text, visit) })
}

// read calls use with the content of a file, in memory that is used again.
func (d Dir) read(file string, use func(text []byte) error) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	name := d.path + "/" + file
	text, err := d.readInto(name, (*buffer)[:0])
	if err != nil {
		return d.explain("read", file, err)
	}
	*buffer = text
	if err := use(text); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// buffers are as large as nearly every file.
var buffers = sync.Pool{New: func() any {
	buffer := make([]byte, 0, 8192)
	return &buffer
}}

func scanKeyed(text []byte, visit func(key []byte, n uint64)) error {
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		text = rest
		key, number, found := bytes.Cut(line, []byte(" "))
		if !found {
			return fmt.Errorf("line %q is not a key and a number", line)
		}
		n, err := parseUint(number)
		if err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
		visit(key, n)
	}
	return nil
}

// parseUint is strconv.ParseUint for bytes that are no string yet.
func parseUint(text []byte) (n uint64, err error) {
	for _, c := range text {
		if c < '0' || c > '9' || n > (math.MaxUint64-9)/10 {
			return strconv.ParseUint(string(text), 10, 64) // which is slower, and knows the edges
		}
		n = 10*n + uint64(c-'0')
	}
	if len(text) == 0 {
		return strconv.ParseUint("", 10, 64)
	}
	return n, nil
}

// explain adds to the error of a system call what was tried and the class.
func (d Dir) explain(verb, file string, err error) error {
	name := path.Join(d.path, file)
	switch {
	case gone(err) && !exists(d.path):
		return fmt.Errorf("%s %s: %w: the cgroup is gone: %w", verb, name, container.ErrNotFound, err)
	case gone(err) && !exists(name):
		return fmt.Errorf("%s %s: %w: %s: %w", verb, name, container.ErrNotSupported, featureOf(file, d.version), err)
	}
	// Also ENOENT and ENODEV can be about the value: a controller, a block device.
	return fmt.Errorf("%s %s: %w", verb, name, err)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// gone reports whether a call failed because the file or its cgroup is not there
// (any more). A cgroup that is removed while its file is open gives ENODEV.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// features names, per prefix of a file's name, what a kernel must have to offer it.
var features = []struct{ prefix, needs string }{
	{"cgroup.kill", "Linux 5.14"},
	{"cgroup.freeze", "Linux 5.2"},
	{"cpu.cfs_", "CONFIG_CFS_BANDWIDTH"},
	{"cpu.max", "CONFIG_CFS_BANDWIDTH"},
	{"cpu.rt_", "CONFIG_RT_GROUP_SCHED"},
	{"cpu.uclamp.", "CONFIG_UCLAMP_TASK_GROUP"},
	{"memory.memsw.", "swap accounting (boot parameter swapaccount=1)"},
	{"memory.swap.", "swap accounting (boot parameter swapaccount=1)"},
	{"memory.kmem.", "CONFIG_MEMCG_KMEM"},
	{"memory.oom.group", "Linux 4.19"},
	{"memory.peak", "Linux 5.19"},
	{"memory.reclaim", "Linux 5.19"},
	{"blkio.throttle.", "CONFIG_BLK_DEV_THROTTLING"},
	{"blkio.bfq.", "CONFIG_IOSCHED_BFQ with CONFIG_BFQ_GROUP_IOSCHED"},
	{"io.max", "CONFIG_BLK_DEV_THROTTLING"},
	{"io.latency", "CONFIG_BLK_CGROUP_IOLATENCY"},
	{"hugetlb.", "a huge page size of that name"},
}

func featureOf(file string, version Version) string {
	for _, feature := range features {
		if strings.HasPrefix(file, feature.prefix) {
			return "the kernel needs " + feature.needs
		}
	}
	if strings.HasSuffix(file, ".pressure") {
		return "the kernel needs CONFIG_PSI (boot parameter psi=1)"
	}
	controller, _, _ := strings.Cut(file, ".")
	return fmt.Sprintf("the %s controller of cgroup %s has no such file in this kernel", controller, version)
}

// writeAt writes the value to an existing file, relative to an open directory, with
// one write(2): the kernel takes each write as a whole value.
// O_TRUNC means nothing to a cgroup and lets a temporary directory stand for one.
func writeAt(dirFD int, name, value string) (err error) {
	fd, err := openAt(dirFD, name, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	return writeTo(fd, value)
}

func writeTo(fd int, value string) error {
	if value == "" {
		value = "\n" // a write of no bytes would not reach the controller
	}
	// Any signal, also one that the Go runtime sends to itself, may end a write
	// that waits for memory to be reclaimed.
	n, err := retryEINTR(func() (int, error) { return unix.Write(fd, []byte(value)) })
	if err == nil && n != len(value) {
		return fmt.Errorf("only %d of %d bytes were taken", n, len(value))
	}
	return err
}

// readAt returns the whole content of a file, relative to an open directory.
func readAt(dirFD int, name string) (string, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	text, err := readInto(dirFD, name, (*buffer)[:0])
	if err != nil {
		return "", err
	}
	*buffer = text
	return string(text), nil
}

// readInto appends the whole content of a file to a buffer.
func (d Dir) readInto(name string, buffer []byte) ([]byte, error) {
	if d.keeps {
		text, ok := d.kept.read(name, buffer)
		if !ok && d.kept.open(name) {
			text, ok = d.kept.read(name, buffer)
		}
		if ok {
			return text, nil
		}
	}
	return readInto(unix.AT_FDCWD, name, buffer)
}

func readInto(dirFD int, name string, buffer []byte) ([]byte, error) {
	fd, err := openAt(dirFD, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readFrom(fd, buffer)
}

// readFrom appends the whole content of an open file, from its beginning, to an empty buffer.
func readFrom(fd int, buffer []byte) ([]byte, error) {
	for {
		if len(buffer) == cap(buffer) {
			buffer = slices.Grow(buffer, cap(buffer))
		}
		n, err := retryEINTR(func() (int, error) {
			return unix.Pread(fd, buffer[len(buffer):cap(buffer)], int64(len(buffer)))
		})
		if err != nil {
			return nil, err
		}
		buffer = buffer[:len(buffer)+n]
		// The kernel returns whole lines while they fit into a page of its own (seq_file):
		// after much less than that there is no more, and no need to ask.
		if n == 0 || n < lastRead && len(buffer) < cap(buffer) {
			return buffer, nil
		}
	}
}

// lastRead leaves room in a page for the longest line there is.
const lastRead = 3 << 10

// openAt opens what is named, which may be a path below dirFD, and never makes it.
func openAt(dirFD int, name string, flags int) (int, error) {
	return retryEINTR(func() (int, error) { return unix.Openat(dirFD, name, flags|unix.O_CLOEXEC, 0) })
}

func retryEINTR(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
