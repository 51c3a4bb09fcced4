package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"berth/container"
)

// maxSocketPath is the longest path that a unix socket can have.
const maxSocketPath = 107

// listen makes the agent's socket, for root only. The caller has the agent's lock, so
// what is there is that of a dead agent.
func listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: %w: the path of a socket has %d bytes at most: choose a shorter --runtime_dir",
			path, container.ErrInvalid, maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// newServer answers GET /metrics/snapshot with all metrics in one JSON object, as Mesos
// does.
func newServer(metrics func() map[string]float64) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics/snapshot", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(metrics()) // a client that has gone needs no answer
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
}
