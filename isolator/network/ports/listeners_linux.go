package ports

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// listeners asks the kernel for the TCP sockets that listen in this process's network
// namespace (sock_diag(7)): their ports by their inodes.
func listeners() (map[uint64]uint16, error) {
	found := map[uint64]uint16{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddData(listening(family))
		answers, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // what began or ended meanwhile is seen the next time
		}
		if errors.Is(err, unix.ENOENT) && family == unix.AF_INET6 {
			continue // there is no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list the sockets that listen: %w", err)
		}
		for _, answer := range answers {
			if len(answer) >= messageSize {
				found[uint64(binary.NativeEndian.Uint32(answer[inodeAt:]))] = binary.BigEndian.Uint16(answer[portAt:])
			}
		}
	}
	return found, nil
}

// The places of what is of interest in struct inet_diag_msg.
const (
	portAt      = 4
	inodeAt     = 68
	messageSize = 72
)

// listening is struct inet_diag_req_v2 for the listening TCP sockets of a family.
type listening uint8

const requestSize = 56

// Len implements nl.NetlinkRequestData.
func (listening) Len() int { return requestSize }

// Serialize implements nl.NetlinkRequestData.
func (family listening) Serialize() []byte {
	request := make([]byte, requestSize)
	request[0], request[1] = byte(family), unix.IPPROTO_TCP
	const tcpListen = 10 // enum in net/tcp_states.h
	binary.NativeEndian.PutUint32(request[4:], 1<<tcpListen)
	return request
}
