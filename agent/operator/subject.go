package operator

import (
	"cmp"
	"context"
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "berth/api/v1"
	"berth/container"
)

// Subject is who asks.
type Subject struct {
	// Principal is the name under which somebody has shown who they are; "" for who comes
	// by the agent's own socket, which only root can: that one may do everything.
	Principal string
	// ACLs say what the principal may do.
	ACLs *ACLs
}

type subjectKey struct{}

// WithSubject returns a context of a request of somebody.
func WithSubject(ctx context.Context, s Subject) context.Context {
	return context.WithValue(ctx, subjectKey{}, s)
}

// subjectOf is who asks; without one, nobody, who may do nothing.
func subjectOf(ctx context.Context) Subject {
	s, ok := ctx.Value(subjectKey{}).(Subject)
	if !ok {
		return Subject{Principal: "nobody", ACLs: &ACLs{}}
	}
	return s
}

// action is what calls of some types do, for which a right is needed.
type action string

// The actions. Those on containers have one ACL for root containers, which Mesos calls
// standalone, and one for nested ones.
const (
	viewHealth       action = "view_health" // everybody may who has shown who they are
	viewFlags        action = "view_flags"
	viewMetrics      action = "view_metrics"
	setLogLevel      action = "set_log_level"
	accessSandboxes  action = "access_sandboxes"
	viewContainers   action = "view_containers"
	launchContainers action = "launch"
	launchSessions   action = "launch_nested_container_sessions_as_user"
	waitContainers   action = "wait"
	killContainers   action = "kill"
	removeContainers action = "remove"
	attachInput      action = "attach_containers_input"
	attachOutput     action = "attach_containers_output"
	pruneImages      action = "prune_images"
	viewImages       action = "view_images"
	pullImages       action = "pull_images"
)

// acl names the list that has the say on an action.
func (a action) acl(nested bool) string {
	switch a {
	case launchContainers:
		if nested {
			return "launch_nested_containers_as_user"
		}
		return "launch_standalone_containers"
	case waitContainers, killContainers, removeContainers:
		if nested {
			return string(a) + "_nested_containers"
		}
		return string(a) + "_standalone_containers"
	case viewContainers:
		if !nested {
			return "view_standalone_containers"
		}
	}
	return string(a)
}

// may refuses what a subject has no right to: an action on a container of a user, or on
// nothing in particular.
func (s Subject) may(a action, nested bool, user string) error {
	if s.Principal == "" || a == viewHealth || s.ACLs.allow(s.Principal, a.acl(nested), user) {
		return nil
	}
	return fmt.Errorf("%w: %q has not the right %s", container.ErrDenied, s.Principal, a.acl(nested))
}

// authorize refuses a call that its subject has no right to. The user of a container that
// is there counts, and of a launch the one that is asked for.
func (s *Server) authorize(ctx context.Context, a answerer, c *call) error {
	if c.subject.Principal == "" || a.action == viewContainers && a.needs == "" { // lists are filtered
		return nil
	}
	id, named := containerOf(c, a.needs)
	if a.action == accessSandboxes {
		at, err := s.locate(cmp.Or(c.GetListFiles().GetPath(), c.GetReadFile().GetPath()))
		id, named = at.of, err == nil
	}
	if !named {
		return c.subject.may(a.action, false, "")
	}
	parent, nested := id.Parent()
	if a.action != launchContainers && a.action != launchSessions {
		return c.subject.may(a.action, nested, s.userOf(ctx, id))
	}
	asked := cmp.Or(c.GetLaunchContainer().GetCommand().GetUser(), c.GetLaunchNestedContainer().GetCommand().GetUser(),
		c.GetLaunchNestedContainerSession().GetCommand().GetUser(), rootUser)
	if nested {
		if err := c.subject.may(a.action.under(), true, s.userOf(ctx, parent)); err != nil {
			return err
		}
	}
	return c.subject.may(a.action, nested, asked)
}

// rootUser is the user of a container of which nobody said another one.
const rootUser = "root"

// under is the right to launch something in a container of a user.
func (a action) under() action {
	if a == launchSessions {
		return "launch_nested_container_sessions_under_parent_with_user"
	}
	return "launch_nested_containers_under_parent_with_user"
}

// userOf is the user that a container runs as, by the name that was asked for.
func (s *Server) userOf(ctx context.Context, id container.ID) string {
	found, _ := s.Containers.Inspect(ctx, id)
	return cmp.Or(found.Config.GetUser(), rootUser)
}

// containerOf is the container that the message of a call names. Whether it is a good name
// is for who answers the call to say.
func containerOf(c *call, message protoreflect.Name) (id container.ID, named bool) {
	if message == "" {
		return id, false
	}
	m := c.Call.ProtoReflect()
	inner := m.Get(m.Descriptor().Fields().ByName(message)).Message()
	field := inner.Descriptor().Fields().ByName("container_id")
	if field == nil || !inner.Has(field) {
		return id, false
	}
	id, err := idOf(inner.Get(field).Message().Interface().(*v1.ContainerID))
	return id, err == nil
}
