//! The client as a person or a script runs it.

use std::{ffi::OsStr, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

/// What a run of the client left.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as one JSON document.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON on standard output ({error}): {self:?}"))
    }

    /// The last line of standard output as JSON: commands that stream events
    /// end with one result object.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn last_json(&self) -> Value {
        let text = self.text();
        let whole: Result<Value, _> = serde_json::from_str(&text);
        if let Ok(whole) = whole {
            return whole;
        }
        let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let mut last = None;
        for value in &mut values {
            match value {
                Ok(value) => last = Some(value),
                Err(error) => panic!("no JSON on standard output ({error}): {self:?}"),
            }
        }
        last.unwrap_or_else(|| panic!("nothing on standard output: {self:?}"))
    }

    /// Itself, if it exited with this code.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "stdout:\n{}\nstderr:\n{}",
            self.text(),
            self.stderr
        );
        self
    }
}

/// A client that is set up and not yet started.
#[derive(Debug)]
pub struct Compyctl {
    command: Command,
    stdin: Vec<u8>,
    patience: Duration,
}

impl Compyctl {
    pub(crate) fn new(program: &std::path::Path, endpoint: &str) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", crate::daemon::PATH)
            .env("COMPY_ENDPOINT", endpoint)
            .env("LANG", "C.UTF-8")
            .kill_on_drop(true);
        Self {
            command,
            stdin: Vec::new(),
            patience: Duration::from_secs(300),
        }
    }

    /// With these arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// With a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With these bytes on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// With another time to end in than five minutes.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Program, arguments and variables, for who starts it in a way of their
    /// own.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it, with its standard output to read from.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(mut self) -> tokio::process::Child {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("compyctl starts")
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end in time.
    pub async fn run(mut self) -> Ran {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("compyctl starts");
        let mut input = child.stdin.take().expect("standard input is a pipe");
        let bytes = self.stdin;
        let feed = async move {
            // A client that has seen enough closes its end.
            let _ = input.write_all(&bytes).await;
            drop(input);
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = match tokio::time::timeout(self.patience, both).await {
            Ok(output) => output.expect("compyctl can be waited for"),
            Err(_) => panic!(
                "compyctl did not end in {:?}: {:?}",
                self.patience, self.command
            ),
        };
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
