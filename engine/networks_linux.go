package engine

import (
	"context"
	"path/filepath"

	"berth/container"
	"berth/isolator/network/cni"
)

// networks says what network/cni is made of.
func (p parts) networks() cni.Options {
	layout, c := p.images.Layout, p.config
	return cni.Options{
		ConfigDir: c.NetworkCNIConfigDir, PluginDirs: filepath.SplitList(c.NetworkCNIPluginsDir), Dir: layout.Networks(c.NetworkCNIRootDirPersist),
		Record:   func(id container.ID) string { return layout.Container(id).Dir },
		Netns:    func(id container.ID) string { return layout.Container(id).Netns() },
		Init:     func(id container.ID) (int, error) { return p.launcher.Init(id) },
		Hostname: !c.isolates("namespaces/uts"), Statistics: c.NetworkCNIMetrics, Log: c.log(),
	}
}

// networkAbilities tells of the networks that containers can name.
func (p parts) networkAbilities(ctx context.Context) (abilities []Ability, err error) {
	found, err := p.networks().Networks(ctx)
	for _, n := range found {
		a := Ability{Name: n.Name, Works: n.Err == nil, Default: n.Name == "host"}
		if n.Err != nil {
			a.Reason = n.Err.Error()
		}
		abilities = append(abilities, a)
	}
	return abilities, err
}
