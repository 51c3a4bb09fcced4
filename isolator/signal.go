package isolator

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"berth/container"
)

// signals are the names of signal(7) without their "SIG". The numbers are Linux's,
// whatever system this is: containers run there.
var signals = map[string]syscall.Signal{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10,
	"SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CLD": 17, "CONT": 18,
	"STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27,
	"WINCH": 28, "IO": 29, "POLL": 29, "PWR": 30, "SYS": 31,
}

// The C library keeps the first two of the kernel's real-time signals to itself.
const (
	rtMin syscall.Signal = 34
	rtMax syscall.Signal = 64
)

// ParseSignal reads a signal as images name it: "SIGTERM", "TERM", "15", "SIGRTMIN+3",
// "RTMAX-1", in letters of any case. The error is of class ErrInvalid.
func ParseSignal(text string) (syscall.Signal, error) {
	if number, ok := smallNumber(text); ok && number > 0 {
		return syscall.Signal(number), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if s, ok := signals[name]; ok {
		return s, nil
	}
	if s, ok := realTime(name); ok {
		return s, nil
	}
	return 0, fmt.Errorf("the signal %.40q: %w: it is neither a name as SIGTERM or SIGRTMIN+3 nor a number from 1 to %d", text, container.ErrInvalid, rtMax)
}

// realTime reads RTMIN+n and RTMAX-n, or one of them alone.
func realTime(name string) (syscall.Signal, bool) {
	signal, sign, at := rtMin, syscall.Signal(1), strings.TrimPrefix(name, "RTMIN")
	if strings.HasPrefix(name, "RTMAX") {
		signal, sign, at = rtMax, -1, strings.TrimPrefix(name, "RTMAX")
	}
	switch {
	case at == name:
		return 0, false
	case at == "":
		return signal, true
	case at[0] != '+' && sign > 0, at[0] != '-' && sign < 0:
		return 0, false
	}
	distance, ok := smallNumber(at[1:])
	return signal + sign*syscall.Signal(distance), ok && distance <= int(rtMax-rtMin)
}

// smallNumber reads a number up to rtMax that is nothing but digits.
func smallNumber(text string) (int, bool) {
	number, err := strconv.ParseUint(text, 10, 8)
	return int(number), err == nil && number <= uint64(rtMax)
}
