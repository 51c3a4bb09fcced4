//go:build linux

package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/calls"
	"berth/internal/idmap"
	"berth/internal/mount"
	"berth/launcher"
	"berth/launcher/initproc"
	"berth/launcher/plan"
)

// In a user namespace the init process has no rights on the host, not even to pass through
// the directories of root that berth works in. So berth makes the mounts of what is on the
// host, and hands them over.

// source is one such mount.
type source struct {
	path, sub   string
	target      string // in the container
	ofParent    bool   // it is a path of the parent
	alone       bool   // without what is mounted below
	mapped      bool   // the owners on disk are ids of the container
	propagation plan.Propagation
	device      *plan.Node // that it is to be
}

// inUserNamespace returns the plan that an init process in a user namespace can carry out,
// and what it is to be handed, in order. own are the namespaces that the user namespace owns.
func inUserNamespace(spec launcher.Spec, own []launcher.Namespace) (plan.Plan, []source) {
	p := spec.Plan
	sources := []source{{path: p.Rootfs, target: "/", alone: true}}
	mounts := slices.Clone(p.Mounts)
	for i, m := range mounts {
		switch {
		case m.Type == "":
			sources = append(sources, bound(m))
		case !mayMount(m.Type, own):
			// What the host has mounted; nothing below it, as a new one has nothing there.
			mounts[i].Source, mounts[i].Type, mounts[i].Options = showing[m.Type].place, "", nil
			sources = append(sources, source{path: mounts[i].Source, target: m.Target, alone: true})
		}
	}
	// No device can be made in a user namespace (mknod(2)).
	for _, n := range p.Nodes {
		mounts = append(mounts, plan.Mount{Target: n.Path, Source: n.Path, Fixed: true})
		sources = append(sources, source{path: n.Path, target: n.Path, alone: true, device: &n})
	}
	for _, m := range p.Volumes {
		if m.Type == "" {
			sources = append(sources, bound(m))
		}
	}
	p.Mounts, p.Nodes, p.Handed, p.HandedAll = mounts, nil, len(sources), true
	return p, sources
}

func bound(m plan.Mount) source {
	return source{path: m.Source, sub: m.SubPath, target: m.Target, propagation: m.Propagation, ofParent: m.OfParent,
		mapped: !m.Fixed && !m.Provisioned && !m.OfParent}
}

// ofParent are the sources that berth-init cannot reach even without a user namespace.
func ofParent(p plan.Plan) (sources []source) {
	for _, m := range slices.Concat(p.Mounts, p.Volumes) {
		if m.OfParent {
			sources = append(sources, bound(m))
		}
	}
	return sources
}

// showing are the file systems that show a namespace, and where the host has them.
var showing = map[string]struct {
	namespace launcher.Namespace
	place     string
}{
	"proc":   {launcher.PID, "/proc"},
	"sysfs":  {launcher.Network, "/sys"},
	"mqueue": {launcher.IPC, "/dev/mqueue"},
}

// mayMount reports whether a file system can be mounted by root of a user namespace: one
// that shows a namespace only if that is its own.
func mayMount(fstype string, own []launcher.Namespace) bool {
	shown, ok := showing[fstype]
	return !ok || slices.Contains(own, shown.namespace)
}

// handover is how an init process gets its sources. Without a user namespace they are those of
// the parent alone.
type handover struct {
	sources      []source
	parent       *os.File // a pidfd; nil: nothing is the parent's
	ours, theirs *os.File
}

// newHandover makes the plan one for a user namespace, if there is to be one.
func (l *Launcher) newHandover(spec *launcher.Spec) (h *handover, err error) {
	h = &handover{}
	if spec.IDs.IsHost() {
		h.sources = ofParent(spec.Plan)
		spec.Plan.Handed = len(h.sources)
		return h, l.open(h, *spec)
	}
	if spec.Plan.EnterMounts {
		spec.Plan.HostMounts = true // startInUser enters them
		return h, nil
	}
	own := spec.Namespaces
	if slices.Contains(spec.Enter, launcher.User) {
		entered, err := l.ownedByParent(*spec)
		if err != nil {
			return nil, err
		}
		own = slices.Concat(own, entered)
	}
	spec.Plan, h.sources = inUserNamespace(*spec, own)
	return h, l.open(h, *spec)
}

