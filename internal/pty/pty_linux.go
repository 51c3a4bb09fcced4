// Package pty makes the pseudo terminals of containers and hands them over: it is opened
// in the container, on the container's own devpts, and the other end, the master, goes to
// who speaks for the container's user.
//
// It is a part of berth-init, so it is small.
package pty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Size is that of a terminal in characters. The kernel begins with 0 x 0: unknown.
type Size struct {
	Rows, Columns uint16
}

// Open opens a new pseudo terminal, of the devpts on which the file system path multiplexer
// below the directory root lies, and makes uid its owner. No link is followed. Neither end
// becomes the caller's controlling terminal.
func Open(root int, multiplexer string, size Size, uid uint32) (master, peer *os.File, err error) {
	master, err = openMultiplexer(root, multiplexer)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", multiplexer, err)
	}
	if peer, err = openPeer(master, size, uid); err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	return master, peer, nil
}

func openMultiplexer(root int, path string) (*os.File, error) {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return nil, errors.Join(errors.New("it is not on a devpts file system"), f.Close())
	}
	return f, nil
}

// openPeer opens the other end by the master: its name may be another's by now
// (CVE-2025-52565).
func openPeer(master *os.File, size Size, uid uint32) (*os.File, error) {
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	if err := setSize(fd, size); err != nil {
		return nil, err
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, fmt.Errorf("open the terminal by its master: %w", errno)
	}
	f := os.NewFile(peer, "terminal")
	// The group stays that of devpts, and mode 0620: write(1) and its like.
	if err := unix.Fchown(int(peer), int(uid), -1); err != nil {
		return nil, errors.Join(fmt.Errorf("give the terminal to user %d: %w", uid, err), f.Close())
	}
	return f, nil
}

func setSize(fd int, size Size) error {
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns}); err != nil {
		return fmt.Errorf("set the size of the terminal: %w", err)
	}
	return nil
}

// Channel returns both ends of a socket by which a master is handed over.
func Channel() (receiver, sender *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal receiver"), os.NewFile(uintptr(fds[1]), "terminal sender"), nil
}

// Send hands a master over. The caller's own stays the caller's.
func Send(sender, master *os.File) error {
	// One byte must go with it.
	if err := unix.Sendmsg(int(sender.Fd()), []byte{0}, unix.UnixRights(int(master.Fd())), nil, 0); err != nil {
		return fmt.Errorf("hand over the terminal: %w", err)
	}
	return nil
}

// Master is the end of a terminal that speaks for its user.
type Master struct {
	file     *os.File
	finished atomic.Bool
}

// Receive takes the master that was sent, or will be. io.EOF: none will be.
func Receive(receiver *os.File) (*Master, error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4))
	var n, controlled int
	var err error
	for {
		n, controlled, _, _, err = unix.Recvmsg(int(receiver.Fd()), data[:], control, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("receive the terminal: %w", err)
	case n == 0:
		return nil, fmt.Errorf("receive the terminal: %w", io.EOF)
	}
	fd, err := descriptor(control[:controlled])
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	return NewMaster(fd)
}

// descriptor returns the one descriptor that came.
func descriptor(control []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("no descriptor came with the message")
}

// NewMaster returns the master that fd is open on, and owns it.
func NewMaster(fd int) (*Master, error) {
	// So that the runtime polls it: a Read then ends with Finish and Close.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("terminal: %w", err), unix.Close(fd))
	}
	return &Master{file: os.NewFile(uintptr(fd), "terminal")}, nil
}

// Read reads what the container has written. io.EOF: nobody in the container has the
// terminal open any more and all is read; or Finish was called and nothing more is there.
func (m *Master) Read(p []byte) (int, error) {
	for {
		if m.finished.Load() {
			return m.readNow(p)
		}
		n, err := m.file.Read(p)
		switch {
		case n > 0, err == nil:
			return n, nil
		case errors.Is(err, unix.EIO): // what the kernel says of a terminal that nobody has open
			return 0, io.EOF
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		}
	}
}

// readNow reads what is there.
func (m *Master) readNow(p []byte) (n int, err error) {
	raw, err := m.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		for {
			if n, err = unix.Read(int(fd), p); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	switch {
	case controlErr != nil:
		return 0, controlErr
	case n > 0:
		return n, nil
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EIO):
		return 0, io.EOF
	}
	return 0, err
}

// Finish says that the container has ended: reads return what it has left, and then
// io.EOF, even if somebody to whom it has sent its terminal keeps that open.
func (m *Master) Finish() {
	m.finished.Store(true)
	_ = m.file.SetReadDeadline(time.Now()) // an error says that it is closed
}

// Write writes what the user has typed. It waits while the container does not read.
func (m *Master) Write(p []byte) (int, error) { return m.file.Write(p) }

// Resize tells the container's processes, by SIGWINCH, that the size is another.
func (m *Master) Resize(size Size) error {
	raw, err := m.file.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = setSize(int(fd), size) })
	return errors.Join(controlErr, err)
}

// Close hangs the terminal up: the kernel sends SIGHUP to the command.
func (m *Master) Close() error { return m.file.Close() }
