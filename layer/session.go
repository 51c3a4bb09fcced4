package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"berth/internal/disk"
	"berth/internal/filelock"
)

// The file "session" tells whether the machine went down while the store was open. Then
// a disk that did not keep its word may have lost what it said was stable, so each layer
// is verified before its next use.
//
// A session is the time between the mount of the store's file system and its unmount, or
// the end of the machine. A process that is killed within one leaves no doubt: what it
// wrote is in the page cache. The file has one line,
//
//	open|closed <epoch> <session>
//
// An epoch is the name of a time without doubt. Each layer has a file with the epoch in
// which it was committed or last verified; if that is not the store's it is in doubt. As
// epochs are random, one that is lost is merely one that no layer has.
//
// Every Store that is in use holds a shared lock on the file "open". One that finds no
// other on its way in judges the session file; on its way out, it marks it closed. Both
// ways they go one by one, under the lock of the session file.
//
// Nothing here is synced. That the store is open is durable before a layer is visible, by
// the syncfs of Commit, and as long as none is, there is nothing to lose. That it is
// closed, or that a layer has been verified, may get lost: it is verified once more.

// maxSession bounds what is read of the file.
const maxSession = 4096

// sessionState is the content of the file. It has no epoch when it cannot be read.
type sessionState struct {
	open           bool
	epoch, session string
}

func (st sessionState) String() string {
	word := "closed"
	if st.open {
		// As long as the other one, so that a write that is cut short leaves one or
		// the other.
		word = "open  "
	}
	return fmt.Sprintf("%s %s %s\n", word, st.epoch, st.session)
}

// readSession reads the first line. What follows are the remains of a longer one.
func readSession(f *disk.File) sessionState {
	data := make([]byte, maxSession)
	n, err := f.ReadAt(data, 0)
	if err != nil && err != io.EOF {
		return sessionState{}
	}
	line, _, whole := strings.Cut(string(data[:n]), "\n")
	words := strings.Fields(line)
	if !whole || len(words) != 3 || words[0] != "open" && words[0] != "closed" {
		return sessionState{}
	}
	return sessionState{open: words[0] == "open", epoch: words[1], session: words[2]}
}

func writeSession(f *disk.File, st sessionState) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := f.Write([]byte(st.String()))
	return err
}

// session is what a Store in use has.
type session struct {
	open  *filelock.Lock // shared
	epoch string
}

// epoch begins a session of this Store, unless it has one, and returns the store's epoch.
func (s *Store) epoch(ctx context.Context) (_ string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		if s.session, err = s.begin(ctx); err != nil {
			return "", fmt.Errorf("open layer store: %w", s.withRemedy(err))
		}
	}
	return s.session.epoch, nil
}

func (s *Store) begin(ctx context.Context) (_ *session, err error) {
	now, err := currentSession(s.dir)
	if err != nil {
		return nil, err
	}
	file, err := filelock.Acquire(ctx, s.sessionFile(), filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Unlock()) }()
	open, err := filelock.Try(s.openFile(), filelock.Exclusive)
	alone := err == nil
	if errors.Is(err, filelock.ErrHeld) {
		open, err = filelock.Try(s.openFile(), filelock.Shared)
	}
	if err != nil {
		return nil, err
	}
	st, err := judge(file.File(), now, alone)
	if err == nil && alone {
		err = open.Convert(filelock.Shared)
	}
	if err != nil {
		return nil, errors.Join(err, open.Unlock())
	}
	return &session{open: open, epoch: st.epoch}, nil
}

// judge reads the session file and makes it say that the store is open now. Who is not
// alone finds what those before have made of it.
func judge(f *disk.File, now string, alone bool) (sessionState, error) {
	st := readSession(f)
	next := sessionState{open: true, epoch: st.epoch, session: now}
	switch {
	case st.epoch == "", alone && st.open && st.session != now:
		next.epoch = rand.Text()
	case st.open: // with others, perhaps in another mount namespace, or after one that was killed
		return st, nil
	}
	return next, writeSession(f, next)
}

// Close ends the use of the store. Without it the store counts as not closed in order:
// should the machine go down, every layer is verified before its next use. The store is
// closed when the last one that uses it closes it; another use opens it again.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil
	}
	open := s.session.open
	s.session = nil
	s.known.forgetAll()
	if err := s.end(open); err != nil {
		return fmt.Errorf("close layer store: %w", err)
	}
	return nil
}

func (s *Store) end(open *filelock.Lock) (err error) {
	// Others have it for moments.
	file, err := filelock.Acquire(context.Background(), s.sessionFile(), filelock.Exclusive)
	if err != nil {
		return errors.Join(err, open.Unlock())
	}
	// In this order: who has the session file counts those that have the store open.
	defer func() { err = errors.Join(err, open.Unlock(), file.Unlock()) }()
	switch err := open.Convert(filelock.Exclusive); {
	case errors.Is(err, filelock.ErrHeld):
		return nil // the last one does it
	case err != nil:
		return err
	}
	st := readSession(file.File())
	if st.epoch == "" {
		return nil // damaged meanwhile: that is not for us to judge
	}
	st.open = false
	return writeSession(file.File(), st)
}