// open opens what it takes to hand over the sources.
func (l *Launcher) open(h *handover, spec launcher.Spec) (err error) {
	if len(h.sources) == 0 {
		return nil
	}
	if slices.ContainsFunc(h.sources, func(s source) bool { return s.ofParent }) {
		if h.parent, err = l.openParent(spec); err != nil {
			return err
		}
	}
	if h.ours, h.theirs, err = socketPair(); err != nil {
		h.close()
	}
	return err
}

// openParent returns a pidfd of the init process of the container around.
func (l *Launcher) openParent(spec launcher.Spec) (*os.File, error) {
	parent, err := initproc.OpenRecorded(l.Layout.Container(spec.Parent).Pid())
	if err != nil {
		return nil, fmt.Errorf("the init process of container %s: %w: %w", spec.Parent, container.ErrFailedPrecondition, err)
	}
	return parent.File(), nil
}

// close closes berth's end, and that of the init process unless it has become the channels'.
// What was sent stays to be received.
func (h *handover) close() {
	for _, end := range []*os.File{h.parent, h.ours, h.theirs} {
		if end != nil {
			end.Close()
		}
	}
}

// send makes the mounts and sends them to the init process, which waits.
func (h *handover) send(pid int) (err error) {
	if len(h.sources) == 0 {
		return nil
	}
	namespace, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, namespace.Close()) }()
	for batch := range slices.Chunk(h.sources, plan.MaxHanded) {
		if err := h.sendBatch(batch, int(namespace.Fd())); err != nil {
			return err
		}
	}
	return nil
}

// sendBatch sends so many mounts as fit into one message. They all wait in the socket until
// the init process is released.
func (h *handover) sendBatch(sources []source, namespace int) (err error) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	for _, s := range sources {
		d, err := s.make(namespace, h.parent)
		if err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
		fds = append(fds, d.FD())
	}
	if err := unix.Sendmsg(int(h.ours.Fd()), []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_DONTWAIT); err != nil {
		return fmt.Errorf("hand over the sources of %d mounts: %w", len(fds), err)
	}
	return nil
}

// make makes the mount, cut off from the host's others.
func (s source) make(namespace int, parent *os.File) (_ *mount.Detached, err error) {
	d, err := s.clone(parent)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if s.device != nil {
		if err := isDevice(d.FD(), *s.device); err != nil {
			return nil, err
		}
	}
	if s.mapped {
		err := d.Map(namespace, !s.alone)
		if errors.Is(err, mount.ErrCannotMap) {
			return nil, fmt.Errorf("%w: %s, or what is mounted below it: %w, as the container's user namespace needs: leave --userns out, or have the volume on another file system",
				container.ErrNotSupported, path.Join(s.path, s.sub), err)
		}
		if err != nil {
			return nil, err
		}
	}
	switch s.propagation {
	case plan.Private:
		return d, d.MakePrivate()
	case plan.FromHost:
		return d, d.MakeSlave()
	}
	return nil, fmt.Errorf("%w: what is mounted in a user namespace cannot reach the host", container.ErrInvalid)
}

func (s source) clone(parent *os.File) (*mount.Detached, error) {
	if s.ofParent {
		return cloneOf(parent, s.path)
	}
	if s.alone {
		return mount.Clone(s.path, false)
	}
	return mount.CloneBelow(s.path, s.sub)
}

// isDevice refuses another node than the one that the plan has.
func isDevice(fd int, n plan.Node) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != n.Mode&unix.S_IFMT || st.Rdev != unix.Mkdev(n.Major, n.Minor) {
		return fmt.Errorf("%w: in a user namespace the device is the host's %s, which is not %d:%d", container.ErrFailedPrecondition, n.Path, n.Major, n.Minor)
	}
	return nil
}

// socketPair returns berth's end, which sends, and that of the init process.
func socketPair() (send, receive *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sources"), os.NewFile(uintptr(fds[1]), "sources"), nil
}

// explain says what it means that the init process could not be started in a user
// namespace.
func explain(err error, spec launcher.Spec) error {
	var failed *calls.Failure
	if spec.IDs.IsHost() || !errors.As(err, &failed) {
		return err
	}
	switch {
	case failed.Last && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: in a user namespace it is executed by a user who has no rights: everybody has to be allowed to read and execute it", err)
	case failed.None:
		return idmap.Explain(err)
	}
	return err
}
