package testrig

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// Chromium is a real browser without a window, driven by its DevTools protocol. It ends
// with the test.
type Chromium struct {
	tb     testing.TB
	socket *websocket.Conn
	calls  atomic.Int64
}

// Browse opens a page in a browser.
func Browse(tb testing.TB, url string) *Chromium {
	tb.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		tb.Fatalf("%v: install Debian's package chromium", err)
	}
	profile := TempDir(tb)
	cmd := exec.Command(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1200,1000",
		"--remote-debugging-port=0", "--remote-allow-origins=*", "--user-data-dir="+profile, "about:blank")
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	c := &Chromium{tb: tb}
	c.connect(profile)
	c.call("Page.navigate", map[string]any{"url": url}, nil)
	return c
}

// connect finds the first page of the browser, once that says where it answers.
func (c *Chromium) connect(profile string) {
	c.tb.Helper()
	var port, path string
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(profile, "DevToolsActivePort"))
		if lines := strings.Split(string(text), "\n"); err == nil && len(lines) > 1 {
			port, path = lines[0], lines[1]
			break
		}
		if time.Now().After(end) {
			c.tb.Fatal("chromium does not begin to answer")
		}
	}
	var err error
	if c.socket, err = websocket.Dial("ws://127.0.0.1:"+port+path, "", "http://127.0.0.1"); err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() { c.socket.Close() })
	var targets struct {
		TargetInfos []struct{ TargetID, Type string }
	}
	c.call("Target.getTargets", nil, &targets)
	for _, t := range targets.TargetInfos {
		if t.Type == "page" {
			c.socket.Close()
			if c.socket, err = websocket.Dial("ws://127.0.0.1:"+port+"/devtools/page/"+t.TargetID, "", "http://127.0.0.1"); err != nil {
				c.tb.Fatal(err)
			}
			return
		}
	}
	c.tb.Fatalf("chromium has no page: %+v", targets)
}

// call calls a method and waits for its answer; events in between are passed over.
func (c *Chromium) call(method string, params map[string]any, result any) {
	c.tb.Helper()
	id := c.calls.Add(1)
	if err := websocket.JSON.Send(c.socket, map[string]any{"id": id, "method": method, "params": params}); err != nil {
		c.tb.Fatal(err)
	}
	for {
		var answer struct {
			ID     int64
			Result json.RawMessage
			Error  json.RawMessage
		}
		if err := websocket.JSON.Receive(c.socket, &answer); err != nil {
			c.tb.Fatalf("%s: %v", method, err)
		}
		if answer.ID != id {
			continue
		}
		if answer.Error != nil {
			c.tb.Fatalf("%s: %s", method, answer.Error)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				c.tb.Fatal(err)
			}
		}
		return
	}
}

// Eval evaluates an expression in the page, and returns its value as text.
func (c *Chromium) Eval(expression string) string {
	c.tb.Helper()
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	c.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		c.tb.Fatalf("%s: %s", expression, answer.ExceptionDetails)
	}
	return fmt.Sprint(answer.Result.Value)
}

// Await waits until an expression is true in the page.
func (c *Chromium) Await(expression string) {
	c.tb.Helper()
	for end := time.Now().Add(time.Minute); c.Eval("Boolean("+expression+")") != "true"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.tb.Fatalf("the page is not as it should be: %s\n%s", expression, c.Eval("document.body.innerText"))
		}
	}
}

// Press presses a key, as a person would.
func (c *Chromium) Press(key string, code int) {
	c.tb.Helper()
	text := map[string]string{"Enter": "\r"}[key]
	for _, kind := range []string{"keyDown", "keyUp"} {
		c.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}, nil)
	}
}

// Screenshot writes a picture of the page, as PNG.
func (c *Chromium) Screenshot(path string) {
	c.tb.Helper()
	var answer struct{ Data string }
	c.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": false}, &answer)
	data, err := base64.StdEncoding.DecodeString(answer.Data)
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		c.tb.Fatal(err)
	}
}
