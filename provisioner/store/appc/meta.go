package appc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"berth/container"
	"berth/image/appc"
)

// discoverMeta is the meta discovery of the specification: a page at the name of the image,
// or at what is above it, has templates of the places.
func (kd *kind) discoverMeta(ctx context.Context, r appc.Request, system appc.System) (places []location, err error) {
	templates, err := kd.templates(ctx, r.Name)
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", r.Name, err)
	}
	for _, t := range templates {
		at, err := locate(t, r, system)
		if err != nil {
			return nil, fmt.Errorf("discover %s: %w", r.Name, err)
		}
		places = append(places, at)
	}
	return places, nil
}

// templates asks for the pages of a name, until one has templates.
func (kd *kind) templates(ctx context.Context, name string) ([]appc.Template, error) {
	var errs []error
	for at := name; ; {
		page, err := kd.page(ctx, "https://"+at+"?ac-discovery=1")
		switch found := appc.Templates(page, name); {
		case err == nil && len(found) > 0:
			return found, nil
		case err == nil:
			err = fmt.Errorf("https://%s: no ac-discovery tag for it", at)
		case !errors.Is(err, container.ErrNotFound) && !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrDenied):
			return nil, err // the page may be there another time
		}
		errs = append(errs, err)
		slash := strings.LastIndexByte(at, '/')
		if slash < 0 {
			return nil, fmt.Errorf("%w: no page says where it is: %v", container.ErrNotFound, errors.Join(errs...))
		}
		at = at[:slash]
	}
}

func (kd *kind) page(ctx context.Context, url string) (_ []byte, err error) {
	content, _, err := kd.web.Download(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	return io.ReadAll(io.LimitReader(content, appc.MaxPageSize))
}
