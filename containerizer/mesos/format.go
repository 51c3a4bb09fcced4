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

// lockRuntime has all others wait who judge or admit containers. containerizer.ErrNewer: the
// records are those of one.
func (c *Containerizer) lockRuntime(ctx context.Context) (*filelock.Lock, error) {
	lock, err := filelock.Acquire(ctx, c.Layout.RuntimeLock(), filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	if err := c.checkFormat(); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return lock, nil
}

// checkFormat refuses records of a newer berth. What is no number was torn before anything
// was recorded.
func (c *Containerizer) checkFormat() error {
	data, err := os.ReadFile(c.Layout.Format())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if found, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && found > recordFormat {
		return fmt.Errorf("%w: those in %s have format %d, this berth knows %d: use the newer berth that wrote them",
			containerizer.ErrNewer, c.Layout.Runtime, found, recordFormat)
	}
	return nil
}

// writeFormat says which format the records have, before the first one is made.
func (c *Containerizer) writeFormat() error {
	text := strconv.Itoa(recordFormat) + "\n"
	if data, err := os.ReadFile(c.Layout.Format()); err == nil && string(data) == text {
		return nil
	}
	return atomicfile.Write(c.Layout.Format(), []byte(text), 0o600, false)
}
