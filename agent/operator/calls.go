package operator

import (
	"context"
	"net/http"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "berth/api/v1"
)

// answerer is who answers the calls of one type.
type answerer struct {
	// action is what a subject needs the right to.
	action action
	// needs is the message that a call of the type has to have; "" when none.
	needs protoreflect.Name
	// Of these two there is one.
	answer func(*Server, context.Context, *call) (*answered, error)
	stream func(*Server, *stream, *http.Request, *call) error
	// records: the request is a stream, or else it is not to be one.
	records bool
}

// answers has every call that the agent knows.
var answers = map[v1.Call_Type]answerer{
	v1.Call_GET_HEALTH:        {action: viewHealth, answer: (*Server).getHealth},
	v1.Call_GET_FLAGS:         {action: viewFlags, answer: (*Server).getFlags},
	v1.Call_GET_VERSION:       {action: viewHealth, answer: (*Server).getVersion},
	v1.Call_GET_METRICS:       {action: viewMetrics, needs: "get_metrics", answer: (*Server).getMetrics},
	v1.Call_GET_LOGGING_LEVEL: {action: viewFlags, answer: (*Server).getLoggingLevel},
	v1.Call_SET_LOGGING_LEVEL: {action: setLogLevel, needs: "set_logging_level", answer: (*Server).setLoggingLevel},
	v1.Call_GET_ABILITIES:     {action: viewFlags, answer: (*Server).getAbilities},

	v1.Call_LIST_FILES: {action: accessSandboxes, needs: "list_files", answer: (*Server).listFiles},
	v1.Call_READ_FILE:  {action: accessSandboxes, needs: "read_file", answer: (*Server).readFile},

	v1.Call_GET_STATE:              {action: viewContainers, answer: (*Server).getState},
	v1.Call_GET_FRAMEWORKS:         {action: viewContainers, answer: (*Server).getFrameworks},
	v1.Call_GET_EXECUTORS:          {action: viewContainers, answer: (*Server).getExecutors},
	v1.Call_GET_TASKS:              {action: viewContainers, answer: (*Server).getTasks},
	v1.Call_GET_AGENT:              {action: viewContainers, answer: (*Server).getAgent},
	v1.Call_GET_RESOURCE_PROVIDERS: {action: viewContainers, answer: (*Server).getResourceProviders},
	v1.Call_GET_OPERATIONS:         {action: viewContainers, answer: (*Server).getOperations},

	v1.Call_GET_CONTAINERS:          {action: viewContainers, answer: (*Server).getContainers},
	v1.Call_LAUNCH_CONTAINER:        {action: launchContainers, needs: "launch_container", answer: (*Server).launchContainer},
	v1.Call_LAUNCH_NESTED_CONTAINER: {action: launchContainers, needs: "launch_nested_container", answer: (*Server).launchNestedContainer},
	v1.Call_WAIT_CONTAINER:          {action: waitContainers, needs: "wait_container", answer: (*Server).waitContainer},
	v1.Call_WAIT_NESTED_CONTAINER:   {action: waitContainers, needs: "wait_nested_container", answer: (*Server).waitNestedContainer},
	v1.Call_KILL_CONTAINER:          {action: killContainers, needs: "kill_container", answer: (*Server).killContainer},
	v1.Call_KILL_NESTED_CONTAINER:   {action: killContainers, needs: "kill_nested_container", answer: (*Server).killNestedContainer},
	v1.Call_STOP_CONTAINER:          {action: killContainers, needs: "stop_container", answer: (*Server).stopContainer},
	v1.Call_REMOVE_CONTAINER:        {action: removeContainers, needs: "remove_container", answer: (*Server).removeContainer},
	v1.Call_REMOVE_NESTED_CONTAINER: {action: removeContainers, needs: "remove_nested_container", answer: (*Server).removeNestedContainer},
	v1.Call_UPDATE_CONTAINER:        {action: launchContainers, needs: "update_container", answer: (*Server).updateContainer},
	v1.Call_GET_PROCESSES:           {action: viewContainers, needs: "get_processes", answer: (*Server).getProcesses},

	v1.Call_LAUNCH_CONTAINER_SESSION:        {action: launchContainers, needs: "launch_container", stream: (*Server).launchSession},
	v1.Call_LAUNCH_NESTED_CONTAINER_SESSION: {action: launchSessions, needs: "launch_nested_container_session", stream: (*Server).launchNestedSession},
	v1.Call_ATTACH_CONTAINER_INPUT:          {action: attachInput, needs: "attach_container_input", answer: (*Server).attachInput, records: true},
	v1.Call_ATTACH_CONTAINER_OUTPUT:         {action: attachOutput, needs: "attach_container_output", stream: (*Server).attachOutput},
	v1.Call_SUBSCRIBE_EVENTS:                {action: viewContainers, stream: (*Server).subscribeEvents},

	v1.Call_PRUNE_IMAGES: {action: pruneImages, answer: (*Server).pruneImages},
	v1.Call_GET_IMAGES:   {action: viewImages, answer: (*Server).getImages},
	v1.Call_PULL_IMAGE:   {action: pullImages, needs: "pull_image", answer: (*Server).pullImage},
}

// check refuses a call that lacks its message, or whose streams do not fit its type.
func (a answerer) check(c *call) error {
	switch {
	case (c.more != nil) != a.records && a.records:
		return failed(http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of %s for the call %s", recordMedia, c.GetType())
	case (c.more != nil) != a.records:
		return failed(http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of %s or %s for the call %s", jsonMedia, protobufMedia, c.GetType())
	case c.framed && a.stream == nil:
		return failed(http.StatusNotAcceptable, "Expecting 'Accept' to allow %s or %s for the call %s", jsonMedia, protobufMedia, c.GetType())
	case a.needs == "":
		return nil
	}
	message := c.Call.ProtoReflect()
	if !message.Has(message.Descriptor().Fields().ByName(a.needs)) {
		return invalid("Expecting '%s' to be present", a.needs)
	}
	return nil
}
