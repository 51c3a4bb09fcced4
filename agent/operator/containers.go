package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

// launchContainer launches a root container, or a nested one.
func (s *Server) launchContainer(ctx context.Context, c *call) (*answered, error) {
	id, request, err := s.requested(c.GetLaunchContainer())
	if err != nil {
		return nil, err
	}
	request.Config.AutoRemove = c.GetLaunchContainer().AutoRemove
	return s.launch(ctx, id, request)
}

// requested is what is to be launched.
func (s *Server) requested(m *v1.Call_LaunchContainer) (id container.ID, request containerizer.Request, err error) {
	if id, err = containerID(m.GetContainerId(), "launch_container.container_id"); err != nil {
		return id, request, err
	}
	request = containerizer.Request{Input: m.GetInteractive(), Config: &v1.ContainerConfig{
		CommandInfo: m.GetCommand(), ContainerInfo: m.GetContainer(), Resources: m.GetResources(), Limits: m.GetLimits(),
		ImageArguments: m.GetImageArguments(), Entrypoint: m.Entrypoint, WorkingDirectory: m.WorkingDirectory, ReadOnlyRootfs: m.ReadOnlyRootfs,
		Security: m.GetSecurity(),
	}}
	return id, request, s.checkLaunch(id, request.Config)
}

func (s *Server) launchNestedContainer(ctx context.Context, c *call) (*answered, error) {
	m := c.GetLaunchNestedContainer()
	id, err := nestedID(m.GetContainerId(), "launch_nested_container.container_id")
	if err != nil {
		return nil, err
	}
	config := &v1.ContainerConfig{CommandInfo: m.GetCommand(), ContainerInfo: m.GetContainer()}
	if err := s.checkLaunch(id, config); err != nil {
		return nil, err
	}
	return s.launch(ctx, id, containerizer.Request{Config: config})
}

// nestedID reads an id that has to have a parent.
func nestedID(m *v1.ContainerID, field string) (container.ID, error) {
	if m != nil && m.GetParent() == nil {
		return container.ID{}, invalid("Expecting '%s.parent' to be present", field)
	}
	return containerID(m, field)
}

// launch launches a container that nobody here holds. Who asks for one that is there
// already is told so, and that it is well.
func (s *Server) launch(ctx context.Context, id container.ID, request containerizer.Request) (*answered, error) {
	config := request.Config
	if user := config.GetCommandInfo().GetUser(); user != "" {
		config.User = proto.String(user)
	}
	request.Keeper = containerizer.Agent
	if config.GetContainerInfo().GetTtyInfo() != nil {
		request.Input = true
	}
	err := s.Containers.Launch(ctx, id, request)
	switch {
	case err == nil:
		return &answered{}, nil
	case errors.Is(err, container.ErrExists) && s.isThere(ctx, id):
		return &answered{code: http.StatusAccepted}, nil
	}
	refused := failed(http.StatusBadRequest, "%w", err) // Mesos: whatever the reason
	var unstarted interface{ ExitCode() int }
	if errors.As(err, &unstarted) {
		refused.exit = unstarted.ExitCode()
	}
	return nil, refused
}

// isThere reports whether a container is launched or runs.
func (s *Server) isThere(ctx context.Context, id container.ID) bool {
	_, err := s.Containers.Status(ctx, id)
	return err == nil
}

