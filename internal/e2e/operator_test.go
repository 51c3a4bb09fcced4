//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"berth/agent/client"
	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/recordio"
	"berth/internal/testrig"
)

// operator asks an agent in one of the two encodings.
type operator struct {
	*testing.T
	http   *http.Client
	asJSON bool
}

func newOperator(t *testing.T, b *testrig.Command, asJSON bool) *operator {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(b.RuntimeDir, "agent.sock"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &operator{t, &http.Client{Transport: transport}, asJSON}
}

func (o *operator) encode(m proto.Message) []byte {
	o.Helper()
	data, err := proto.Marshal(m)
	if o.asJSON {
		data, err = v1.Marshal(m)
	}
	if err != nil {
		o.Fatal(err)
	}
	return data
}

func (o *operator) decode(data []byte, m proto.Message) {
	o.Helper()
	err := proto.Unmarshal(data, m)
	if o.asJSON {
		err = v1.Unmarshal(data, m)
	}
	if err != nil {
		o.Fatalf("%v in the answer %.200q", err, data)
	}
}

func (o *operator) media() string {
	if o.asJSON {
		return "application/json"
	}
	return "application/x-protobuf"
}

// call asks, and returns the status and the body.
func (o *operator) call(call *v1.Call) (int, []byte) {
	o.Helper()
	request, err := http.NewRequestWithContext(o.Context(), "POST", "http://agent/api/v1", bytes.NewReader(o.encode(call)))
	if err != nil {
		o.Fatal(err)
	}
	request.Header.Set("Content-Type", o.media())
	request.Header.Set("Accept", o.media())
	answer, err := o.http.Do(request)
	if err != nil {
		o.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		o.Fatal(err)
	}
	return answer.StatusCode, body
}

// isOfItsClass: of a call that is refused with 400 the client knows the class all the same.
func (o *operator) isOfItsClass(b *testrig.Command, call *v1.Call, class error) {
	o.Helper()
	agent := client.New(filepath.Join(b.RuntimeDir, "agent.sock"))
	defer agent.Close()
	var refused *client.Error
	if _, _, err := agent.Call(o.Context(), call); !errors.As(err, &refused) || refused.Code != 400 || !errors.Is(err, class) {
		o.Errorf("%s: %v; want 400 and %v", call.GetType(), err, class)
	}
}

// expect asks what is to be answered by a status, and some words.
func (o *operator) expect(call *v1.Call, code int, words string) {
	o.Helper()
	if got, body := o.call(call); got != code || !strings.Contains(string(body), words) {
		o.Errorf("%s: %d %.300q; want %d and %q", call.GetType(), got, body, code, words)
	}
}

// answer asks what is to be answered by a message.
func (o *operator) answer(call *v1.Call) *v1.Response {
	o.Helper()
	code, body := o.call(call)
	if code != 200 {
		o.Fatalf("%s: %d %q", call.GetType(), code, body)
	}
	response := &v1.Response{}
	o.decode(body, response)
	return response
}

// stream begins a stream of records.
func (o *operator) stream(call *v1.Call) (io.Closer, *recordio.Reader) {
	o.Helper()
	request, err := http.NewRequestWithContext(o.Context(), "POST", "http://agent/api/v1", bytes.NewReader(o.encode(call)))
	if err != nil {
		o.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {o.media()}, "Accept": {"application/recordio"}, "Message-Accept": {o.media()}}
	answer, err := o.http.Do(request)
	if err != nil {
		o.Fatal(err)
	}
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/recordio" || answer.Header.Get("Message-Content-Type") != o.media() {
		body, _ := io.ReadAll(answer.Body)
		o.Fatalf("%s: %s %v %q", call.GetType(), answer.Status, answer.Header, body)
	}
	return answer.Body, recordio.NewReader(answer.Body, 1<<20)
}

// output reads a stream of ProcessIO to its end.
func (o *operator) output(call *v1.Call) (stdout, stderr string) {
	o.Helper()
	body, records := o.stream(call)
	defer body.Close()
	for {
		record, err := records.Next()
		if err == io.EOF {
			return stdout, stderr
		}
		if err != nil {
			o.Fatal(err)
		}
		m := &v1.ProcessIO{}
		o.decode(record, m)
		switch m.GetData().GetType() {
		case v1.ProcessIO_Data_STDOUT:
			stdout += string(m.GetData().GetData())
		case v1.ProcessIO_Data_STDERR:
			stderr += string(m.GetData().GetData())
		}
	}
}

