package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store/storetest"
)

// made is a Kind that has one image, and its source. The first who asks for it is let
// go by the test.
type made struct {
	layers        [][]byte
	err           error // of the first answer
	asked, answer chan struct{}
	resolved      atomic.Int32
}

func newMade(layers ...[]byte) *made {
	return &made{layers: layers, asked: make(chan struct{}), answer: make(chan struct{})}
}

func configOf(layers [][]byte) []byte {
	return fmt.Appendf(nil, `{"rootfs":{"diff_ids":%s}}`, toJSON(digestsOf(layers...)))
}

func (*made) Name() string { return "made" }

func (*made) Parse(img *v1.Image) (image.Reference, *v1.Secret, error) {
	reference, err := image.ParseReference(img.GetDocker().GetName())
	return reference, img.GetDocker().GetConfig(), err
}

func (m *made) Source(Request) (Source, error) { return m, nil }

func (m *made) Resolve(ctx context.Context) (*Resolved, error) {
	if m.resolved.Add(1) == 1 {
		close(m.asked)
		select {
		case <-m.answer:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if m.err != nil {
			return nil, m.err
		}
	}
	found := &Resolved{Config: configOf(m.layers)}
	var err error
	if found.Parsed, err = image.ParseConfig(found.Config); err != nil {
		return nil, err
	}
	for i, id := range digestsOf(m.layers...) {
		found.Layers = append(found.Layers, Layer{id, image.Descriptor{Digest: id, Size: int64(len(m.layers[i]))}})
	}
	return found, nil
}

func (m *made) Recall(context.Context, Recorded) error { return nil }

func (m *made) Open(_ context.Context, l Layer) (io.ReadCloser, error) {
	for _, content := range m.layers {
		if image.DigestOf(content) == l.Digest {
			return io.NopCloser(bytes.NewReader(content)), nil
		}
	}
	return nil, container.ErrNotFound
}

func (m *made) Close() error { return nil }

// openMade opens a store of the kind on a directory of its own.
func openMade(t testing.TB, m *made) *Store {
	t.Helper()
	testrig.RequireRoot(t)
	dir := testrig.TempDir(t)
	layers, err := layer.Open(filepath.Join(dir, "layers"), layer.DefaultLimits)
	must(err)
	s, err := New(m, Options{Dir: filepath.Join(dir, "made"), Layers: layers})
	must(err)
	return s
}

func request(name string, cached bool) *v1.Image {
	return &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: &name}, Cached: &cached}
}

// get is Get in the background.
func (s *Store) get(ctx context.Context, img *v1.Image) <-chan error {
	result := make(chan error, 1)
	go func() {
		found, err := s.Get(ctx, img, layer.Tree)
		if err == nil {
			err = found.Release()
		}
		result <- err
	}()
	return result
}

// callers waits until so many wait for one pull.
func (s *Store) callers(want int) {
	for got := -1; got != want; time.Sleep(time.Millisecond) {
		s.pulls.mu.Lock()
		for _, f := range s.pulls.underWay {
			got = f.callers
		}
		s.pulls.mu.Unlock()
	}
}

// Whoever wants what another one pulls shares the pull, its failure too.
func TestOnePullForAllWhoWantIt(t *testing.T) {
	m := newMade(layerA)
	m.err = fmt.Errorf("%w: 503", container.ErrUnavailable)
	s := openMade(t, m)
	first := s.get(t.Context(), request("slow", true))
	<-m.asked
	second := s.get(t.Context(), request("slow", true))
	s.callers(2)
	errGivenUp := errors.New("given up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGivenUp)
	_, err := s.Get(ctx, request("slow", true), layer.Tree)
	storetest.WantError(t, err, errGivenUp, "slow")
	s.callers(2)
	close(m.answer)
	storetest.WantError(t, <-first, container.ErrUnavailable, "503")
	storetest.WantError(t, <-second, container.ErrUnavailable, "503")
	if n := m.resolved.Load(); n != 1 {
		t.Errorf("the source was asked %d times", n)
	}
}

// Those who do not want what is recorded share a pull, too, and each gets the image.
func TestOnePullForAllWhoWantItAnew(t *testing.T) {
	m := newMade(layerA)
	s := openMade(t, m)
	var all []<-chan error
	for i := range 4 {
		all = append(all, s.get(t.Context(), request("slow", false)))
		s.callers(i + 1)
	}
	close(m.answer)
	for _, one := range all {
		if err := <-one; err != nil {
			t.Error(err)
		}
	}
	if n := m.resolved.Load(); n != 1 {
		t.Errorf("the source was asked %d times", n)
	}
}

// One who gives up does not end the pull of the others, whoever began it.
func TestAPullEndsWithTheLastWhoWantsIt(t *testing.T) {
	for _, all := range []bool{false, true} {
		m := newMade(layerA)
		s := openMade(t, m)
		firstCtx, endFirst := context.WithCancel(t.Context())
		secondCtx, endSecond := context.WithCancel(t.Context())
		defer endSecond()
		first := s.get(firstCtx, request("slow", true))
		<-m.asked
		second := s.get(secondCtx, request("slow", true))
		s.callers(2)
		endFirst()
		storetest.WantError(t, <-first, context.Canceled, "slow")
		if all {
			endSecond()
			storetest.WantError(t, <-second, context.Canceled, "slow")
			if len(s.pulls.underWay) > 0 {
				t.Error("it goes on")
			}
			continue
		}
		close(m.answer)
		if err := <-second; err != nil {
			t.Error(err)
		}
		if n := m.resolved.Load(); n != 1 {
			t.Errorf("the source was asked %d times", n)
		}
	}
}

// What is loaded under a name waits for a pull of it, and a pull for what is loaded.
func TestAnImportAndAPullTakeTurns(t *testing.T) {
	pulled, loaded := newMade(layerA), newMade(layerB)
	close(loaded.answer)
	s := openMade(t, pulled)
	first := s.get(t.Context(), request("same", true))
	<-pulled.asked
	done := make(chan error, 1)
	go func() {
		rec, err := s.Import(t.Context(), Key{Reference: parsed(t, "same")}, layer.Tree, loaded)
		if err == nil && rec.ID != image.DigestOf(configOf(loaded.layers)) {
			err = fmt.Errorf("%s was loaded", rec.ID)
		}
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	if n := loaded.resolved.Load(); n > 0 {
		t.Error("it was loaded amid a pull")
	}
	close(pulled.answer)
	for _, err := range []error{<-first, <-done} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := <-s.get(t.Context(), request("same", true)); err != nil {
		t.Error(err)
	}
}
