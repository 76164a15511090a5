//! The command line of `serve`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use compyd_proto::link;

pub(crate) const USAGE: &str = "\
usage: compy-agent serve [--workspace-id ID] [--root DIR]... [--user NAME|UID[:GROUP]]
                         [--state DIR] [--link SOCKET] [--proxy ADDRESS:PORT]
                         [--ssh-agent SOCKET]
       compy-agent connect HOST PORT
       compy-agent --version

  --workspace-id ID  the workspace's id; the machine-id is made of it
  --root DIR         a directory that the file tools may reach; may be repeated
                     (default: /workspace, the user's home, /tmp, /var/tmp).
                     Relative paths start at the first one
  --user WHO         the account commands run as when none is named (default: root)
  --state DIR        where spools and receipts are kept (default: /var/lib/compy)
  --link SOCKET      the daemon's socket (default: /run/compy/link/daemon.sock)
  --proxy ADDRESS    where programs are connected to the world
                     (default: 127.0.0.1:3128; port 0: any that is free)
  --ssh-agent SOCKET where SSH clients find their agent
                     (default: /run/compy/ssh-agent.sock)";

/// What `serve` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) workspace_id: String,
    /// Empty means the default roots.
    pub(crate) roots: Vec<PathBuf>,
    /// Empty means the account that the agent runs as.
    pub(crate) user: String,
    pub(crate) state: PathBuf,
    pub(crate) link: PathBuf,
    pub(crate) proxy: SocketAddr,
    pub(crate) ssh_agent: PathBuf,
}

impl Options {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            workspace_id: String::new(),
            roots: Vec::new(),
            user: String::new(),
            state: link::STATE_DIR.into(),
            link: link::LINK_SOCKET.into(),
            proxy: (Ipv4Addr::LOCALHOST, link::PROXY_PORT).into(),
            ssh_agent: link::SSH_AGENT_SOCKET.into(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| format!("{name} needs a value"))
            };
            match name.as_str() {
                "--workspace-id" => options.workspace_id = value()?,
                "--root" => options.roots.push(absolute(&name, value()?)?),
                "--user" => options.user = value()?,
                "--state" => options.state = absolute(&name, value()?)?,
                "--link" => options.link = absolute(&name, value()?)?,
                "--ssh-agent" => options.ssh_agent = absolute(&name, value()?)?,
                "--proxy" => options.proxy = loopback(&name, &value()?)?,
                _ => return Err(format!("unknown option {name:?}")),
            }
        }
        Ok(options)
    }
}

fn absolute(name: &str, value: String) -> Result<PathBuf, String> {
    if value.starts_with('/') {
        Ok(value.into())
    } else {
        Err(format!("{name} needs an absolute path, not {value:?}"))
    }
}

/// Other addresses would let other machines in.
fn loopback(name: &str, value: &str) -> Result<SocketAddr, String> {
    value
        .parse()
        .ok()
        .filter(|address: &SocketAddr| address.ip().is_loopback())
        .ok_or_else(|| format!("{name} needs a loopback address and a port, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn defaults_are_those_of_the_link() {
        let options = parse("").unwrap();
        assert_eq!(options.state, PathBuf::from("/var/lib/compy"));
        assert_eq!(options.link, PathBuf::from("/run/compy/link/daemon.sock"));
        assert_eq!(options.proxy, "127.0.0.1:3128".parse().unwrap());
        assert!(options.roots.is_empty() && options.user.is_empty());
    }

    #[test]
    fn roots_add_up_and_mistakes_are_named() {
        let options = parse("--root /a --root /b --user 1000:1000").unwrap();
        assert_eq!(options.roots, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(options.user, "1000:1000");
        assert!(parse("--root relative").unwrap_err().contains("relative"));
        assert!(parse("--state").unwrap_err().contains("--state"));
        assert!(
            parse("--proxy 0.0.0.0:1")
                .unwrap_err()
                .contains("0.0.0.0:1")
        );
        assert!(parse("--bogus x").unwrap_err().contains("--bogus"));
    }
}