// input writes to a container, and returns how the agent answers.
func (o *operator) input(id *v1.ContainerID, messages ...*v1.ProcessIO) (int, string) {
	o.Helper()
	record := func(m *v1.Call_AttachContainerInput) []byte {
		return recordio.Append(nil, o.encode(&v1.Call{Type: v1.Call_ATTACH_CONTAINER_INPUT.Enum(), AttachContainerInput: m}))
	}
	body := record(&v1.Call_AttachContainerInput{Type: v1.Call_AttachContainerInput_CONTAINER_ID.Enum(), ContainerId: id})
	for _, m := range messages {
		body = append(body, record(&v1.Call_AttachContainerInput{Type: v1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: m})...)
	}
	request, err := http.NewRequestWithContext(o.Context(), "POST", "http://agent/api/v1", bytes.NewReader(body))
	if err != nil {
		o.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {"application/recordio"}, "Message-Content-Type": {o.media()}, "Accept": {o.media()}}
	answer, err := o.http.Do(request)
	if err != nil {
		o.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		o.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func typed(text string) *v1.ProcessIO {
	return &v1.ProcessIO{Type: v1.ProcessIO_DATA.Enum(), Data: &v1.ProcessIO_Data{Type: v1.ProcessIO_Data_STDIN.Enum(), Data: []byte(text)}}
}

func rootID(value string) *v1.ContainerID { return &v1.ContainerID{Value: proto.String(value)} }

func childID(parent, value string) *v1.ContainerID {
	return &v1.ContainerID{Value: proto.String(value), Parent: rootID(parent)}
}

func script(text string) *v1.CommandInfo {
	return &v1.CommandInfo{Value: proto.String(text)}
}

func launchOf(id *v1.ContainerID, image string, command *v1.CommandInfo) *v1.Call {
	return &v1.Call{Type: v1.Call_LAUNCH_CONTAINER.Enum(), LaunchContainer: &v1.Call_LaunchContainer{ContainerId: id, Command: command, Limits: unlimited(),
		Container: &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum(), Mesos: &v1.ContainerInfo_MesosInfo{
			Image: &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String(image)}}}}}}
}

// unlimited says that there are no limits of what has to be said.
func unlimited() map[string]*v1.Value_Scalar {
	return map[string]*v1.Value_Scalar{"cpus": {Value: proto.Float64(math.Inf(1))}, "mem": {Value: proto.Float64(math.Inf(1))}}
}

func waitOf(id *v1.ContainerID) *v1.Call {
	return &v1.Call{Type: v1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &v1.Call_WaitContainer{ContainerId: id}}
}

func killOf(id *v1.ContainerID, signal *int32) *v1.Call {
	return &v1.Call{Type: v1.Call_KILL_CONTAINER.Enum(), KillContainer: &v1.Call_KillContainer{ContainerId: id, Signal: signal}}
}

func removeOf(id *v1.ContainerID) *v1.Call {
	return &v1.Call{Type: v1.Call_REMOVE_CONTAINER.Enum(), RemoveContainer: &v1.Call_RemoveContainer{ContainerId: id}}
}

// bothWays runs a test with each encoding, on an agent of its own.
func bothWays(t *testing.T, test func(o *operator, b *testrig.Command, image string)) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	for name, asJSON := range map[string]bool{"JSON": true, "protobuf": false} {
		t.Run(name, func(t *testing.T) {
			b := testrig.Berth(t)
			agent := startAgent(t, b)
			test(newOperator(t, b, asJSON), b, image)
			agent.Signal(syscall.SIGTERM)
			expect(t, agent.Wait(), 0)
			wantNoContainers(t, b)
		})
	}
}

