//! Chromium without a window, driven by its own protocol over two pipes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::process::{Child, Command};
use tokio::time::{Duration, sleep, timeout};

use crate::bench::PATIENCE;

/// The names under which distributions install it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The wait between two questions about a condition.
const POLL: Duration = Duration::from_millis(50);

/// A running browser with one page.
pub(crate) struct Browser {
    _child: Child,
    folder: PathBuf,
    requests: Sender,
    answers: Receiver,
    unread: Vec<u8>,
    session: Option<String>,
    last_id: u64,
}

/// The program; `None`: it is not installed.
fn installed() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| NAMES.map(|name| folder.join(name)))
        .find(|place| place.is_file());
    if found.is_none() {
        println!("left out: Chromium is not installed (Debian: the package chromium)");
    }
    found
}

impl Browser {
    /// Opens a page; `None`: the browser is not installed. The folder has the name of the test.
    pub(crate) async fn open(test: &str, url: &str, width: u32, height: u32) -> Option<Self> {
        let program = installed()?;
        let folder = std::env::temp_dir().join(format!("browser-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (requests, answers) = (folder.join("requests"), folder.join("answers"));
        for pipe in [&requests, &answers] {
            assert!(Command::new("mkfifo").arg(pipe).status().await.unwrap().success());
        }
        // Open for both, so that no side waits for the other one to open it.
        let sender = OpenOptions::new().read_write(true).open_sender(&requests).unwrap();
        let receiver = OpenOptions::new().read_write(true).open_receiver(&answers).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 3<\"$REQUESTS\" 4>\"$ANSWERS\"", "sh"]).arg(program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", folder.join("profile").display())).arg("about:blank");
        command.env("REQUESTS", &requests).env("ANSWERS", &answers).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut browser = Self {
            _child: command.spawn().unwrap(),
            folder,
            requests: sender,
            answers: receiver,
            unread: Vec::new(),
            session: None,
            last_id: 0,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser.resize(width, height).await;
        browser.call("Page.navigate", json!({ "url": url })).await;
        Some(browser)
    }

    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// The value of an expression on the page.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let evaluate = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", evaluate).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, expression: &str) {
        let waiting = async {
            while self.value(expression).await != Value::Bool(true) {
                sleep(POLL).await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{expression} is not true in time");
    }

    /// Clicks in the middle of the element that a selector finds.
    pub(crate) async fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const element = document.querySelector({selector:?}); element.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const box = element.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let at = self.value(&middle).await;
        self.click_at(at[0].as_f64().unwrap(), at[1].as_f64().unwrap()).await;
    }

    pub(crate) async fn click_at(&mut self, x: f64, y: f64) {
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Presses a key.
    pub(crate) async fn press(&mut self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key })).await;
        }
    }

    /// A picture of what is shown, as a PNG file in base64.
    pub(crate) async fn picture(&mut self, name: &str) -> usize {
        let mut answer = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let Value::String(data) = answer["data"].take() else { panic!("no picture: {answer}") };
        let png = base64_simd::STANDARD.decode_to_vec(data.as_bytes()).unwrap();
        // For a person who wants to see it.
        if let Some(folder) = std::env::var_os("PICTURES") {
            std::fs::write(Path::new(&folder).join(name), &png).unwrap();
        }
        png.len()
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut request = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&request).unwrap();
        bytes.push(0);
        let exchange = async {
            self.requests.write_all(&bytes).await.unwrap();
            loop {
                let mut answer = self.answer().await;
                if answer["id"] == self.last_id {
                    assert!(answer.get("error").is_none(), "{method}: {answer}");
                    return answer["result"].take();
                }
            }
        };
        match timeout(PATIENCE, exchange).await {
            Ok(result) => result,
            Err(_) => panic!("{method} is not answered in time"),
        }
    }

    /// The next message. Messages end with a zero byte.
    async fn answer(&mut self) -> Value {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&message[..end]).unwrap();
            }
            let mut part = vec![0; 1 << 16];
            let count = self.answers.read(&mut part).await.unwrap();
            assert!(count > 0, "the browser has ended");
            self.unread.extend_from_slice(&part[..count]);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // What remains in the folder for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
