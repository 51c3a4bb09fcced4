package appc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"syscall"

	"berth/container"
	"berth/image/appc"
)

const filePrefix = "file://"

// checkPrefix refuses a prefix of simple discovery from which no image could be fetched.
func checkPrefix(prefix string) error {
	if u, err := url.Parse(prefix); err == nil && u.User != nil {
		return fmt.Errorf("--appc_simple_discovery_uri_prefix: %w: it has a user or a password, and images are fetched without", container.ErrInvalid)
	}
	for _, begin := range []string{"http://", "https://", filePrefix + "/", "/"} {
		if strings.HasPrefix(prefix, begin) {
			return nil
		}
	}
	if prefix == "" {
		return nil
	}
	return fmt.Errorf("--appc_simple_discovery_uri_prefix %.200q: %w: it has to begin with http://, https://, file:/// or / (or be empty, for meta discovery)",
		prefix, container.ErrInvalid)
}

// location is where the file of an image is, and that with its signature: URLs of http or
// https, or paths.
type location struct {
	Image     string `json:"image"`
	Signature string `json:"signature"`
}

// discover returns where an image may be, in the order in which to try.
func (kd *kind) discover(ctx context.Context, r appc.Request, system appc.System) ([]location, error) {
	if kd.prefix == "" {
		return kd.discoverMeta(ctx, r, system)
	}
	found, err := locate(appc.Simple, r, system)
	if err != nil {
		return nil, err
	}
	found.Image, found.Signature = kd.prefix+found.Image, kd.prefix+found.Signature
	return []location{found}, nil
}

// locate fills in a template.
func locate(t appc.Template, r appc.Request, system appc.System) (at location, err error) {
	if at.Image, err = t.Place(r, system, appc.ImageExt); err != nil {
		return location{}, err
	}
	at.Signature, err = t.Place(r, system, appc.SignatureExt)
	return at, err
}

// open opens a place. size is -1 when it is not known.
func (kd *kind) open(ctx context.Context, place string) (content io.ReadCloser, size int64, err error) {
	if strings.HasPrefix(place, filePrefix) {
		u, err := url.Parse(place)
		if err != nil || u.Host != "" || u.Path == "" {
			return nil, 0, fmt.Errorf("%.200q: %w: it is not a file:// URL of this machine", place, container.ErrInvalid)
		}
		return openFile(u.Path)
	}
	if strings.HasPrefix(place, "/") {
		return openFile(place)
	}
	return kd.web.Download(ctx, place)
}

// openFile opens a regular file: others may block, or never end.
func openFile(path string) (io.ReadCloser, int64, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, 0, fmt.Errorf("%w: %w", container.ErrNotFound, err)
	case err != nil:
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: it is not a regular file", path, container.ErrInvalid)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}