// wantNoContainers allows for images.
func wantNoContainers(t *testing.T, b *testrig.Command) {
	t.Helper()
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// hasSaid waits until a container has written so much to its standard output.
func hasSaid(t *testing.T, b *testrig.Command, id, text string) {
	t.Helper()
	await(t, func() bool {
		said, err := os.ReadFile(filepath.Join(b.WorkDir, "containers", id, "stdout"))
		return err == nil && string(said) == text
	})
}

func TestOperatorLaunchesWaitsKillsAndRemoves(t *testing.T) {
	bothWays(t, func(o *operator, b *testrig.Command, image string) {
		web := rootID("web")
		o.expect(launchOf(web, image, script("trap 'exit 9' TERM; echo oops >&2; echo hello; while :; do sleep 0.01; done")), 200, "")
		hasSaid(o.T, b, "web", "hello\n") // from now on it minds the signal
		o.expect(launchOf(web, image, script("true")), 202, "")
		o.expect(removeOf(web), 500, "destroy it first")

		all := &v1.Call{Type: v1.Call_GET_CONTAINERS.Enum(), GetContainers: &v1.Call_GetContainers{ShowStandalone: proto.Bool(true), ShowNested: proto.Bool(true)}}
		found := o.answer(all).GetGetContainers().GetContainers()
		if len(found) != 1 || !proto.Equal(found[0].GetContainerId(), web) || found[0].GetContainerStatus().GetExecutorPid() == 0 ||
			found[0].GetResourceStatistics().GetMemTotalBytes() == 0 || found[0].GetState() != "RUNNING" {
			o.Errorf("the containers are %v", found)
		}
		if found := o.answer(&v1.Call{Type: v1.Call_GET_CONTAINERS.Enum()}).GetGetContainers().GetContainers(); len(found) != 0 {
			o.Errorf("those of executors are %v", found)
		}
		o.expect(killOf(web, proto.Int32(99)), 500, "")
		o.expect(killOf(web, proto.Int32(15)), 200, "")
		for range 2 { // the result stays
			ended := o.answer(waitOf(web))
			if ended.GetType() != v1.Response_WAIT_CONTAINER || ended.GetWaitContainer().GetExitStatus() != 9<<8 || ended.GetWaitContainer().State != nil {
				o.Errorf("it ended with %v", ended)
			}
		}
		o.expect(killOf(web, nil), 404, "cannot be found (or is already killed)")
		o.expect(launchOf(web, image, script("true")), 400, "already exists")

		read := &v1.Call{Type: v1.Call_READ_FILE.Enum(), ReadFile: &v1.Call_ReadFile{Path: proto.String(""), Offset: proto.Uint64(1), Length: proto.Uint64(3)}}
		all.GetContainers.ShowEnded = proto.Bool(true)
		found = o.answer(all).GetGetContainers().GetContainers()
		if len(found) != 1 || found[0].GetState() != "ENDED" || found[0].GetTermination().GetExitStatus() != 9<<8 {
			o.Fatalf("the ended containers are %v", found)
		}
		read.ReadFile.Path = proto.String(found[0].GetSandbox() + "/stdout")
		if file := o.answer(read).GetReadFile(); file.GetSize() != 6 || string(file.GetData()) != "ell" {
			o.Errorf("of its output there is %v", file)
		}
		list := &v1.Call{Type: v1.Call_LIST_FILES.Enum(), ListFiles: &v1.Call_ListFiles{Path: proto.String(found[0].GetSandbox())}}
		infos := o.answer(list).GetListFiles().GetFileInfos()
		if len(infos) < 2 || filepath.Base(infos[0].GetPath()) != "stderr" || infos[0].GetSize() != 5 || infos[0].GetUid() != "root" || infos[0].GetMode() != 0o100644 {
			o.Errorf("its sandbox has %v", infos)
		}
		o.expect(removeOf(web), 200, "")
		o.expect(removeOf(web), 200, "")
		o.expect(waitOf(web), 404, "Container web cannot be found")
		o.expect(list, 404, "no sandbox")
		o.expect(launchOf(web, image, &v1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/no/such/program")}), 400, "/no/such/program")
		o.expect(launchOf(web, "127.0.0.1:1/no/such:image", nil), 400, "no/such")
		o.isOfItsClass(b, launchOf(web, "127.0.0.1:1/no/such:image", nil), container.ErrUnavailable)
		o.isOfItsClass(b, launchOf(web, "127.0.0.1:1/NO", nil), container.ErrInvalid)
		o.expect(launchOf(web, image, script("true")), 200, "")
		o.answer(waitOf(web))
		o.isOfItsClass(b, launchOf(web, image, script("true")), container.ErrExists)
		o.expect(removeOf(web), 200, "")
		unsaid := launchOf(web, image, script("true"))
		unsaid.LaunchContainer.Limits = nil
		o.expect(unsaid, 400, "No cpus resource given")
		none := launchOf(web, image, script("true"))
		none.LaunchContainer.Resources = []*v1.Resource{{Name: proto.String("cpus"), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(-1)}}}
		o.expect(none, 400, "-1 is no amount")
	})
}

func TestOperatorLooksAfterNestedContainersAndSessions(t *testing.T) {
	bothWays(t, func(o *operator, _ *testrig.Command, image string) {
		o.expect(launchOf(rootID("pod"), image, script("sleep 1000")), 200, "")
		child := childID("pod", "child")
		o.expect(&v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{ContainerId: rootID("x")}}, 400, "container_id.parent' to be present")
		o.expect(&v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{ContainerId: child, Command: script("exit 5")}}, 200, "")
		for range 2 {
			ended := o.answer(&v1.Call{Type: v1.Call_WAIT_NESTED_CONTAINER.Enum(), WaitNestedContainer: &v1.Call_WaitNestedContainer{ContainerId: child}})
			if ended.GetWaitNestedContainer().GetExitStatus() != 5<<8 {
				o.Errorf("the child ended with %v", ended)
			}
		}
		o.expect(&v1.Call{Type: v1.Call_REMOVE_NESTED_CONTAINER.Enum(), RemoveNestedContainer: &v1.Call_RemoveNestedContainer{ContainerId: child}}, 200, "")

		session := &v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(), LaunchNestedContainerSession: &v1.Call_LaunchNestedContainerSession{
			ContainerId: childID("pod", "look"), Command: script("echo out; echo err >&2; exit 4"), Interactive: proto.Bool(false)}}
		if stdout, stderr := o.output(session); stdout != "out\n" || stderr != "err\n" {
			o.Errorf("the session said %q, %q", stdout, stderr)
		}
		if ended := o.answer(waitOf(childID("pod", "look"))); ended.GetWaitContainer().GetExitStatus() != 4<<8 {
			o.Errorf("the session ended with %v", ended)
		}
		// With the connection goes the session.
		session.LaunchNestedContainerSession.ContainerId, session.LaunchNestedContainerSession.Command = childID("pod", "stay"), script("echo here; sleep 1000")
		body, records := o.stream(session)
		if _, err := records.Next(); err != nil {
			o.Fatal(err)
		}
		body.Close()
		if ended := o.answer(waitOf(childID("pod", "stay"))); ended.GetWaitContainer().GetExitStatus() != int32(syscall.SIGKILL) {
			o.Errorf("the session whose client has gone ended with %v", ended)
		}
		o.expect(killOf(rootID("pod"), nil), 200, "")
		o.answer(waitOf(rootID("pod")))
		o.expect(removeOf(rootID("pod")), 200, "")
	})
}

