package layer

import (
	"context"
	"errors"
	"fmt"

	"berth/image"
	"berth/internal/filelock"
)

// Use is for who records himself that he uses layers, in what the decision of every Sweep
// counts: record does that. If all layers are there in the form, and none is in doubt, it is
// called, and what is known of them is returned in their order. Otherwise Use returns nil and
// calls nobody; Lease.Hold is to be asked.
//
// No Sweep decides meanwhile. One that has decided before has made absent what it takes, and
// one that decides from then on finds the record. So no lease has to hold the layers.
func (s *Store) Use(ctx context.Context, form Form, ids []image.Digest, record func() error) (infos []Info, err error) {
	epoch, err := s.epoch(ctx)
	if err != nil {
		return nil, err
	}
	err = s.share(ctx, func() (err error) {
		if infos, err = s.knownOf(form, ids, epoch); infos == nil || err != nil {
			return err
		}
		return record()
	})
	if err != nil {
		return nil, fmt.Errorf("use layers: %w", err)
	}
	return infos, nil
}

// knownOf returns what is known of layers that are all present, else nil.
func (s *Store) knownOf(form Form, ids []image.Digest, epoch string) ([]Info, error) {
	infos := make([]Info, len(ids))
	for i, id := range ids {
		known, there := s.lookAt(id, form, epoch)
		if there != present {
			return nil, nil
		}
		if known.info != nil {
			infos[i] = *known.info
			continue
		}
		var err error
		if infos[i], err = s.Info(id, form); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// share calls do while no Sweep decides and no Recover judges: they have the lock alone.
func (s *Store) share(ctx context.Context, do func() error) (err error) {
	shared, err := s.lock(ctx, filelock.Shared)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shared.Unlock()) }()
	return do()
}
