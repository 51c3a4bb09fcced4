package containerizer

import (
	"context"
	"errors"
	"io"

	"berth/container"
)

// Stream is an output of a container.
type Stream string

// The outputs, by the names of their files in the sandbox.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Position is where in an output to begin.
type Position int

// The positions.
const (
	FromStart Position = iota // with all that is still there of the output
	FromNow                   // with what comes next
)

// ErrLost is what a Read of an output returns where something may be missing: its bounded
// files were filled faster than they were read, or the container has cut or replaced one. It
// is not the end: the next Read goes on with the oldest that is there. With one file alone
// (Logs.MaxFiles is 1) nobody can tell, and it comes with each new one.
var ErrLost = errors.New("a part of the output may be missing: it was removed before it was read")

// Streams are the standard streams of containers that were launched without anybody to
// hold them. They are files: outputs are those of the sandbox, the input is a pipe in the
// container's records. So nothing of it is in the memory of this process, and the one that
// takes the containers up again after it has the same streams.
//
// It is the same for root, nested and DEBUG containers, with and without a terminal.
type Streams interface {
	// AttachOutput follows an output, byte for byte, while it is written and across its
	// bounded files. It waits for the end of the launch. Of a container with a terminal all is
	// Stdout, and Stderr is empty.
	//
	// io.EOF comes when the container has ended and all is read. That may be at once: of a
	// container that has ended, its output can be read as long as there is its sandbox.
	// An output that is followed does not keep the container or the sandbox from being removed,
	// and then has an end.
	//
	// As many as wish may follow an output, each at its own pace: a reader that is slow keeps
	// nobody waiting. A Read waits for something to read; Close, from whichever
	// goroutine, ends it with os.ErrClosed. ctx is for the attaching alone; the caller owes
	// a Close.
	//
	// ErrNotFound: no such container, or its launch has failed. ErrFailedPrecondition: the
	// output is not a file of the sandbox, as the request gave it somewhere else to go, or
	// the container has put something in its place.
	AttachOutput(ctx context.Context, id container.ID, stream Stream, from Position) (io.ReadCloser, error)

	// AttachInput takes the input of a container launched with Request.Input. It waits for the
	// end of the launch. There is one writer at a time, so that what two of them write cannot be
	// mixed up: the next one may come once it was closed. When this process dies, the
	// input stays open, and may be attached to by the next one.
	//
	// ErrNotFound: no such container, or it has ended. ErrFailedPrecondition: the request
	// had no Input. ErrExists: it is attached to already. ErrClosed: it was ended by CloseWrite,
	// or the command has closed it.
	AttachInput(ctx context.Context, id container.ID) (Input, error)

	// Resize tells the container's processes, by SIGWINCH, that the window of their terminal
	// has another size. It needs no Input.
	//
	// ErrNotFound: no such container, or it has ended. ErrFailedPrecondition: it has no terminal,
	// or one that the request's Terminal was given.
	Resize(ctx context.Context, id container.ID, rows, columns uint16) error
}

// ErrClosed is what a container's input answers that nobody reads any more.
var ErrClosed = errors.New("the container's input is closed")

// Input writes the standard input of a container, or types at its terminal.
type Input interface {
	// Write waits while the command does not read, and the pipe is full. Close, from
	// whichever goroutine, ends it with os.ErrClosed. ErrClosed: the command has closed its
	// input, or has ended.
	Write(p []byte) (int, error)
	// CloseWrite ends the input for good: the command reads the rest, and then the end of the
	// file. The caller still owes a Close. At a terminal it does nothing: there it is a
	// character, 4 (^D) unless the command has chosen another, that says so.
	CloseWrite() error
	// Close leaves the input to the next one who attaches. It may be repeated.
	Close() error
}