func TestOperatorAttachesToStreams(t *testing.T) {
	bothWays(t, func(o *operator, b *testrig.Command, image string) {
		cat := launchOf(rootID("cat"), image, script("cat; echo end"))
		cat.LaunchContainer.Interactive = proto.Bool(true)
		o.expect(cat, 200, "")
		if code, text := o.input(rootID("cat"), typed("one\n")); code != 200 {
			o.Errorf("input: %d %q", code, text)
		}
		held, err := client.New(filepath.Join(b.RuntimeDir, "agent.sock")).Input(o.Context(), rootID("cat"))
		if err != nil {
			o.Fatal(err)
		}
		if _, err := held.Write([]byte("two\n")); err != nil {
			o.Fatal(err)
		}
		hasSaid(o.T, b, "cat", "one\ntwo\n") // the connection is there
		if code, text := o.input(rootID("cat"), typed("no\n")); code != 409 || !strings.Contains(text, "Multiple input connections") {
			o.Errorf("a second input: %d %q", code, text)
		}
		// Who has not ended his stream is told, too, and by a class.
		second, err := client.New(filepath.Join(b.RuntimeDir, "agent.sock")).Input(o.Context(), rootID("cat"))
		if err != nil {
			o.Fatal(err)
		}
		<-second.Done()
		if err := second.Close(); !errors.Is(err, container.ErrExists) {
			o.Errorf("a second input that goes on: %v", err)
		}
		if err := held.Close(); err != nil {
			o.Error(err)
		}
		if code, text := o.input(rootID("cat"), typed("three\n"), typed("")); code != 200 {
			o.Errorf("the end of the input: %d %q", code, text)
		}
		output := &v1.Call{Type: v1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &v1.Call_AttachContainerOutput{
			ContainerId: rootID("cat"), FromBeginning: proto.Bool(true)}}
		if stdout, stderr := o.output(output); stdout != "one\ntwo\nthree\nend\n" || stderr != "" {
			o.Errorf("it said %q, %q", stdout, stderr)
		}
		o.expect(&v1.Call{Type: v1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &v1.Call_AttachContainerOutput{ContainerId: rootID("none")}}, 404, "none")
		if code, _ := o.input(rootID("none"), typed("x")); code != 404 {
			o.Errorf("input of no container: %d", code)
		}
		o.answer(waitOf(rootID("cat")))
		o.expect(removeOf(rootID("cat")), 200, "")

		shell := launchOf(rootID("tty"), image, script(`until [ "$(stty size)" = "30 100" ]; do sleep 0.01; done; read line; echo got $line`))
		shell.LaunchContainer.Container.TtyInfo = &v1.TTYInfo{WindowSize: &v1.TTYInfo_WindowSize{Rows: proto.Uint32(10), Columns: proto.Uint32(20)}}
		o.expect(shell, 200, "")
		window := &v1.ProcessIO{Type: v1.ProcessIO_CONTROL.Enum(), Control: &v1.ProcessIO_Control{Type: v1.ProcessIO_Control_TTY_INFO.Enum(),
			TtyInfo: &v1.TTYInfo{WindowSize: &v1.TTYInfo_WindowSize{Rows: proto.Uint32(30), Columns: proto.Uint32(100)}}}}
		beat := &v1.ProcessIO{Type: v1.ProcessIO_CONTROL.Enum(), Control: &v1.ProcessIO_Control{Type: v1.ProcessIO_Control_HEARTBEAT.Enum()}}
		if code, text := o.input(rootID("tty"), beat, window, typed("a word\n")); code != 200 {
			o.Errorf("input of a terminal: %d %q", code, text)
		}
		output.AttachContainerOutput.ContainerId = rootID("tty")
		if stdout, _ := o.output(output); !strings.Contains(stdout, "got a word") {
			o.Errorf("the terminal said %q", stdout)
		}
		o.answer(waitOf(rootID("tty")))
		o.expect(removeOf(rootID("tty")), 200, "")
	})
}

