// Notes is an isolator that keeps a file for each container, in the directory "state" beside
// itself, into which it writes the pid.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

func main() {
	if err := answer(os.Stdin, os.Stdout, filepath.Join(filepath.Dir(os.Args[0]), "state")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(in io.Reader, out io.Writer, dir string) error {
	var asked struct {
		Version     int
		Phase       string
		ContainerID string `json:"container_id"`
		Pid         int
		Containers  []struct {
			ContainerID string `json:"container_id"`
		}
		Config struct {
			User string
		}
	}
	if err := json.NewDecoder(in).Decode(&asked); err != nil {
		return err
	}
	note := filepath.Join(dir, asked.ContainerID)
	answer := map[string]any{}
	var err error
	switch {
	case asked.Phase == "describe":
		answer = map[string]any{"version": asked.Version, "phases": []string{"prepare", "isolate", "update", "usage", "recover", "cleanup"}}
	case asked.Config.User == "refused":
		answer["error"] = map[string]string{"class": "invalid", "message": "nobody is called refused"}
	case asked.Phase == "prepare":
		err = os.WriteFile(note, nil, 0o600)
		answer["environment"] = []any{map[string]string{"name": "NOTED", "value": asked.ContainerID}}
		answer["masked_paths"] = []string{"/proc/version"}
		answer["namespaces"] = []string{"net"}
	case asked.Phase == "isolate":
		err = os.WriteFile(note, []byte(strconv.Itoa(asked.Pid)), 0o600)
	case asked.Phase == "usage":
		var info os.FileInfo
		if info, err = os.Stat(note); err == nil {
			answer["statistics"] = map[string]any{"disk_used_bytes": info.Size(), "disk_limit_bytes": 1 << 20}
		}
	case asked.Phase == "recover":
		for _, c := range asked.Containers {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, c.ContainerID), []byte("recovered"), 0o600))
		}
	case asked.Phase == "cleanup":
		if err = os.Remove(note); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		answer["error"] = map[string]string{"message": err.Error()}
	}
	return json.NewEncoder(out).Encode(answer)
}
