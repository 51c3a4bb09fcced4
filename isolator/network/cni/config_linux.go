package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"berth/container"
	"berth/internal/alone"
)

// portMapper is Mesos's own plugin, which reads port mappings from the arguments of
// the network, not as a capability.
const portMapper = "mesos-cni-port-mapper"

// known is what the directory of configurations has: a network for each name, of the
// file that sorts first, and why other files are none.
type known struct {
	networks map[string]*libcni.NetworkConfigList
	names    []string
	bad      []string
}

// readConfigs reads the directory anew, so that networks can come and go while berth
// runs. One that is missing has none.
func readConfigs(dir string) (known, error) {
	k := known{networks: map[string]*libcni.NetworkConfigList{}}
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return k, fmt.Errorf("--network_cni_config_dir: %w", err)
	}
	slices.Sort(files)
	for _, file := range files {
		list, err := readConfig(file)
		switch {
		case err != nil:
			k.bad = append(k.bad, fmt.Sprintf("%s: %v", filepath.Base(file), err))
		case k.networks[list.Name] != nil:
			k.bad = append(k.bad, fmt.Sprintf("%s: an earlier file has the network %q", filepath.Base(file), list.Name))
		default:
			k.networks[list.Name] = list
			k.names = append(k.names, list.Name)
		}
	}
	return k, nil
}

// readConfig reads a list of plugins, or the configuration of one. The name does not say
// which: Mesos takes any.
func readConfig(file string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var shape struct {
		Name string
		Type string
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		return nil, err
	}
	if shape.Name == "" {
		return nil, fmt.Errorf("it has no name")
	}
	if shape.Type == "" {
		return libcni.NetworkConfFromFile(file)
	}
	single, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(mustMarshal(map[string]any{
		"name": single.Network.Name, "cniVersion": single.Network.CNIVersion, "plugins": []json.RawMessage{data},
	}))
}

// find returns a configured network, or says which there are.
func (k known) find(dir, name string) (*libcni.NetworkConfigList, error) {
	if list, ok := k.networks[name]; ok {
		return list, nil
	}
	there := "has none"
	if len(k.names) > 0 {
		there = "has " + strings.Join(k.names, ", ")
	}
	if len(k.bad) > 0 {
		there += "; not read: " + alone.OneLine(strings.Join(k.bad, "; "))
	}
	return nil, fmt.Errorf("unknown CNI network: %w: beside host, none and bridge there are those of --network_cni_config_dir, and %s %s", container.ErrNotFound, dir, there)
}

// checkPlugins makes sure that the executables of a network are there.
func checkPlugins(list *libcni.NetworkConfigList, dirs []string) error {
	for _, plugin := range list.Plugins {
		for _, name := range []string{plugin.Network.Type, plugin.Network.IPAM.Type} {
			if name == "" {
				continue
			}
			if _, err := (plugins{}).FindInPath(name, dirs); err != nil {
				return err
			}
		}
	}
	return nil
}

// capable reports whether a plugin of a network takes what a capability stands for.
func capable(list *libcni.NetworkConfigList, capability string) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}

func mapsPorts(list *libcni.NetworkConfigList) bool {
	return capable(list, "portMappings") || slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == portMapper })
}

// inline makes one list of all that a network is, with the arguments of the container
// for each plugin: what is deleted later is what was added, whatever becomes of the files.
func inline(list *libcni.NetworkConfigList, info json.RawMessage) (json.RawMessage, error) {
	var all []map[string]any
	for _, plugin := range list.Plugins {
		var config map[string]any
		if err := json.Unmarshal(plugin.Bytes, &config); err != nil {
			return nil, err
		}
		args, _ := config["args"].(map[string]any)
		if args == nil {
			args = map[string]any{}
		}
		args["org.apache.mesos"] = map[string]any{"network_info": info}
		config["args"] = args
		all = append(all, config)
	}
	return json.Marshal(map[string]any{
		"name": list.Name, "cniVersion": list.CNIVersion, "disableCheck": list.DisableCheck, "disableGC": list.DisableGC, "plugins": all,
	})
}

// mustMarshal encodes what can be encoded.
func mustMarshal(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}