func TestOperatorAsksOfTheAgentItself(t *testing.T) {
	bothWays(t, func(o *operator, b *testrig.Command, image string) {
		for call, check := range map[v1.Call_Type]func(*v1.Response) bool{
			v1.Call_GET_HEALTH:             func(r *v1.Response) bool { return r.GetGetHealth().GetHealthy() },
			v1.Call_GET_VERSION:            func(r *v1.Response) bool { return r.GetGetVersion().GetVersionInfo().GetVersion() != "" },
			v1.Call_GET_FLAGS:              func(r *v1.Response) bool { return flagOf(r, "work_dir") == b.WorkDir },
			v1.Call_GET_LOGGING_LEVEL:      func(r *v1.Response) bool { return r.GetGetLoggingLevel().GetLevel() == 0 },
			v1.Call_GET_STATE:              func(r *v1.Response) bool { return r.GetGetState().GetGetTasks() != nil },
			v1.Call_GET_TASKS:              func(r *v1.Response) bool { return r.GetGetTasks() != nil },
			v1.Call_GET_EXECUTORS:          func(r *v1.Response) bool { return r.GetGetExecutors() != nil },
			v1.Call_GET_FRAMEWORKS:         func(r *v1.Response) bool { return r.GetGetFrameworks() != nil },
			v1.Call_GET_AGENT:              func(r *v1.Response) bool { return r.GetGetAgent() != nil },
			v1.Call_GET_OPERATIONS:         func(r *v1.Response) bool { return r.GetGetOperations() != nil },
			v1.Call_GET_RESOURCE_PROVIDERS: func(r *v1.Response) bool { return r.GetGetResourceProviders() != nil },
			v1.Call_GET_ABILITIES:          func(r *v1.Response) bool { return len(r.GetGetAbilities().GetIsolators()) > 5 },
		} {
			if answer := o.answer(&v1.Call{Type: call.Enum()}); answer.GetType().String() != call.String() || !check(answer) {
				o.Errorf("%s: %v", call, answer)
			}
		}
		metrics := o.answer(&v1.Call{Type: v1.Call_GET_METRICS.Enum(), GetMetrics: &v1.Call_GetMetrics{}}).GetGetMetrics().GetMetrics()
		if len(metrics) < 5 {
			o.Errorf("the metrics are %v", metrics)
		}
		o.expect(&v1.Call{Type: v1.Call_SET_LOGGING_LEVEL.Enum(), SetLoggingLevel: &v1.Call_SetLoggingLevel{
			Level: proto.Uint32(1), Duration: &v1.DurationInfo{Nanoseconds: proto.Int64(int64(50 * time.Millisecond))}}}, 200, "")
		if level := o.answer(&v1.Call{Type: v1.Call_GET_LOGGING_LEVEL.Enum()}).GetGetLoggingLevel().GetLevel(); level != 1 {
			o.Logf("the level is %d: it is back already", level)
		}
		await(o.T, func() bool {
			return o.answer(&v1.Call{Type: v1.Call_GET_LOGGING_LEVEL.Enum()}).GetGetLoggingLevel().GetLevel() == 0
		})

		img := &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String(image)}}
		pulled := o.answer(&v1.Call{Type: v1.Call_PULL_IMAGE.Enum(), PullImage: &v1.Call_PullImage{Image: img}}).GetPullImage()
		images := o.answer(&v1.Call{Type: v1.Call_GET_IMAGES.Enum()}).GetGetImages().GetImages()
		if len(images) != 1 || images[0].GetReference() != pulled.GetReference() || images[0].GetId() != pulled.GetId() || len(images[0].GetLayers()) == 0 || images[0].GetOwnBytes() == 0 {
			o.Errorf("pulled %v, and the images are %v", pulled, images)
		}
		prune := &v1.Call{Type: v1.Call_PRUNE_IMAGES.Enum(), PruneImages: &v1.Call_PruneImages{ExcludedImages: []*v1.Image{img}}}
		o.expect(prune, 200, "")
		if images := o.answer(&v1.Call{Type: v1.Call_GET_IMAGES.Enum()}).GetGetImages().GetImages(); len(images) != 1 {
			o.Errorf("after a prune that excludes it the images are %v", images)
		}
		o.expect(&v1.Call{Type: v1.Call_PRUNE_IMAGES.Enum()}, 200, "")
		if images := o.answer(&v1.Call{Type: v1.Call_GET_IMAGES.Enum()}).GetGetImages().GetImages(); len(images) != 0 {
			o.Errorf("after a prune the images are %v", images)
		}
	})
}