// checkLaunch refuses what cannot be, in the words of Mesos.
func (s *Server) checkLaunch(id container.ID, config *v1.ContainerConfig) error {
	for _, r := range config.GetResources() {
		if r.GetName() == "gpus" && r.GetScalar().GetValue() != math.Trunc(r.GetScalar().GetValue()) {
			return invalid("Invalid GPU resources: The 'gpus' resource must be an unsigned integer")
		}
	}
	info := config.GetContainerInfo()
	linux := info.GetLinuxInfo()
	_, nested := id.Parent()
	switch {
	case info != nil && info.Type == nil:
		return invalid("Expecting 'container.type' to be present")
	case !nested && linux != nil && linux.ShareCgroups != nil && linux.GetShareCgroups():
		return invalid("containers without a parent cannot set 'share_cgroups' to 'true'")
	case len(id.Values()) > 2 && len(config.GetResources()) > 0:
		return invalid("containers nested at the second level or greater cannot specify resources")
	case len(id.Values()) > 2 && len(config.GetLimits()) > 0:
		return invalid("containers nested at the second level or greater cannot specify resource limits")
	case len(id.Values()) > 2 && linux != nil && !linux.GetShareCgroups():
		return invalid("containers nested at the second level or greater cannot set 'share_cgroups' to 'false'")
	}
	if nested && linux.GetShareCgroups() {
		return nil
	}
	return s.checkCounted(config)
}

// checkCounted refuses a launch that does not say how much of a resource it wants, as Mesos
// does: who forgets it would have all of the host. An infinite limit says it.
func (s *Server) checkCounted(config *v1.ContainerConfig) error {
	for _, name := range s.Counted {
		_, limited := config.GetLimits()[name]
		requested := slices.ContainsFunc(config.GetResources(), func(r *v1.Resource) bool { return r.GetName() == name })
		if !requested && !limited {
			return invalid("No %s resource given: name '%s' in the resources, or in the limits, where Infinity is no limit", name, name)
		}
	}
	return nil
}

func (s *Server) waitContainer(ctx context.Context, c *call) (*answered, error) {
	id, err := containerID(c.GetWaitContainer().GetContainerId(), "wait_container.container_id")
	if err != nil {
		return nil, err
	}
	ended, err := s.wait(ctx, id)
	if err != nil {
		return nil, err
	}
	return &answered{Response: &v1.Response{Type: v1.Response_WAIT_CONTAINER.Enum(), WaitContainer: ended}}, nil
}

func (s *Server) waitNestedContainer(ctx context.Context, c *call) (*answered, error) {
	id, err := nestedID(c.GetWaitNestedContainer().GetContainerId(), "wait_nested_container.container_id")
	if err != nil {
		return nil, err
	}
	ended, err := s.wait(ctx, id)
	if err != nil {
		return nil, err
	}
	return &answered{Response: &v1.Response{Type: v1.Response_WAIT_NESTED_CONTAINER.Enum(), WaitNestedContainer: &v1.Response_WaitNestedContainer{
		ExitStatus: ended.ExitStatus, State: ended.State, Reason: ended.Reason, Limitation: ended.Limitation, Message: ended.Message,
	}}}, nil
}

func (s *Server) wait(ctx context.Context, id container.ID) (*v1.Response_WaitContainer, error) {
	termination, err := s.Containers.Wait(ctx, id)
	if errors.Is(err, container.ErrNotFound) {
		return nil, failed(http.StatusNotFound, "Container %s cannot be found", id)
	}
	if err != nil {
		return nil, err
	}
	return EndOf(termination), nil
}

// EndOf says in the words of the API how a container ended.
func EndOf(t container.Termination) *v1.Response_WaitContainer {
	m := containerizer.TerminationMessage(t)
	ended := &v1.Response_WaitContainer{ExitStatus: m.Status, State: m.State, Reason: m.Reason, Message: m.Message}
	if len(m.LimitedResources) > 0 {
		ended.Limitation = &v1.TaskResourceLimitation{Resources: m.LimitedResources}
	}
	return ended
}

func (s *Server) killContainer(ctx context.Context, c *call) (*answered, error) {
	id, err := containerID(c.GetKillContainer().GetContainerId(), "kill_container.container_id")
	if err != nil {
		return nil, err
	}
	return s.kill(ctx, id, c.GetKillContainer().Signal)
}

func (s *Server) killNestedContainer(ctx context.Context, c *call) (*answered, error) {
	id, err := nestedID(c.GetKillNestedContainer().GetContainerId(), "kill_nested_container.container_id")
	if err != nil {
		return nil, err
	}
	return s.kill(ctx, id, c.GetKillNestedContainer().Signal)
}

