package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// Usage implements isolator.Meter: the traffic of all interfaces of a container but that
// to itself. One on the network of the host, or of its parent, has none of its own.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	if _, err := os.Stat(i.file(id)); !i.Statistics || err != nil {
		return nil
	}
	pid, err := i.Init(id)
	if err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	table, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("network/cni: traffic of container %s: %w", id, container.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	sum := traffic(table)
	to.NetRxBytes, to.NetRxPackets = proto.Uint64(sum[0]), proto.Uint64(sum[1])
	to.NetRxErrors, to.NetRxDropped = proto.Uint64(sum[2]), proto.Uint64(sum[3])
	to.NetTxBytes, to.NetTxPackets = proto.Uint64(sum[8]), proto.Uint64(sum[9])
	to.NetTxErrors, to.NetTxDropped = proto.Uint64(sum[10]), proto.Uint64(sum[11])
	return nil
}

// traffic adds up the columns of proc_pid_net(5), dev: eight of what was received, from
// bytes on, and eight of what was sent.
func traffic(table []byte) (sum [16]uint64) {
	for line := range bytes.Lines(table) {
		name, counters, ok := bytes.Cut(line, []byte(":"))
		if !ok || string(bytes.TrimSpace(name)) == "lo" {
			continue
		}
		for n, field := range bytes.Fields(counters) {
			if value, err := strconv.ParseUint(string(field), 10, 64); err == nil && n < len(sum) {
				sum[n] += value
			}
		}
	}
	return sum
}

// Status implements isolator.Reporter: the networks as joined, with the addresses given.
// A nested container on its parent's has those.
func (i *Isolator) Status(_ context.Context, c *isolator.Container, to *v1.ContainerStatus) error {
	for isolator.JoinsNetwork(c) {
		c = c.Parent
	}
	rec, err := i.read(c.ID)
	if err != nil || rec == nil {
		return err
	}
	for _, a := range rec.Attachments {
		info := a.info()
		info.IpAddresses = nil
		if result := i.result(c.ID, rec, a); result != nil {
			for _, ip := range result.IPs {
				protocol := v1.NetworkInfo_IPv4
				if ip.Address.IP.To4() == nil {
					protocol = v1.NetworkInfo_IPv6
				}
				info.IpAddresses = append(info.IpAddresses, &v1.NetworkInfo_IPAddress{Protocol: protocol.Enum(), IpAddress: proto.String(ip.Address.IP.String())})
			}
		}
		to.NetworkInfos = append(to.NetworkInfos, info)
	}
	return nil
}