func flagOf(r *v1.Response, name string) string {
	for _, f := range r.GetGetFlags().GetFlags() {
		if f.GetName() == name {
			return f.GetValue()
		}
	}
	return ""
}

// What a container does to its sandbox is nobody's way out of it.
func TestOperatorReadsNothingButTheSandbox(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	agent := startAgent(t, b)
	o := newOperator(t, b, true)
	o.expect(launchOf(rootID("c"), image, script("cd $MESOS_SANDBOX; ln -s /etc/passwd out; ln -s stdout in; mkfifo fifo; mkdir dir; echo ready; sleep 1000")), 200, "")
	sandbox := filepath.Join(b.WorkDir, "containers", "c")
	read := func(path string) *v1.Call {
		return &v1.Call{Type: v1.Call_READ_FILE.Enum(), ReadFile: &v1.Call_ReadFile{Path: proto.String(path), Offset: proto.Uint64(0)}}
	}
	await(t, func() bool {
		_, body := o.call(read(sandbox + "/stdout"))
		return strings.Contains(string(body), "cmVhZHkK") // "ready"
	})
	o.expect(read(sandbox+"/in"), 200, "cmVhZHkK")
	for path, want := range map[string]struct {
		code  int
		words string
	}{
		sandbox + "/out":         {400, "leads out of the sandbox"},
		sandbox + "/fifo":        {400, "no plain file"},
		sandbox + "/dir":         {400, "no plain file"},
		sandbox + "/none":        {404, "not found"},
		sandbox + "/stdout/x":    {404, "not found"},
		sandbox + "/../c/stdout": {400, ".."},
		sandbox + "x/stdout":     {404, "no sandbox"},
		"/etc/passwd":            {404, "no sandbox"},
		"":                       {404, "no sandbox"},
		sandbox + "/\x00":        {400, "zero byte"},
	} {
		o.expect(read(path), want.code, want.words)
	}
	o.expect(killOf(rootID("c"), nil), 200, "")
	o.answer(waitOf(rootID("c")))
	o.expect(removeOf(rootID("c")), 200, "")
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}

