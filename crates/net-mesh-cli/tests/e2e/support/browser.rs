//! A headless Chromium, driven over the DevTools protocol: JSON objects, each ended by a zero byte, on two pipes that
//! the browser inherits as descriptors 3 and 4. It needs no port, no WebSocket and no driver program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Place, Running, program};

/// How long the browser may take for anything: generous, since machines are busy. Only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at the page.
const LOOK: Duration = Duration::from_millis(50);

/// A browser with one page.
pub(crate) struct Browser {
    process: Running,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    last_id: u64,
    /// What is answered in place of the node, by the path of the request.
    stand_ins: BTreeMap<String, String>,
    complaints: Vec<String>,
    _profile: TempDir,
}

/// The size of a screen, and whether it is a phone's.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) phone: bool,
}

pub(crate) const DESK: Screen = Screen { width: 1280, height: 900, phone: false };
pub(crate) const PHONE: Screen = Screen { width: 360, height: 740, phone: true };

impl Browser {
    /// Starts a browser, where the nodes are that it is to look at.
    pub(crate) fn start(place: &Place) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let log = profile.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"]);
        command.arg(program("chromium", "chromium"));
        command.args([
            "--headless=new",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-default-browser-check",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--hide-scrollbars",
            // Nothing leaves the machine, whatever the page or the browser wish.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            "--no-proxy-server",
            // Tests run as root, in containers, and in namespaces, where its sandbox cannot.
            "--no-sandbox",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().join("profile").display()));
        command.env("HOME", profile.path()).env("LANG", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut process = Running::start(place, command, log);
        let commands = process.child().stdin.take().unwrap();
        let answers = BufReader::new(process.child().stdout.take().unwrap());
        let (said, messages) = channel();
        thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).unwrap();
                if said.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            process,
            commands,
            messages,
            session: String::new(),
            last_id: 0,
            stand_ins: BTreeMap::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = text(&browser.call("Target.attachToTarget", attach)["sessionId"]);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.screen(DESK);
        browser
    }

    /// Gives a command, and waits for its result.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.send(method, parameters);
        let deadline = Instant::now() + LIMIT;
        loop {
            let message = self.next(deadline).unwrap_or_else(|| panic!("{method}: no answer"));
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
        }
    }

    fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap();
        self.last_id
    }

    /// The next message, after what it is itself about has been done.
    fn next(&mut self, deadline: Instant) -> Option<Value> {
        match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(message) => {
                self.heed(&message);
                Some(message)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the browser ended:\n{}", self.process.log()),
        }
    }

    fn heed(&mut self, message: &Value) {
        let about = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(about["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if about["type"] == "error" || about["type"] == "warning" => {
                self.complaints.push(about["args"].to_string());
            }
            Some("Log.entryAdded") if about["entry"]["level"] != "verbose" => {
                self.complaints.push(about["entry"].to_string());
            }
            Some("Fetch.requestPaused") => self.stand_in(about),
            _ => {}
        }
    }

    fn stand_in(&mut self, paused: &Value) {
        let url = text(&paused["request"]["url"]);
        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
        match self.stand_ins.get(path) {
            Some(body) => {
                let answer = json!({
                    "requestId": paused["requestId"],
                    "responseCode": 200,
                    "responseHeaders": [{ "name": "content-type", "value": "application/json" }],
                    "body": data_encoding::BASE64.encode(body.as_bytes()),
                });
                self.send("Fetch.fulfillRequest", answer);
            }
            None => {
                self.send("Fetch.continueRequest", json!({ "requestId": paused["requestId"] }));
            }
        }
    }

    /// From now on answers this path with `body`, in place of the node.
    pub(crate) fn answer(&mut self, path: &str, body: &Value) {
        if self.stand_ins.insert(path.to_owned(), body.to_string()).is_none() {
            self.call("Fetch.enable", json!({ "patterns": [{ "urlPattern": "*/api/*" }] }));
        }
    }

    /// Runs `script` before those of every page that is opened from now on.
    pub(crate) fn before_pages(&mut self, script: &str) {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }));
    }

    /// Opens a page, and waits until it has the node's first answer on it.
    pub(crate) fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        self.wait_for("the page is live", "document.querySelector('#live')?.textContent === 'Live'");
    }

    /// What an expression comes to, after what it promises.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_for(&mut self, what: &str, expression: &str) {
        let deadline = Instant::now() + LIMIT;
        while self.eval(expression) != true {
            if Instant::now() > deadline {
                self.screenshot("failure");
                let page = self.eval("document.body?.innerText");
                panic!("{what}: not within {LIMIT:?}; complaints {:?}; the page: {page}", self.complaints);
            }
            let pause = Instant::now() + LOOK;
            while self.next(pause).is_some() {}
        }
    }

    /// Looks at the page on another screen.
    pub(crate) fn screen(&mut self, screen: Screen) {
        let Screen { width, height, phone } = screen;
        let scale = if phone { 2 } else { 1 };
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone }),
        );
    }

    /// Light or dark.
    pub(crate) fn scheme(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Presses and releases a key.
    pub(crate) fn key(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowRight" => 39,
            _ => 0,
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if key == "Enter" && kind == "keyDown" {
                event["text"] = "\r".into();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Types into what has the focus.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Clicks at a place of the viewport.
    pub(crate) fn click(&mut self, x: f64, y: f64) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Keeps a picture of what can be seen without scrolling among the build's artefacts.
    pub(crate) fn viewport_shot(&mut self, name: &str) {
        self.shoot(name, false);
    }

    /// Keeps a picture of the whole page among the build's artefacts.
    pub(crate) fn screenshot(&mut self, name: &str) {
        self.shoot(name, true);
    }

    fn shoot(&mut self, name: &str, whole: bool) {
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": whole }));
        let png = data_encoding::BASE64.decode(shot["data"].as_str().unwrap().as_bytes()).unwrap();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("dashboard");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), png).unwrap();
    }

    /// What the page or the browser complained of since the last time: exceptions, errors, warnings.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helpers end with it; whatever it still says is of no interest.
        self.session.clear();
        if self.process.is_running() {
            let end = b"{\"id\":0,\"method\":\"Browser.close\"}\0";
            let _ = self.commands.write_all(end);
            let _ = self.process.wait(Duration::from_secs(10));
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
