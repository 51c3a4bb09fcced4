package containerizer_test

import (
	"syscall"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

func TestTheWordsOfMesosForATermination(t *testing.T) {
	status := syscall.WaitStatus(9)
	got := containerizer.TerminationMessage(container.Termination{Status: &status, Message: "too much",
		Limitation: &container.Limitation{Reason: container.ReasonLimitationMemory, Resource: "mem", Used: 63.5}})
	if got.GetStatus() != 9 || got.GetState() != v1.TaskState_TASK_FAILED || got.GetReason() != v1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY ||
		got.GetMessage() != "too much" || len(got.GetLimitedResources()) != 1 || got.GetLimitedResources()[0].GetScalar().GetValue() != 63.5 {
		t.Errorf("%v", got)
	}
	for _, reason := range []container.Reason{container.ReasonLimitation, container.ReasonLimitationDisk, container.ReasonLimitationMemory} {
		if m := containerizer.TerminationMessage(container.Termination{Limitation: &container.Limitation{Reason: reason}}); m.Reason == nil {
			t.Errorf("%s has no word", reason)
		}
	}
	if m := containerizer.TerminationMessage(container.Termination{}); m.Status != nil || m.State != nil || m.Reason != nil {
		t.Errorf("of nothing: %v", m)
	}
}