// The agent is killed, and the next one knows what the first one knew.
func TestContainersOutliveTheAgent(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	agent := startAgent(t, b)
	o := newOperator(t, b, false)
	o.expect(launchOf(rootID("runs"), image, script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")), 200, "")
	hasSaid(t, b, "runs", "ready\n")
	o.expect(launchOf(rootID("ends"), image, script("exit 3")), 200, "")
	o.answer(waitOf(rootID("ends")))
	done := make(chan error, 1)
	go func() { // a client that waits is told that there is nobody any more
		c := client.New(filepath.Join(b.RuntimeDir, "agent.sock"))
		defer c.Close()
		_, _, err := c.Call(context.Background(), waitOf(rootID("runs")))
		done <- err
	}()
	agent.Signal(syscall.SIGKILL)
	agent.Wait()
	var refused *client.Error
	if err := <-done; err == nil || errors.As(err, &refused) {
		t.Errorf("a client of a killed agent: %v", err)
	}
	agent = startAgent(t, b)
	if ended := o.answer(waitOf(rootID("ends"))); ended.GetWaitContainer().GetExitStatus() != 3<<8 {
		t.Errorf("what had ended: %v", ended)
	}
	o.expect(killOf(rootID("runs"), proto.Int32(15)), 200, "")
	if ended := o.answer(waitOf(rootID("runs"))); ended.GetWaitContainer().GetExitStatus() != 9<<8 {
		t.Errorf("what ran on: %v", ended)
	}
	o.expect(launchOf(rootID("left"), image, script("sleep 1000")), 200, "")
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	// What a stop has left running, a start can clean up.
	agent = startAgent(t, b, "--recover=cleanup")
	found := o.answer(&v1.Call{Type: v1.Call_GET_CONTAINERS.Enum(), GetContainers: &v1.Call_GetContainers{ShowStandalone: proto.Bool(true), ShowEnded: proto.Bool(true)}})
	if len(found.GetGetContainers().GetContainers()) != 0 {
		t.Errorf("after a cleanup there are %v", found)
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}

func TestResultsAreKeptForAWhile(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	agent := startAgent(t, b, "--completed_retention=1s")
	o := newOperator(t, b, true)
	o.expect(launchOf(rootID("old"), image, script("true")), 200, "")
	own := launchOf(rootID("own"), image, script("true"))
	own.LaunchContainer.AutoRemove = proto.Bool(true)
	o.expect(own, 200, "")
	o.answer(waitOf(rootID("old")))
	for _, id := range []string{"old", "own"} {
		await(t, func() bool { code, _ := o.call(waitOf(rootID(id))); return code == 404 })
		if _, err := os.Stat(filepath.Join(b.WorkDir, "containers", id)); !os.IsNotExist(err) {
			t.Errorf("the sandbox of %s: %v", id, err)
		}
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}

// Letter for letter what the founding document says after the program's name.
func TestTheFoundingDocumentsCommandLineStartsTheAgent(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1", "--config.env=FROM=image")
	b := testrig.Berth(t)
	agent := startAgent(t, b, strings.Fields("--containerizers=mesos --image_providers=appc,docker --image_provisioner_backend=copy --isolation=filesystem/linux")...)
	o := newOperator(t, b, true)
	o.expect(launchOf(rootID("c"), image, script("test $FROM = image && exit 6")), 200, "")
	if ended := o.answer(waitOf(rootID("c"))); ended.GetWaitContainer().GetExitStatus() != 6<<8 {
		t.Errorf("%v", ended)
	}
	o.expect(removeOf(rootID("c")), 200, "")
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
	expect(t, b.Run("agent", "--containerizers=docker"), 125, "--containerizers", "mesos")
	expect(t, b.Run("agent", "--image_provider=docker"), 125, "did you mean --image_providers?")
}
