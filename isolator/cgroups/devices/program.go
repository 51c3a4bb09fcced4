//go:build linux

package devices

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/device"
)

// programName tells berth's program from those of others on the same cgroup. The kernel
// keeps 15 bytes.
const programName = "berth_devices"

// Kinds as the kernel tells a program (BPF_DEVCG_DEV_* in <linux/bpf.h>).
var kinds = map[device.Kind]int32{device.Block: 1, device.Char: 2}

// Registers of the program.
const (
	scratch = asm.R1
	kind    = asm.R2
	access  = asm.R3
	major   = asm.R4
	minor   = asm.R5
)

// program decides about each access: 1, if one rule has all of it, else 0. Its context is
// a struct bpf_cgroup_dev_ctx: the access above 16 bits of the kind, the major and the
// minor number.
func program(rules []device.Rule) asm.Instructions {
	all := asm.Instructions{
		asm.LoadMem(kind, asm.R1, 0, asm.Word),
		asm.Mov.Reg(access, kind),
		asm.And.Imm(kind, 0xffff),
		asm.RSh.Imm(access, 16),
		asm.LoadMem(major, asm.R1, 4, asm.Word),
		asm.LoadMem(minor, asm.R1, 8, asm.Word),
	}
	for n, r := range rules {
		next := fmt.Sprintf("rule%d", n+1)
		test := asm.Instructions{asm.JNE.Imm(kind, kinds[r.Kind], next)}
		if r.Access != device.All {
			test = append(test,
				asm.Mov.Reg(scratch, access),
				asm.And.Imm(scratch, int32(device.All&^r.Access)),
				asm.JNE.Imm(scratch, 0, next))
		}
		if r.Major != device.Any {
			test = append(test, asm.JNE.Imm(major, int32(r.Major), next))
		}
		if r.Minor != device.Any {
			test = append(test, asm.JNE.Imm(minor, int32(r.Minor), next))
		}
		if n > 0 {
			test[0] = test[0].WithSymbol(fmt.Sprintf("rule%d", n))
		}
		all = append(append(all, test...), asm.Mov.Imm(asm.R0, 1), asm.Return())
	}
	last := asm.Mov.Imm(asm.R0, 0)
	if len(rules) > 0 {
		last = last.WithSymbol(fmt.Sprintf("rule%d", len(rules)))
	}
	return append(all, last, asm.Return())
}

// setV2 attaches a program to a cgroup, in the place of that which an earlier call has
// attached, in whichever process. Programs of others, and those above, decide, too.
func setV2(dir cgroup.Dir, rules []device.Rule) (err error) {
	group, err := os.Open(dir.Path())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: the cgroup is gone: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return err
	}
	defer group.Close()
	made, err := load(rules)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, made.Close()) }() // the cgroup holds it by itself
	options := link.RawAttachProgramOptions{Target: int(group.Fd()), Program: made, Attach: ebpf.AttachCGroupDevice, Flags: allowMulti}
	old, err := attached(group)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
		options.Anchor = link.ReplaceProgram(old)
	}
	if err := link.RawAttachProgram(options); err != nil {
		return fmt.Errorf("attach a program to cgroup %s: %w", dir.Path(), err)
	}
	return nil
}

// allowMulti is BPF_F_ALLOW_MULTI: an access needs the consent of each program, those of
// the cgroups above included.
const allowMulti = 1 << 1

func load(rules []device.Rule) (*ebpf.Program, error) {
	made, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programName, Type: ebpf.CGroupDevice, AttachType: ebpf.AttachCGroupDevice,
		Instructions: program(rules), License: "Apache-2.0",
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return nil, fmt.Errorf("%w: the kernel needs CONFIG_CGROUP_BPF and Linux 4.15: %w", container.ErrNotSupported, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load a program: %w", err)
	}
	return made, nil
}

// Probe implements isolator.Prober. Where there is no v1 hierarchy, the kernel has to take
// a program.
func (i *Isolator) Probe(context.Context) error {
	if version, _ := i.host.Version(controller); version == cgroup.V1 {
		return nil
	}
	made, err := load(device.Standard())
	if err != nil {
		return err
	}
	return made.Close()
}

// attached returns berth's program on a cgroup; nil: there is none.
func attached(group *os.File) (*ebpf.Program, error) {
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(group.Fd()), Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", group.Name(), err)
	}
	for _, p := range found.Programs {
		loaded, err := ebpf.NewProgramFromID(p.ID)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has just been detached
		}
		if err != nil {
			return nil, fmt.Errorf("program of cgroup %s: %w", group.Name(), err)
		}
		info, err := loaded.Info()
		if err == nil && info.Name == programName {
			return loaded, nil
		}
		if err := errors.Join(err, loaded.Close()); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
