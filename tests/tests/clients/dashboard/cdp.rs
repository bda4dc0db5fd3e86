//! A browser that is driven: Chromium's own protocol over a WebSocket, as much of it as these tests need.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use meetpoint_cli::lab::Process;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client::client_with_config};

/// A browser takes seconds where others keep the processors busy.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(40);
/// A screenshot of a large page.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// A page in a browser of its own, with an empty profile. Dropping it ends the browser.
pub(super) struct Page {
    socket: WebSocket<TcpStream>,
    session: Option<String>,
    calls: u64,
    /// What the page complained of.
    pub(super) complaints: Vec<String>,
    /// Where it asked for something.
    pub(super) asked: BTreeSet<String>,
    /// What has travelled in answers to requests that are over, heads included.
    pub(super) received: u64,
    _process: Process,
    _profile: TempDir,
}

impl Page {
    pub(super) fn open() -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("chromium");
        command.env("HOME", profile.path()).arg(format!("--user-data-dir={}", profile.path().display()));
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
        ]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
        command.args(["--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0", "about:blank"]);
        let process = Process::spawn("chromium", &mut command).expect("it starts");
        let (port, path) = endpoint(profile.path());
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the browser listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (socket, _) =
            client_with_config(url, stream, Some(config)).expect("the browser speaks WebSocket");
        let mut page = Self {
            socket,
            session: None,
            calls: 0,
            complaints: Vec::new(),
            asked: BTreeSet::new(),
            received: 0,
            _process: process,
            _profile: profile,
        };
        let target = page.call("Target.createTarget", &json!({ "url": "about:blank" }))["targetId"].clone();
        let session = page.call("Target.attachToTarget", &json!({ "targetId": target, "flatten": true }));
        page.session = Some(session["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page.call("Performance.enable", &json!({ "timeDomain": "threadTicks" }));
        page
    }

    /// Asks the browser for something and waits for the answer.
    pub(super) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.try_call(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The same, where the browser may refuse: a page that is being left can't be asked.
    fn try_call(&mut self, method: &str, parameters: &Value) -> Result<Value, Value> {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(message.to_string())).expect("the browser is there");
        loop {
            let message = self.socket.read().unwrap_or_else(|error| panic!("{method}: {error}"));
            let Message::Text(text) = message else { continue };
            let mut message: Value = serde_json::from_str(&text).expect("JSON");
            if message["id"] != id {
                self.note(&message);
            } else if message["error"].is_null() {
                return Ok(message["result"].take());
            } else {
                return Err(message["error"].take());
            }
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.consoleAPICalled"
                if ["error", "warning", "assert"].contains(&&*text(&parameters["type"])) =>
            {
                self.complaints.push(parameters["args"].to_string());
            }
            "Runtime.exceptionThrown" => self.complaints.push(parameters["exceptionDetails"].to_string()),
            "Log.entryAdded"
                if parameters["entry"]["level"] != "info" && parameters["entry"]["level"] != "verbose" =>
            {
                self.complaints.push(format!(
                    "{} {}",
                    text(&parameters["entry"]["text"]),
                    parameters["entry"]["url"]
                ));
            }
            "Network.requestWillBeSent" => {
                self.asked.insert(text(&parameters["request"]["url"]));
            }
            "Network.loadingFinished" => {
                self.received += parameters["encodedDataLength"].as_f64().unwrap_or(0.0) as u64;
            }
            _ => {}
        }
    }

    pub(super) fn go(&mut self, url: &str) {
        self.call("Page.navigate", &json!({ "url": url }));
    }

    /// What an expression, or the promise that it is, amounts to.
    pub(super) fn eval(&mut self, expression: &str) -> Value {
        self.try_eval(expression).unwrap_or_else(|error| panic!("{expression:.200}: {error}"))
    }

    fn try_eval(&mut self, expression: &str) -> Result<Value, Value> {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut result = self.try_call("Runtime.evaluate", &parameters)?;
        match result["exceptionDetails"].take() {
            Value::Null => Ok(result["result"]["value"].take()),
            thrown => Err(thrown),
        }
    }

    /// Waits until an expression holds. One that throws does not, nor does any while a page is being left.
    pub(super) fn until(&mut self, expression: &str) {
        let start = Instant::now();
        let question = format!("Boolean({expression})");
        while self.try_eval(&question) != Ok(Value::Bool(true)) {
            if start.elapsed() > PATIENCE {
                let text = self.eval("document.body.innerText");
                panic!("it never came to this: {expression}\n{:?}\n{text}", self.complaints);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// A key, as if it were pressed.
    pub(super) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "Space" => (32, Some(" ")),
            "End" => (35, None),
            other => panic!("{other}"),
        };
        let name = if key == "Space" { " " } else { key };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": name, "code": key, "windowsVirtualKeyCode": code });
            if let Some(text) = text.filter(|_| kind == "keyDown") {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Text, as if it were typed.
    pub(super) fn write(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// The window's size, whether it is a phone's, and the colours that its owner prefers.
    pub(super) fn look(&mut self, (width, height): (u32, u32), theme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] });
        self.call("Emulation.setEmulatedMedia", &features);
    }

    /// Processor time that the page's own thread has taken, in seconds.
    pub(super) fn busy_s(&mut self) -> f64 {
        let metrics = self.call("Performance.getMetrics", &json!({}));
        let mut metrics = metrics["metrics"].as_array().expect("a list").iter();
        let tasks = metrics.find(|metric| metric["name"] == "TaskDuration").expect("a measure");
        tasks["value"].as_f64().expect("a number")
    }

    /// Writes what is seen to a file, and gives it.
    pub(super) fn picture(&mut self, file: &Path) -> String {
        let mut shot = self.call("Page.captureScreenshot", &json!({ "format": "png" }));
        let Value::String(text) = shot["data"].take() else { panic!("no picture") };
        std::fs::write(file, BASE64.decode(text.as_bytes()).expect("base64"))
            .expect("the picture is written");
        text
    }
}

/// Where the browser listens: it writes that to its profile.
fn endpoint(profile: &Path) -> (u16, String) {
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
        if let Some((port, path)) = text.split_once('\n')
            && let Ok(port) = port.parse()
        {
            return (port, path.trim().to_owned());
        }
        assert!(start.elapsed() < PATIENCE, "the browser does not start");
        std::thread::sleep(LOOK);
    }
}
