package plan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Version is that of the encoding. berth and berth-init of different versions refuse to
// work together.
const Version = 9

// maxSize bounds an encoded plan, and a report. The kernel takes at most 6 MiB of arguments
// and environment (execve(2), "Limits on size of arguments and environment").
const maxSize = 8 << 20

// header begins an encoded plan; a byte with twice the version follows. So package
// encoding/gob writes a small number, in which plans were encoded up to version 6: those
// berth-inits, too, can say which version they have met.
const header = "\x03\x04\x00"

// Encode writes the plan, after its Version. It keeps every byte of a text: paths and
// arguments need not be UTF-8.
func (p Plan) Encode(w io.Writer) error {
	c := coder{text: append([]byte(header), 2*Version)}
	c.plan(&p)
	if len(c.text) > maxSize {
		return fmt.Errorf("encode the plan: it has %d bytes, at most %d are allowed: are there too many arguments or environment variables?", len(c.text), maxSize)
	}
	_, err := w.Write(c.text)
	return err
}

// Decode reads a plan of this version.
func Decode(r io.Reader) (p Plan, err error) {
	text, err := readAll(r, usualPlan)
	if err != nil {
		return Plan{}, fmt.Errorf("read the plan: %w", err)
	}
	start := len(header) + 1
	if len(text) < start || string(text[:len(header)]) != header {
		return Plan{}, errors.New("read the plan: it does not begin like one")
	}
	if version := int(text[start-1]) / 2; version != Version {
		return Plan{}, fmt.Errorf("the plan has version %d, this berth-init knows %d: install both programs from one build", version, Version)
	}
	c := coder{text: text[start:], decodes: true}
	c.plan(&p)
	if err := c.end(); err != nil {
		return Plan{}, fmt.Errorf("read the plan: %w", err)
	}
	return p, nil
}

// Encode writes the report.
func (r Report) Encode(w io.Writer) error {
	c := coder{}
	c.report(&r)
	_, err := w.Write(c.text)
	return err
}

// DecodeReport reads a report up to the end; io.EOF: there is none.
func DecodeReport(r io.Reader) (report Report, err error) {
	text, err := readAll(r, bytes.MinRead)
	if err != nil {
		return Report{}, err
	}
	if len(text) == 0 {
		return Report{}, io.EOF
	}
	c := coder{text: text, decodes: true}
	c.report(&report)
	return report, c.end()
}

// usualPlan is room for the plan of nearly every container: it is read at once.
const usualPlan = 16 << 10

func readAll(r io.Reader, usual int) ([]byte, error) {
	text := bytes.NewBuffer(make([]byte, 0, usual))
	_, err := text.ReadFrom(io.LimitReader(r, maxSize+1))
	if err == nil && text.Len() > maxSize {
		err = fmt.Errorf("it has more than %d bytes", maxSize)
	}
	return text.Bytes(), err
}

// coder goes through values field by field, and so is both directions in one: it appends
// each field to text, or takes it from there. A berth-init starts with each container, and
// reflection would cost it more than all of its system calls.
type coder struct {
	text    []byte
	decodes bool
	err     error
}

func (c *coder) plan(p *Plan) {
	c.flag(&p.EnterMounts)
	c.string(&p.Rootfs)
	c.flag(&p.ReadOnlyRootfs)
	number(c, &p.Handed)
	c.flag(&p.HandedAll)
	c.flag(&p.HostMounts)
	list(c, &p.Mounts, (*coder).mount)
	list(c, &p.Nodes, (*coder).node)
	list(c, &p.Links, (*coder).link)
	list(c, &p.Masked, (*coder).string)
	list(c, &p.ReadOnly, (*coder).string)
	list(c, &p.Volumes, (*coder).mount)
	optional(c, &p.Terminal, (*coder).terminal)
	optional(c, &p.Logs, (*coder).logs)
	c.flag(&p.Input)
	c.flag(&p.CgroupNamespace)
	c.flag(&p.Tree)
	c.string(&p.Hostname)
	c.flag(&p.Loopback)
	c.command(&p.Command)
}

func (c *coder) mount(m *Mount) {
	c.string(&m.Target)
	c.string(&m.Source)
	c.string(&m.SubPath)
	c.string(&m.Type)
	list(c, &m.Options, (*coder).option)
	number(c, &m.Flags)
	c.flag(&m.OfParent)
	c.flag(&m.Provisioned)
	c.flag(&m.Fixed)
	c.flag(&m.Replace)
	number(c, &m.Propagation)
	c.flag(&m.File)
	c.bytes(&m.Content)
}

