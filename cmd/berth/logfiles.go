//go:build linux

package main

import (
	"context"
	"io"
	"path"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
)

// logBlock is how much of a file one call reads: as much as the agent allows.
const logBlock = 64 << 10

// outputFiles are the files of one output, the oldest first, as one file that can be read
// at any place.
type outputFiles struct {
	ctx   context.Context
	agent *client.Client
	names []string
	sizes []int64
}

// logFiles finds the files of an output in a sandbox: NAME, and those before it, NAME.1 being
// the newest of them.
func logFiles(ctx context.Context, agent *client.Client, sandbox, name string) (*outputFiles, int64, error) {
	response, _, err := agent.Call(ctx, &v1.Call{Type: v1.Call_LIST_FILES.Enum(), ListFiles: &v1.Call_ListFiles{Path: proto.String(sandbox)}})
	if err != nil {
		return nil, 0, err
	}
	sizes := make(map[int]int64)
	last := 0
	for _, info := range response.GetListFiles().GetFileInfos() {
		number, ok := logNumber(path.Base(info.GetPath()), name)
		if ok {
			sizes[number] = int64(info.GetSize())
			last = max(last, number)
		}
	}
	files, total := &outputFiles{ctx: ctx, agent: agent}, int64(0)
	for number := last; number >= 0; number-- {
		size, ok := sizes[number]
		if !ok {
			continue
		}
		file := name
		if number > 0 {
			file += "." + strconv.Itoa(number)
		}
		files.names, files.sizes = append(files.names, path.Join(sandbox, file)), append(files.sizes, size)
		total += size
	}
	return files, total, nil
}

// logNumber is 0 for the file that is written to.
func logNumber(file, name string) (int, bool) {
	rest, ok := strings.CutPrefix(file, name)
	if !ok || rest == "" {
		return 0, ok
	}
	number, err := strconv.Atoi(strings.TrimPrefix(rest, "."))
	return number, err == nil && number > 0 && rest == "."+strconv.Itoa(number)
}

// ReadAt implements io.ReaderAt.
func (f *outputFiles) ReadAt(p []byte, offset int64) (n int, err error) {
	for i, name := range f.names {
		if offset >= f.sizes[i] {
			offset -= f.sizes[i]
			continue
		}
		for offset < f.sizes[i] && n < len(p) {
			data, err := f.read(name, offset, min(int64(len(p)-n), f.sizes[i]-offset))
			if err != nil {
				return n, err
			}
			if len(data) == 0 { // it was cut meanwhile
				return n, io.EOF
			}
			n += copy(p[n:], data)
			offset += int64(len(data))
		}
		offset = 0
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *outputFiles) read(name string, offset, length int64) ([]byte, error) {
	response, _, err := f.agent.Call(f.ctx, &v1.Call{Type: v1.Call_READ_FILE.Enum(),
		ReadFile: &v1.Call_ReadFile{Path: proto.String(name), Offset: proto.Uint64(uint64(offset)), Length: proto.Uint64(uint64(length))}})
	return response.GetReadFile().GetData(), err
}
