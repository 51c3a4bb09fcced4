//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

func TestPublish(t *testing.T) {
	for value, want := range map[string]string{
		"8080:80":                 "8080 80  ",
		"8080:80/udp":             "8080 80 udp ",
		"127.0.0.1:8080:80/tcp":   "8080 80 tcp 127.0.0.1",
		"[::1]:8080:80":           "8080 80  ::1",
		"::1:8080:80":             "8080 80  ::1",
		"65535:1":                 "65535 1  ",
		"8000-8002:90-92":         "8000 90  ;8001 91  ;8002 92  ",
		"0.0.0.0:53-54:53-54/udp": "53 53 udp 0.0.0.0;54 54 udp 0.0.0.0",
	} {
		all, err := publish(value)
		var got []string
		for _, p := range all {
			got = append(got, fmt.Sprint(p.GetHostPort(), p.GetContainerPort())+" "+p.GetProtocol()+" "+p.GetHostIp())
		}
		if err != nil || strings.Join(got, ";") != want {
			t.Errorf("%s: %q, %v, want %q", value, got, err, want)
		}
	}
	for value, why := range map[string]string{
		"80": "which port of the host", "": "which port of the host", ":80": "no port", "8080:": "no port", "0:80": "no port", "80:65536": "no port",
		"80:x": "no port", "-1:80": "no port", "8080:80/icmp": "protocol", "8080:80/": "protocol", "host:8080:80": "no address", "1.2.3:8080:80": "no address",
		"8000-8002:90-91": "3 ports of the host cannot lead to 2", "8002-8000:80": "ends before it begins", "1-2000:1-2000": "at most 1024",
	} {
		if _, err := publish(value); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", value, err, why)
		}
	}
}

func TestNetworks(t *testing.T) {
	for _, c := range []struct {
		network, publish []string
		had              string // by --container_info
		want             string
		err              string
	}{
		{},
		{network: []string{"host"}},
		{network: []string{"none"}, want: "none"},
		{network: []string{"bridge", "lan"}, want: "bridge,lan"},
		{had: "lan", want: "lan"},
		{had: "lan", network: []string{"host"}},
		{had: "lan", network: []string{"bridge"}, want: "bridge"},
		{had: "lan", publish: []string{"1:2"}, want: "lan 1:2"},
		{network: []string{"bridge", "lan"}, publish: []string{"1:2", "3:4"}, want: "bridge 1:2 3:4,lan"},
		{publish: []string{"1:2"}, err: "--network bridge"},
		{network: []string{"host"}, publish: []string{"1:2"}, err: "--network bridge"},
		{network: []string{""}, err: "no name"},
	} {
		info := &v1.ContainerInfo{}
		if c.had != "" {
			info.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String(c.had)}}
		}
		err := (&runFlags{network: c.network, publish: c.publish}).networks(info)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: error %v", c, err)
			continue
		}
		var got []string
		for _, n := range info.NetworkInfos {
			text := n.GetName()
			for _, p := range n.GetPortMappings() {
				text += fmt.Sprintf(" %d:%d", p.GetHostPort(), p.GetContainerPort())
			}
			got = append(got, text)
		}
		if err == nil && strings.Join(got, ",") != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
