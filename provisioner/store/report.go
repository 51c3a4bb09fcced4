package store

import (
	"time"

	"berth/image"
	"berth/internal/stages"
)

// PullReport tells where the time of a pull went.
type PullReport struct {
	Image string `json:"image"`
	// Total is the time from the start of the pull, once nobody else in this process
	// pulled the image, until it was recorded. Its stages add up to it.
	Total  time.Duration  `json:"total_ns"`
	Stages []stages.Spent `json:"stages"`
	Layers []LayerReport  `json:"layers"` // base first
	// Warning is what a person should know of, if not "".
	Warning string `json:"warning,omitempty"`
}

// LayerReport tells how one layer of a pull came into the store.
type LayerReport struct {
	Layer image.Digest `json:"layer"` // the diffID
	Blob  image.Digest `json:"blob"`
	Size  int64        `json:"size"` // bytes of the blob
	// Fetched is false for a layer that was there already; it has no stages.
	Fetched bool `json:"fetched"`
	// Unpacked is how many bytes the uncompressed layer has.
	Unpacked int64 `json:"unpacked,omitempty"`
	// Stages add up to the stage "fetch" of the pull.
	Stages []stages.Spent `json:"stages,omitempty"`
}

// Slowest is the stage in which the layer was for the longest time.
func (l LayerReport) Slowest() stages.Spent { return stages.Slowest(l.Stages) }

// Rate is how many bytes of the blob came and were unpacked in a second, while it was the
// layer's turn.
func (l LayerReport) Rate() int64 {
	var turn time.Duration
	for _, s := range l.Stages {
		switch s.Stage {
		case stages.Queue, stages.Wait, stages.Sync:
		default:
			turn += s.Time
		}
	}
	return perSecond(l.Size, turn)
}

// Slowest is the stage in which the pull was for the longest time.
func (p *PullReport) Slowest() stages.Spent { return stages.Slowest(p.Stages) }

// Fetched is how many layers were fetched, and how many bytes their blobs have.
func (p *PullReport) Fetched() (layers int, bytes int64) {
	for _, l := range p.Layers {
		if l.Fetched {
			layers++
			bytes += l.Size
		}
	}
	return layers, bytes
}

// Rate is how many bytes of blobs came in a second of the whole pull.
func (p *PullReport) Rate() int64 {
	_, bytes := p.Fetched()
	return perSecond(bytes, p.Total)
}

func perSecond(bytes int64, took time.Duration) int64 {
	if took <= 0 {
		return 0
	}
	return int64(float64(bytes) / took.Seconds())
}
