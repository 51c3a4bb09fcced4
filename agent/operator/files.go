package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// maxRead bounds what one call reads of a file.
const maxRead = 64 << 10

// The files that can be read are those in the sandboxes of the containers that the agent
// looks after. Containers write there what they like, while it is read: so a name is
// resolved below the sandbox, links that lead out of it are refused, and only plain files
// are opened, without waiting.

// place is a file of a sandbox.
type place struct {
	of      container.ID
	sandbox string
	name    string // in it
}

// locate finds the sandbox that a path lies in. Whether the file exists is not asked.
func (s *Server) locate(name string) (place, error) {
	clean := path.Clean("/" + strings.TrimPrefix(name, "/"))
	if strings.Contains(name, "\x00") || hasDotDot(name) {
		return place{}, failed(400, "path %q: it has a part .. or a zero byte", name)
	}
	best := place{}
	for _, id := range s.Containers.Containers() {
		sandbox := s.Sandbox(id)
		if rest, ok := below(clean, sandbox); ok && len(sandbox) > len(best.sandbox) {
			best = place{id, sandbox, rest}
		}
	}
	if best.sandbox == "" {
		return best, failed(404, "path %q: it is in no sandbox of a container", name)
	}
	return best, nil
}

func hasDotDot(name string) bool { return slices.Contains(strings.Split(name, "/"), "..") }

// below returns the name of a path in a directory, whole components of which it begins with.
func below(name, dir string) (rest string, ok bool) {
	if name == dir {
		return ".", true
	}
	rest, ok = strings.CutPrefix(name, dir+"/")
	return rest, ok
}

func (s *Server) listFiles(_ context.Context, c *call) (*answered, error) {
	infos, err := s.list(c.GetListFiles().GetPath())
	if err != nil {
		return nil, err
	}
	return &answered{Response: &v1.Response{Type: v1.Response_LIST_FILES.Enum(), ListFiles: &v1.Response_ListFiles{FileInfos: infos}}}, nil
}

// list describes what is in a directory, in the order of the names; of a plain file there
// is nothing.
func (s *Server) list(name string) ([]*v1.FileInfo, error) {
	at, err := s.locate(name)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(at.sandbox)
	if err != nil {
		return nil, fileError(name, err)
	}
	defer root.Close()
	info, err := root.Stat(at.name)
	if err != nil {
		return nil, fileError(name, err)
	}
	if !info.IsDir() {
		return nil, nil
	}
	dir, err := root.Open(at.name)
	if err != nil {
		return nil, fileError(name, err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, fileError(name, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var infos []*v1.FileInfo
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil { // it may have gone meanwhile
			infos = append(infos, fileInfo(filepath.Join(at.sandbox, at.name, entry.Name()), info))
		}
	}
	return infos, nil
}

func fileInfo(path string, info fs.FileInfo) *v1.FileInfo {
	m := &v1.FileInfo{Path: proto.String(path), Size: proto.Uint64(uint64(info.Size())), Mtime: timeInfo(info.ModTime())}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		m.Nlink, m.Mode = proto.Int32(int32(stat.Nlink)), proto.Uint32(uint32(stat.Mode))
		m.Uid, m.Gid = proto.String(userName(stat.Uid)), proto.String(groupName(stat.Gid))
	}
	return m
}

func userName(id uint32) string {
	number := strconv.FormatUint(uint64(id), 10)
	if found, err := user.LookupId(number); err == nil {
		return found.Username
	}
	return number
}

func groupName(id uint32) string {
	number := strconv.FormatUint(uint64(id), 10)
	if found, err := user.LookupGroupId(number); err == nil {
		return found.Name
	}
	return number
}

func (s *Server) readFile(_ context.Context, c *call) (*answered, error) {
	m := c.GetReadFile()
	length := uint64(maxRead)
	if m.Length != nil {
		length = min(length, m.GetLength())
	}
	data, size, err := s.read(m.GetPath(), m.GetOffset(), length)
	if err != nil {
		return nil, err
	}
	return &answered{Response: &v1.Response{Type: v1.Response_READ_FILE.Enum(), ReadFile: &v1.Response_ReadFile{Size: proto.Uint64(size), Data: data}}}, nil
}

// read reads a part of a file, and tells how large that is. Beyond its end there is nothing.
func (s *Server) read(name string, offset, length uint64) (data []byte, size uint64, err error) {
	file, info, err := s.open(name)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	size = uint64(info.Size())
	if offset >= size || length == 0 {
		return []byte{}, size, nil
	}
	data = make([]byte, min(length, size-offset))
	n, err := file.ReadAt(data, int64(offset))
	if err != nil && err != io.EOF { // it may have been cut meanwhile
		return nil, size, fileError(name, err)
	}
	return data[:n], size, nil
}

// open opens a plain file of a sandbox.
func (s *Server) open(name string) (*os.File, fs.FileInfo, error) {
	at, err := s.locate(name)
	if err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(at.sandbox)
	if err != nil {
		return nil, nil, fileError(name, err)
	}
	defer root.Close()
	// A FIFO of the container would else be waited for.
	file, err := root.OpenFile(at.name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fileError(name, err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = failed(400, "path %q: it is no plain file", name)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// fileError classes an error of the file system.
func fileError(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("path %q: %w", name, container.ErrNotFound)
	case strings.Contains(err.Error(), "path escapes from parent"):
		return fmt.Errorf("path %q: %w: it leads out of the sandbox", name, container.ErrInvalid)
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("path %q: %w: %w", name, container.ErrInvalid, err)
	}
	return fmt.Errorf("path %q: %w", name, err)
}
