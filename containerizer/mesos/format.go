//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"berth/containerizer"
	"berth/internal/atomicfile"
	"berth/internal/filelock"
)

// recordFormat is the version of the records of containers that this berth reads and
// writes. A version that is higher has something that this one would miss.
const recordFormat = 1

// runtimeLock is what holds whoever judges or admits containers.
type runtimeLock struct {
	file   *filelock.Lock
	turn   <-chan struct{}
	format int // of the records; 0: nobody has said it yet
}

// Unlock has the next one go on.
func (l *runtimeLock) Unlock() error {
	defer func() { <-l.turn }()
	return l.file.Unlock()
}

// lockRuntime has all others wait who judge or admit containers. containerizer.ErrNewer: the
// records are those of one.
//
// Those of this process wait for each other in memory: a hundred launches that all try for the
// file would keep the kernel busy with that.
func (c *Containerizer) lockRuntime(ctx context.Context) (_ *runtimeLock, err error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for lock %s: %w", c.Layout.RuntimeLock(), context.Cause(ctx))
	}
	defer func() {
		if err != nil {
			<-c.turn
		}
	}()
	file, err := filelock.Acquire(ctx, c.Layout.RuntimeLock(), filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	format, err := c.checkFormat()
	if err != nil {
		return nil, errors.Join(err, file.Unlock())
	}
	return &runtimeLock{file, c.turn, format}, nil
}

// checkFormat returns the format of the records, and refuses those of a newer berth. What is no
// number was torn before anything was recorded.
func (c *Containerizer) checkFormat() (format int, err error) {
	data, err := os.ReadFile(c.Layout.Format())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if format, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return 0, nil
	}
	if format > recordFormat {
		return 0, fmt.Errorf("%w: those in %s have format %d, this berth knows %d: use the newer berth that wrote them",
			containerizer.ErrNewer, c.Layout.Runtime, format, recordFormat)
	}
	return format, nil
}

// writeFormat says which format the records have, before the first one is made.
func (c *Containerizer) writeFormat() error {
	return atomicfile.Write(c.Layout.Format(), []byte(strconv.Itoa(recordFormat)+"\n"), 0o600, false)
}
