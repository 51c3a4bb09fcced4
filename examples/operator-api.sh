#!/bin/sh
# The operator API of an agent, with curl alone:
#
#	operator-api.sh SOCKET IMAGE
#
# where SOCKET is agent.sock in the agent's --runtime_dir. It launches a container, talks
# to it, waits for it, kills one, reads files, and prunes the images.
set -eu
socket=$1 image=$2

# call JSON: one call; the answer, if it has one, is JSON.
call() {
	curl --silent --show-error --fail-with-body --unix-socket "$socket" \
		-H 'Content-Type: application/json' -H 'Accept: application/json' --data "$1" http://agent/api/v1
}

# record JSON: one record of a stream, its length before it.
record() {
	printf '%s\n%s' "$(printf %s "$1" | wc -c)" "$1"
}

# json NAME: the value of a member of the JSON on standard input, as far as that is a number or a text.
json() {
	sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p'
}

echo "the agent: version $(call '{"type": "GET_VERSION"}' | json version)"

echo "launch"
call '{"type": "LAUNCH_CONTAINER", "launch_container": {
	"container_id": {"value": "hello"}, "interactive": true,
	"command": {"value": "read name; echo hello, $name"},
	"limits": {"cpus": {"value": 0.5}, "mem": {"value": 64}},
	"resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}}, {"name": "mem", "type": "SCALAR", "scalar": {"value": 32}}],
	"container": {"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": "'"$image"'"}}}}}}'
echo "containers: $(call '{"type": "GET_CONTAINERS", "get_containers": {"show_standalone": true}}' | json state)"

echo "attach"
{
	record '{"type": "ATTACH_CONTAINER_INPUT", "attach_container_input": {"type": "CONTAINER_ID", "container_id": {"value": "hello"}}}'
	record '{"type": "ATTACH_CONTAINER_INPUT", "attach_container_input": {"type": "PROCESS_IO",
		"process_io": {"type": "DATA", "data": {"type": "STDIN", "data": "'"$(printf 'world\n' | base64)"'"}}}}'
} | curl --silent --show-error --fail-with-body --unix-socket "$socket" \
	-H 'Content-Type: application/recordio' -H 'Message-Content-Type: application/json' --data-binary @- http://agent/api/v1

echo "wait: $(call '{"type": "WAIT_CONTAINER", "wait_container": {"container_id": {"value": "hello"}}}' | json exit_status)"

echo "files"
sandbox=$(call '{"type": "GET_CONTAINERS", "get_containers": {"show_standalone": true, "show_ended": true}}' | json sandbox)
call '{"type": "LIST_FILES", "list_files": {"path": "'"$sandbox"'"}}' | tr , '\n' | sed -n 's/.*"path":".*\/\(.*\)".*/	\1/p'
call '{"type": "READ_FILE", "read_file": {"path": "'"$sandbox"'/stdout", "offset": 0}}' | json data | base64 -d
call '{"type": "REMOVE_CONTAINER", "remove_container": {"container_id": {"value": "hello"}}}'

echo "kill"
call '{"type": "LAUNCH_CONTAINER", "launch_container": {"container_id": {"value": "long"}, "command": {"value": "sleep 1000"},
	"limits": {"cpus": {"value": "Infinity"}, "mem": {"value": "Infinity"}},
	"container": {"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": "'"$image"'"}}}}}}'
call '{"type": "KILL_CONTAINER", "kill_container": {"container_id": {"value": "long"}}}'
echo "wait: $(call '{"type": "WAIT_CONTAINER", "wait_container": {"container_id": {"value": "long"}}}' | json exit_status)"
call '{"type": "REMOVE_CONTAINER", "remove_container": {"container_id": {"value": "long"}}}'

echo "prune"
call '{"type": "PRUNE_IMAGES"}'
echo "images: $(call '{"type": "GET_IMAGES"}')"