// kill sends a signal to a container. One whose launch has not come to a process is
// destroyed, whatever the signal.
func (s *Server) kill(ctx context.Context, id container.ID, number *int32) (*answered, error) {
	status, err := s.Containers.Status(ctx, id)
	if err != nil {
		return nil, failed(http.StatusNotFound, "Container '%s' cannot be found (or is already killed)", id)
	}
	signal := syscall.SIGKILL
	if number != nil {
		signal = syscall.Signal(*number)
	}
	if status.Pid == 0 {
		_, err = s.Containers.Destroy(ctx, id)
	} else {
		err = s.Containers.Kill(ctx, id, signal)
	}
	switch {
	case errors.Is(err, container.ErrNotFound):
		return nil, failed(http.StatusNotFound, "Container '%s' cannot be found (or is already killed)", id)
	case err != nil:
		return nil, failed(http.StatusInternalServerError, "%w", err)
	}
	return &answered{}, nil
}

// stopContainer asks a container to end, and sees to it.
func (s *Server) stopContainer(ctx context.Context, c *call) (*answered, error) {
	m := c.GetStopContainer()
	id, err := containerID(m.GetContainerId(), "stop_container.container_id")
	if err != nil {
		return nil, err
	}
	patience := 10 * time.Second
	if m.Timeout != nil {
		patience = time.Duration(m.GetTimeout().GetNanoseconds())
	}
	if err := s.Containers.Stop(ctx, id); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, max(0, patience))
	defer cancel()
	if _, err := s.Containers.Wait(waiting, id); waiting.Err() == nil || ctx.Err() != nil {
		return &answered{}, err
	}
	_, err = s.Containers.Destroy(ctx, id)
	return &answered{}, err
}

func (s *Server) removeContainer(ctx context.Context, c *call) (*answered, error) {
	m := c.GetRemoveContainer()
	id, err := containerID(m.GetContainerId(), "remove_container.container_id")
	if err != nil {
		return nil, err
	}
	if m.GetForce() {
		if _, err := s.Containers.Destroy(ctx, id); err != nil {
			return nil, err
		}
	}
	return s.remove(ctx, id)
}

func (s *Server) removeNestedContainer(ctx context.Context, c *call) (*answered, error) {
	id, err := nestedID(c.GetRemoveNestedContainer().GetContainerId(), "remove_nested_container.container_id")
	if err != nil {
		return nil, err
	}
	return s.remove(ctx, id)
}

// remove forgets a container that has ended; one that is gone already is as good.
func (s *Server) remove(ctx context.Context, id container.ID) (*answered, error) {
	err := s.Containers.Remove(ctx, id)
	if errors.Is(err, container.ErrFailedPrecondition) {
		return nil, failed(http.StatusInternalServerError, "%w", err) // Mesos: while it runs
	}
	return &answered{}, err
}

func (s *Server) updateContainer(ctx context.Context, c *call) (*answered, error) {
	m := c.GetUpdateContainer()
	id, err := containerID(m.GetContainerId(), "update_container.container_id")
	if err != nil {
		return nil, err
	}
	defer s.usages.forget(id)
	return &answered{}, s.Containers.Update(ctx, id, m.GetResources(), m.GetLimits())
}

// getContainers lists containers: root ones are standalone, in the words of Mesos.
func (s *Server) getContainers(ctx context.Context, c *call) (*answered, error) {
	m := c.GetGetContainers()
	asked := slices.DeleteFunc(s.Containers.Containers(), func(id container.ID) bool {
		_, nested := id.Parent()
		return nested && !m.GetShowNested() || !nested && !m.GetShowStandalone()
	})
	list := &v1.Response_GetContainers{Containers: s.describeAll(ctx, asked, func(one *v1.Response_GetContainers_Container) bool {
		return (one.Ended == nil || m.GetShowEnded()) &&
			c.subject.may(viewContainers, one.GetContainerId().GetParent() != nil, cmp.Or(one.GetUser(), rootUser)) == nil
	})}
	return &answered{Response: &v1.Response{Type: v1.Response_GET_CONTAINERS.Enum(), GetContainers: list}}, nil
}

