package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/atomicfile"
	"berth/internal/filelock"
)

// record is what a container has to do with networks.
type record struct {
	// Plugins are the directories of the plugins.
	Plugins     []string     `json:"plugins"`
	Attachments []attachment `json:"attachments"`
}

// attachment is one network of a container.
type attachment struct {
	Network   string `json:"network"` // by the name that the request has
	Interface string `json:"interface"`
	// Config is the list of plugins, with the container's arguments.
	Config json.RawMessage `json:"config"`
	// Args are those that are passed as capabilities.
	Args map[string]any `json:"args,omitempty"`
	// Info is the NetworkInfo of the request.
	Info json.RawMessage `json:"info"`
	// Added: its plugins were asked to add the container, or are about to be.
	Added bool `json:"added,omitempty"`
}

// info decodes Info.
func (a attachment) info() *v1.NetworkInfo {
	info := &v1.NetworkInfo{}
	if v1.Unmarshal(a.Info, info) != nil {
		return &v1.NetworkInfo{Name: proto.String(a.Network)}
	}
	return info
}

// The directory of attachments:
//
//	lock                       serialises who claims ports and chooses the bridge's subnet
//	bridge.json                the subnet of the built-in bridge
//	leases/                    its addresses, by host-local
//	containers/<id>/
//	    attachments            the record
//	    results/               what plugins answered, by libcni
//	    hosts, hostname, resolv.conf
func (o Options) containers() string { return filepath.Join(o.Dir, "containers") }

func (o Options) dir(id container.ID) string { return filepath.Join(o.containers(), id.String()) }

// Files returns the directory with the files of a container, some of which it can write to.
func (o Options) Files(id container.ID) string { return o.dir(id) }

func (o Options) file(id container.ID) string { return filepath.Join(o.dir(id), "attachments") }

// makeDir makes the directory of a container.
func (o Options) makeDir(id container.ID) error {
	if len(id.String()) > maxID {
		return fmt.Errorf("container id of %d bytes, with its parents: %w: at most %d are allowed", len(id.String()), container.ErrInvalid, maxID)
	}
	return os.MkdirAll(o.dir(id), 0o700)
}

// maxID leaves room for what libcni adds to a name.
const maxID = 200

// read returns the record of a container; nil: there is none. A torn one is of a machine
// that has gone down: there is nothing that could still be told to plugins.
func (o Options) read(id container.ID) (*record, error) {
	data, err := os.ReadFile(o.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("%s: %w", o.file(id), errors.Join(errTorn, err))
	}
	return &rec, nil
}

var errTorn = errors.New("the record is torn")

func (o Options) write(id container.ID, rec *record) error {
	return atomicfile.Write(o.file(id), append(mustMarshal(rec), '\n'), 0o600, false)
}

// recorded lists the containers that have a directory.
func (o Options) recorded() (ids []container.ID, err error) {
	entries, err := os.ReadDir(o.containers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if id, err := container.ParseID(e.Name()); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// lock keeps others from choosing at the same time.
func (o Options) lock(ctx context.Context) (*filelock.Lock, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	return filelock.Acquire(ctx, filepath.Join(o.Dir, "lock"), filelock.Exclusive)
}
