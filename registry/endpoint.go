package registry

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"berth/image"
)

// endpoint is a place where a repository can be had: the registry itself, or a mirror.
type endpoint struct {
	// registry is the host, with its port if one was stated, whose credentials are taken.
	registry   string
	repository string
	base       *url.URL    // SCHEME://HOST/v2/REPOSITORY
	header     http.Header // sent along, beside what berth sends
	mirror     bool
	// byTag and byDigest say what may be asked for here.
	byTag, byDigest bool
	// insecure has a certificate that nobody checks.
	insecure bool
	// apart has each request under way on a connection of its own, which HTTP/2 would share.
	apart bool
	// ca and pairs are files with authorities and client certificates for this place
	// alone, beside those of the directories of certificates.
	ca    []string
	pairs []keyPair
}

// sent is what was granted, with the headers of the configuration: they may be passwords, too.
func (e endpoint) sent(granted grant) grant {
	granted.secrets = slices.Clone(granted.secrets)
	for _, values := range e.header {
		for _, value := range values {
			granted.secrets = append(granted.secrets, strings.Fields(value)...)
		}
	}
	return granted
}

// keyPair is a client certificate: the files with the certificate and its key.
type keyPair struct{ cert, key string }

// endpoints returns where n can be had, in the order in which to ask; what the
// configuration says decides (see Options).
func (c *Client) endpoints(n image.Name) ([]endpoint, error) {
	if err := checkName(n); err != nil {
		return nil, err
	}
	all, err := c.configured(n)
	if err != nil {
		return nil, err
	}
	var places []endpoint
	for _, e := range all {
		if e.mirror && (n.Digest != "" && !e.byDigest || n.Digest == "" && !e.byTag) {
			continue
		}
		places = append(places, c.withPlain(e)...)
	}
	for _, e := range places {
		c.transports.learn(e)
	}
	return places, nil
}

// configured asks the sources of configuration, the more specific one first.
func (c *Client) configured(n image.Name) ([]endpoint, error) {
	if c.hostsDir != "" {
		all, err := hostsEndpoints(c.hostsDir, n)
		if err != nil || all != nil {
			return all, err
		}
	}
	if c.registriesConf != "" {
		all, err := c.registries.endpoints(c.registriesConf, n)
		if err != nil || all != nil {
			return all, err
		}
	}
	if n.Registry == image.DefaultRegistry && c.hub != nil && !strings.HasSuffix(c.hub.Hostname(), image.DefaultRegistry) {
		e := endpoint{registry: c.hub.Host, repository: strings.TrimPrefix(n.Repository, "library/"), byTag: true, byDigest: true}
		e.base = (&url.URL{Scheme: c.hub.Scheme, Host: c.hub.Host}).JoinPath("v2", e.repository)
		return []endpoint{e}, nil
	}
	e, err := located(n.Registry+"/"+n.Repository, false)
	return []endpoint{e}, err
}

// hostOf returns where a registry listens.
func hostOf(registry string) string {
	if registry == image.DefaultRegistry {
		return hubHost
	}
	return registry
}

// withPlain decides how a place that was not given a scheme is spoken to. On loopback
// hosts that is plain http, unless the port is 443 or there are certificates for it; a
// registry that was declared insecure is tried with encryption first.
func (c *Client) withPlain(e endpoint) []endpoint {
	if e.base.Scheme != "https" {
		return []endpoint{e}
	}
	e.insecure = e.insecure || c.isInsecure(e.base.Host)
	plain := e
	plain.base = new(url.URL)
	*plain.base = *e.base
	plain.base.Scheme = "http"
	switch {
	case isLoopback(e.base.Hostname()) && e.base.Port() != "443" && !e.insecure && !c.transports.hasCertificates(e):
		return []endpoint{plain}
	case e.insecure && e.base.Port() != "443":
		return []endpoint{e, plain}
	}
	return []endpoint{e}
}

func (c *Client) isInsecure(host string) bool {
	for _, insecure := range c.insecure {
		if strings.EqualFold(insecure, host) {
			return true
		}
	}
	return false
}

// mayBePlain reports whether plain http may be spoken to a host that a place that is
// spoken to by plain http itself leads to.
func (c *Client) mayBePlain(u *url.URL) bool {
	return isLoopback(u.Hostname()) || c.isInsecure(u.Host) || c.transports.isPlain(u.Host)
}