// describeAll tells of those containers that are wanted, in their order. What each uses the
// kernel adds up when it is asked, so several are asked for at a time.
func (s *Server) describeAll(ctx context.Context, ids []container.ID, wanted func(*v1.Response_GetContainers_Container) bool) []*v1.Response_GetContainers_Container {
	list := make([]*v1.Response_GetContainers_Container, len(ids))
	var running atomic.Int64
	inParallel(len(ids), func(i int) {
		one := s.describe(ctx, ids[i])
		if one == nil || !wanted(one) {
			return
		}
		list[i] = one
		if one.GetState() == string(container.Running) {
			running.Add(1)
		}
	})
	inParallel(len(ids), func(i int) {
		if one := list[i]; one.GetState() == string(container.Running) {
			// Of one that ends meanwhile there is none.
			one.ResourceStatistics = s.usages.of(ctx, ids[i], time.Unix(0, one.GetLaunched().GetNanoseconds()), int(running.Load()))
		}
	})
	return slices.DeleteFunc(list, func(one *v1.Response_GetContainers_Container) bool { return one == nil })
}

// inParallel does something for each number below n.
func inParallel(n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	all.Wait()
}

// describe tells of a container, but for what it uses; nil: it is gone.
func (s *Server) describe(ctx context.Context, id container.ID) *v1.Response_GetContainers_Container {
	found, err := s.Containers.Inspect(ctx, id)
	if err != nil {
		return nil
	}
	one := &v1.Response_GetContainers_Container{
		ContainerId: containerizer.IDMessage(id), ContainerStatus: &v1.ContainerStatus{ContainerId: containerizer.IDMessage(id)},
		State: proto.String(string(found.State)), Sandbox: proto.String(s.Sandbox(id)),
		Command: found.Config.GetCommandInfo(), Container: found.Config.GetContainerInfo(), ImageArguments: found.Config.GetImageArguments(),
		User: found.Config.User, Launched: timeInfo(found.Launched), Ended: timeInfo(found.Ended),
	}
	if found.Termination != nil {
		one.Termination = EndOf(*found.Termination)
	}
	if found.Given != nil {
		proto.Merge(one.ContainerStatus, found.Given)
	}
	if found.Pid != 0 {
		one.ContainerStatus.ExecutorPid = proto.Uint32(uint32(found.Pid))
	}
	return one
}

// timeInfo is a time of the API; nil: there is none.
func timeInfo(t time.Time) *v1.TimeInfo {
	if t.IsZero() {
		return nil
	}
	return &v1.TimeInfo{Nanoseconds: proto.Int64(t.UnixNano())}
}

func (s *Server) getProcesses(ctx context.Context, c *call) (*answered, error) {
	id, err := containerID(c.GetGetProcesses().GetContainerId(), "get_processes.container_id")
	if err != nil {
		return nil, err
	}
	processes, err := s.Containers.Processes(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("list the processes of %s: %w", id, err)
	}
	list := &v1.Response_GetProcesses{}
	for _, p := range processes {
		list.Processes = append(list.Processes, &v1.Response_GetProcesses_Process{
			Pid: proto.Int64(int64(p.Pid)), Parent: proto.Int64(int64(p.Parent)), User: proto.String(fmt.Sprint(p.UID)), Command: proto.String(p.Command),
			CpuSeconds: proto.Float64(p.CPU.Seconds()), RssBytes: proto.Uint64(p.RSS), Started: timeInfo(p.Started),
		})
	}
	return &answered{Response: &v1.Response{Type: v1.Response_GET_PROCESSES.Enum(), GetProcesses: list}}, nil
}
