package containerizer

import (
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// TerminationMessage says in the words of Mesos how a container ended: the raw status of
// wait(2), and for one that was ended by a limitation what that was.
func TerminationMessage(t container.Termination) *v1.ContainerTermination {
	m := &v1.ContainerTermination{}
	if t.Status != nil {
		m.Status = proto.Int32(int32(*t.Status))
	}
	if t.Message != "" {
		m.Message = proto.String(t.Message)
	}
	l := t.Limitation
	if l == nil {
		return m
	}
	m.State = v1.TaskState_TASK_FAILED.Enum()
	if number, ok := v1.TaskStatus_Reason_value["REASON_"+string(l.Reason)]; ok {
		m.Reason = v1.TaskStatus_Reason(number).Enum()
	}
	if l.Resource != "" {
		m.LimitedResources = []*v1.Resource{{Name: proto.String(l.Resource), Type: v1.Value_SCALAR.Enum(),
			Scalar: &v1.Value_Scalar{Value: proto.Float64(l.Used)}}}
	}
	return m
}

// IDMessage is an id in the words of Mesos: a value, and the id of the parent.
func IDMessage(id container.ID) *v1.ContainerID {
	m := &v1.ContainerID{Value: proto.String(id.Value())}
	if parent, nested := id.Parent(); nested {
		m.Parent = IDMessage(parent)
	}
	return m
}
