//go:build linux

package mesos

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
	"berth/isolator/network/cni"
)

// onNetwork has a script run on a network; "" is the host's.
func onNetwork(name, script string) *v1.ContainerConfig {
	c := shell(script)
	c.ContainerInfo.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String(name)}}
	return c
}

// What is nested is where its parent is, unless it says otherwise.
func TestContainersOnANetwork(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	testrig.RequireCNIPlugins(t)
	r := newRig(t)
	parent := r.start(onNetwork(cni.Bridge, "sleep 1000"))
	status, err := r.Status(t.Context(), parent.id)
	if err != nil || len(status.Given.GetNetworkInfos()) != 1 || len(status.Given.NetworkInfos[0].GetIpAddresses()) != 1 {
		t.Fatalf("status %+v, %v", status, err)
	}
	address := status.Given.NetworkInfos[0].IpAddresses[0].GetIpAddress()
	if found, err := r.Inspect(t.Context(), parent.id); err != nil || !proto.Equal(found.Given, status.Given) {
		t.Errorf("inspected: %+v, %v", found, err)
	}
	const who = "ip -4 -o addr | grep -v ' lo ' | awk '{print $4}' | cut -d/ -f1; hostname; tail -1 /etc/hosts"
	same := address + "\n" + parent.id.Value() + "\n" + address + "\t" + parent.id.Value() + "\n"
	if o := parent.runIn("child", shell(who)); o.stdout != same {
		t.Errorf("a nested container: %q %q %v, want %q", o.stdout, o.stderr, o.err, same)
	}
	if o := parent.runIn("debug", debug(who)); o.stdout != same {
		t.Errorf("one for debugging: %q %q %v, want %q", o.stdout, o.stderr, o.err, same)
	}
	if o := parent.runIn("own", onNetwork(cni.Bridge, who)); !strings.HasPrefix(o.stdout, "10.201.0.") || !strings.Contains(o.stdout, "\nown\n") || strings.Contains(o.stdout, address+"\n") {
		t.Errorf("one on a network of its own: %q %q %v", o.stdout, o.stderr, o.err)
	}
	if o := parent.runIn("alone", onNetwork(cni.None, "ip -o link | wc -l")); o.stdout != "1\n" {
		t.Errorf("one on none: %q %q %v", o.stdout, o.stderr, o.err)
	}
	if o := parent.runIn("hosted", onNetwork("", "ip -o link | grep -c ': berth-'")); o.stdout != "1\n" {
		t.Errorf("one on the host's: %q %q %v", o.stdout, o.stderr, o.err)
	}
	if usage, err := r.Usage(t.Context(), parent.id); err != nil || usage.NetRxPackets == nil {
		t.Errorf("usage %v, %v", usage, err)
	}
}