func (c *coder) option(o *Option) {
	c.string(&o.Key)
	c.string(&o.Value)
}

func (c *coder) node(n *Node) {
	c.string(&n.Path)
	number(c, &n.Mode)
	number(c, &n.Major)
	number(c, &n.Minor)
}

func (c *coder) link(l *Link) {
	c.string(&l.Path)
	c.string(&l.Target)
}

func (c *coder) terminal(t *Terminal) {
	c.flag(&t.Kept)
	c.string(&t.Multiplexer)
	c.string(&t.Console)
	number(c, &t.Rows)
	number(c, &t.Columns)
}

func (c *coder) logs(l *Logs) {
	list(c, &l.Outputs, number[int])
	number(c, &l.MaxSize)
	number(c, &l.MaxFiles)
}

func (c *coder) command(command *Command) {
	c.string(&command.Path)
	list(c, &command.Args, (*coder).string)
	list(c, &command.Env, (*coder).string)
	c.string(&command.Dir)
	number(c, &command.UID)
	number(c, &command.GID)
	list(c, &command.Groups, number[uint32])
	list(c, &command.Rlimits, (*coder).rlimit)
	c.confinement(&command.Confinement)
}

func (c *coder) rlimit(l *Rlimit) {
	c.string(&l.Name)
	number(c, &l.Soft)
	number(c, &l.Hard)
}

func (c *coder) confinement(to *Confinement) {
	optional(c, &to.Capabilities, (*coder).capabilities)
	c.flag(&to.NoNewPrivileges)
	c.bytes(&to.Filter)
	number(c, &to.FilterFlags)
	c.string(&to.AppArmorProfile)
	c.string(&to.SELinuxLabel)
}

func (c *coder) capabilities(all *Capabilities) {
	number(c, &all.Effective)
	number(c, &all.Bounding)
	number(c, &all.Inheritable)
	number(c, &all.Ambient)
	c.flag(&all.NoRoot)
}

func (c *coder) report(r *Report) {
	c.string(&r.Message)
	number(c, &r.Code)
}

// number codes 7 bits a byte.
func number[T ~int | ~int64 | ~uint | ~uint16 | ~uint32 | ~uint64](c *coder, n *T) {
	if !c.decodes {
		c.text = binary.AppendUvarint(c.text, uint64(*n))
		return
	}
	value, size := binary.Uvarint(c.text)
	if size <= 0 || uint64(T(value)) != value {
		c.fail("a number")
		return
	}
	c.text, *n = c.text[size:], T(value)
}

func (c *coder) flag(f *bool) {
	var n uint
	if *f {
		n = 1
	}
	number(c, &n)
	if n > 1 {
		c.fail("a flag")
	}
	*f = n == 1
}

func (c *coder) string(s *string) {
	if !c.decodes {
		c.text = append(binary.AppendUvarint(c.text, uint64(len(*s))), *s...)
		return
	}
	*s = string(c.take())
}

func (c *coder) bytes(b *[]byte) {
	if !c.decodes {
		c.text = append(binary.AppendUvarint(c.text, uint64(len(*b))), *b...)
		return
	}
	*b = slices.Clone(c.take())
}

// take takes a length, and so many bytes. None are nil.
func (c *coder) take() (text []byte) {
	var size uint
	if number(c, &size); size == 0 {
		return nil
	}
	if size > uint(len(c.text)) {
		c.fail("a text")
		return nil
	}
	text, c.text = c.text[:size], c.text[size:]
	return text
}

// list codes how many there are, and then each.
func list[T any](c *coder, all *[]T, one func(*coder, *T)) {
	count := uint(len(*all))
	number(c, &count)
	if !c.decodes {
		for i := range *all {
			one(c, &(*all)[i])
		}
		return
	}
	// Not made at once: the number may be a lie.
	for range count {
		var t T
		if one(c, &t); c.err != nil {
			return
		}
		*all = append(*all, t)
	}
}

// optional codes whether there is a value, and then that.
func optional[T any](c *coder, value **T, one func(*coder, *T)) {
	there := *value != nil
	if c.flag(&there); !there {
		return
	}
	if c.decodes {
		*value = new(T)
	}
	one(c, *value)
}

// fail keeps the first failure. Nothing can be taken from then on.
func (c *coder) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("%s is broken or missing, %d bytes before the end", what, len(c.text))
	}
	c.text = nil
}

// end returns what was wrong; it is wrong, too, when something is left.
func (c *coder) end() error {
	if c.err == nil && len(c.text) > 0 {
		c.err = fmt.Errorf("there are %d bytes after it", len(c.text))
	}
	return c.err
}
