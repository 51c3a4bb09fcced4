package fetcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"syscall"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/disk"
	"berth/internal/metrics"
)

// Options say how a Fetcher works.
type Options struct {
	// CacheDir holds what is cached; it is made when missing, and whoever uses the same one
	// shares it. CacheSize bounds it, in bytes; 0: nothing is cached.
	CacheDir  string
	CacheSize int64
	// StallTimeout ends a download that brings next to nothing for so long; 0 is a minute.
	StallTimeout time.Duration
	// FrameworksHome is where relative paths are; empty: there are none.
	FrameworksHome string
	// Metrics has the counts of fetches, and the size of the cache; nil: nobody wants them.
	Metrics *metrics.Set
}

// Fetcher fetches. Its methods may be called concurrently.
type Fetcher struct {
	home              string
	web               *web
	cache             *cache
	limits            limits
	succeeded, failed *metrics.Counter
}

// New returns a Fetcher. It touches nothing.
func New(o Options) *Fetcher {
	w := newWeb(cmp.Or(o.StallTimeout, time.Minute), defaultLimits.download)
	f := &Fetcher{
		home: o.FrameworksHome, web: w, limits: defaultLimits, cache: &cache{dir: o.CacheDir, size: o.CacheSize, web: w},
		succeeded: o.Metrics.Counter("containerizer/fetcher/task_fetches_succeeded"),
		failed:    o.Metrics.Counter("containerizer/fetcher/task_fetches_failed"),
	}
	o.Metrics.Gauge("containerizer/fetcher/cache_size_total_bytes", func() float64 { return float64(o.CacheSize) })
	o.Metrics.Gauge("containerizer/fetcher/cache_size_used_bytes", func() float64 { return float64(f.cache.used()) })
	return f
}

// Fetch brings all files that the command of config names into the sandbox, one after the
// other, where they belong to a user. ids are those of the container's user namespace, in
// which the user is another one for files of the host. No symbolic link may lead to the sandbox. An error proves nothing of what is in the sandbox; whoever
// made that removes it.
//
// ErrInvalid: the request, or what came, which is damaged, hostile or not what its digest
// says. ErrNotFound, ErrDenied: of a file; the user has to have the right to read one
// of the host, supplementary groups aside. ErrUnavailable: a server, after some tries. ErrNotSupported: a scheme.
func (f *Fetcher) Fetch(ctx context.Context, config *v1.ContainerConfig, sandbox string, uid, gid uint32, ids container.IDRange) (err error) {
	uris := config.GetCommandInfo().GetUris()
	if len(uris) == 0 {
		return nil
	}
	defer func() {
		if err != nil {
			f.failed.Add(1)
		} else {
			f.succeeded.Add(1)
		}
	}()
	var items []item
	for _, uri := range uris {
		i, err := f.item(uri)
		if err != nil {
			return err
		}
		items = append(items, i)
	}
	t, err := openTree(sandbox, user{uid, gid, ids})
	if err != nil {
		return fmt.Errorf("fetch into the sandbox: %w", err)
	}
	defer func() { err = errors.Join(err, t.close()) }()
	for _, i := range items {
		if err := f.fetch(ctx, t, i); err != nil {
			return fmt.Errorf("fetch %s: %w", i.shown, full(err))
		}
	}
	return nil
}

// full names the remedy where no space is left.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w; free some space in --work_dir, or in --fetcher_cache_dir", err)
	}
	return err
}

// item is one file that is wanted.
type item struct {
	source
	output          string // clean name in the sandbox
	mode            uint32
	extract, cached bool
}

// item checks a URI of a request.
func (f *Fetcher) item(uri *v1.CommandInfo_URI) (item, error) {
	s, err := parse(uri.GetValue(), f.home)
	if err != nil {
		return item{}, err
	}
	output, err := cleanName(cmp.Or(uri.GetOutputFile(), s.name))
	if err == nil && output == "." {
		err = fmt.Errorf("%w: %q is no name of a file", container.ErrInvalid, uri.GetOutputFile())
	}
	if err != nil {
		return item{}, fmt.Errorf("fetch %s: output_file: %w", s.shown, err)
	}
	i := item{source: s, output: output, mode: 0o644}
	if uri.GetExecutable() {
		i.mode = 0o755
	} else {
		i.extract = uri.GetExtract() && formatOf(output).kind != plain
	}
	i.cached = uri.GetCache() && i.url != nil && f.cache.size > 0
	return i, nil
}

// fetch brings one file.
func (f *Fetcher) fetch(ctx context.Context, t *tree, i item) error {
	if i.cached {
		content, err := f.cache.open(ctx, i.source)
		if err == nil {
			return errors.Join(f.fromCache(ctx, t, i, content), content.Close())
		}
		if err = errors.Join(err, closeIf(content)); !errors.Is(err, errUncached) {
			return err
		}
	}
	return f.direct(ctx, t, i)
}

// fromCache gives the container a copy, or what is in the archive.
func (f *Fetcher) fromCache(ctx context.Context, t *tree, i item, content *disk.File) error {
	if i.extract {
		return f.unpack(ctx, t, i, content)
	}
	return f.place(t, i, func(to *disk.File) error { return copyAll(ctx, to, content, f.limits.download) })
}

func (f *Fetcher) unpack(ctx context.Context, t *tree, i item, archive *disk.File) error {
	if err := t.unpack(ctx, i.output, archive, f.limits); err != nil {
		return fmt.Errorf("unpack %s: %w", path.Base(i.output), err)
	}
	return nil
}

// direct brings a file without the cache. An archive stays beside what it contains.
func (f *Fetcher) direct(ctx context.Context, t *tree, i item) error {
	return f.place(t, i, func(to *disk.File) error {
		digest, err := f.content(ctx, i, t.owner, to)
		if err == nil {
			err = checkDigest(digest, i.digest)
		}
		if err == nil && i.extract {
			err = f.unpack(ctx, t, i, to)
		}
		return err
	})
}

// content fills a file, and returns its digest if one is wanted.
func (f *Fetcher) content(ctx context.Context, i item, owner user, to *disk.File) (digest string, err error) {
	if i.url != nil {
		_, digest, err = f.web.download(ctx, i.url, nil, to)
		return digest, err
	}
	from, err := openHost(i.path, owner.onHost())
	if err != nil {
		return "", err
	}
	if err := errors.Join(copyAll(ctx, to, from, f.limits.download), from.Close()); err != nil || i.digest == "" {
		return "", err
	}
	return digestOf(ctx, to)
}

// place makes a file with what fill writes, and names it when it is whole.
func (f *Fetcher) place(t *tree, i item, fill func(*disk.File) error) error {
	name, to, err := t.temporary()
	if err != nil {
		return err
	}
	err = errors.Join(fill(to), t.own(int(to.Fd()), i.mode))
	if err = errors.Join(err, to.Close()); err == nil {
		err = t.place(name, i.output)
	}
	if err != nil {
		return errors.Join(err, t.discard(name))
	}
	return nil
}
