//! The client at a real terminal, as a person sits at one.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    libc,
    pty::{Winsize, openpty},
};
use tokio::process::{Child, Command};

use crate::{compyctl::Compyctl, wait};

/// A terminal with a client on it. Dropped, the terminal is closed, and the
/// client meets what a person's does then.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    /// A terminal of 24 rows of 80 columns on which the client is started.
    ///
    /// # Panics
    /// When there is no terminal to be had, or `setsid` is missing.
    #[must_use]
    pub fn open(client: Compyctl) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("the machine has terminals");
        let end = || -> Stdio {
            pty.slave
                .try_clone()
                .expect("descriptors are to be had")
                .into()
        };
        let client = client.into_command();
        // With the terminal as its own, so that it is told of sizes and ends.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(client.as_std().get_program())
            .args(client.as_std().get_args())
            .env_clear()
            .env("TERM", "xterm");
        for (name, value) in client.as_std().get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .kill_on_drop(true)
            .spawn()
            .expect("setsid starts the client");
        let shown = Arc::default();
        let (reader, into) = (pty.master.try_clone(), Arc::clone(&shown));
        let reader = reader.expect("descriptors are to be had");
        std::thread::spawn(move || show(reader, &into));
        Self {
            master: pty.master.into(),
            shown,
            child,
        }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_in(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("the terminal is open");
    }

    /// Sets the size, as a window that is drawn larger does.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        use std::os::fd::AsRawFd as _;
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize through the pointer.
        #[allow(unsafe_code)]
        let result = unsafe {
            libc::ioctl(
                self.master.as_fd().as_raw_fd(),
                libc::TIOCSWINSZ,
                &raw const size,
            )
        };
        assert_eq!(result, 0, "the terminal is open");
    }

    /// All that was shown.
    #[must_use]
    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until a text is shown.
    ///
    /// # Panics
    /// When it is not in half a minute; shows what is.
    pub async fn wait_for(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while !self.shown().contains(text) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{text:?} is not shown, but {:?}",
                self.shown()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the client has ended.
    ///
    /// # Panics
    /// When it has not in half a minute.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = tokio::time::timeout(wait::PATIENCE, self.child.wait()).await;
        status
            .unwrap_or_else(|_| panic!("the client goes on: {:?}", self.shown()))
            .expect("the client can be waited for")
    }
}

fn show(master: OwnedFd, into: &Mutex<Vec<u8>>) {
    let mut master = File::from(master);
    let mut buffer = [0; 4096];
    // Ends with an error when the last end of the other side is closed.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        let mut shown = into.lock().unwrap_or_else(PoisonError::into_inner);
        shown.extend_from_slice(&buffer[..length]);
    }
}
