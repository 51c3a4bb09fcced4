package filelock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestMain lets the test binary be the other process: one that holds a lock until it
// is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("FILELOCK_TEST_HOLD"); path != "" {
		if _, err := Try(path, Exclusive); err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString("held\n")
		select {}
	}
	os.Exit(m.Run())
}

func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if _, err := TryExisting(path, Shared); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	one, err := Try(path, Shared)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Try(path, Shared)
	if err != nil {
		t.Fatalf("a second shared lock: %v", err)
	}
	if _, err := Try(path, Exclusive); !errors.Is(err, ErrHeld) {
		t.Errorf("exclusive beside shared: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Acquire(ctx, path, Exclusive); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting ended with %v", err)
	}
	acquired := make(chan error)
	go func() {
		lock, err := Acquire(t.Context(), path, Exclusive)
		if err == nil {
			err = lock.Unlock()
		}
		acquired <- err
	}()
	if err := errors.Join(one.Unlock(), two.Unlock()); err != nil {
		t.Fatal(err)
	}
	if err := <-acquired; err != nil {
		t.Errorf("after the locks were freed: %v", err)
	}
}

func TestTheKernelFreesTheLockOfAKilledProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FILELOCK_TEST_HOLD="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path, Shared); !errors.Is(err, ErrHeld) {
		t.Errorf("while the other process lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	lock, err := Try(path, Exclusive)
	if err != nil {
		t.Fatalf("after the other process was killed: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestConvert(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	take := func(mode Mode) *Lock {
		t.Helper()
		l, err := Try(path, mode)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one := take(Exclusive)
	if err := one.Convert(Shared); err != nil {
		t.Fatal(err)
	}
	two := take(Shared)
	if err := one.Convert(Exclusive); !errors.Is(err, ErrHeld) {
		t.Errorf("exclusive beside a shared one: %v", err)
	}
	// The first one is lost.
	if err := two.Convert(Exclusive); err != nil {
		t.Error(err)
	}
	if _, err := Try(path, Shared); !errors.Is(err, ErrHeld) {
		t.Errorf("shared beside an exclusive one: %v", err)
	}
	for _, l := range []*Lock{one, two} {
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
	}
}

func TestADirectoryThatItsHolderRemovesIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory")
	if _, err := Directory(t.Context(), path, Shared); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	one, err := Directory(t.Context(), path, Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryDirectory(path, Shared); !errors.Is(err, ErrHeld) {
		t.Errorf("shared beside exclusive: %v", err)
	}
	waited := make(chan error)
	go func() {
		_, err := Directory(t.Context(), path, Shared)
		waited <- err
	}()
	if err := errors.Join(os.Remove(path), one.Unlock()); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its holder has removed it: %v", err)
	}
}
