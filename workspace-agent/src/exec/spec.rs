//! What a specification must be, and the launch that follows from it.

use std::path::{Path, PathBuf};

use compyd_proto::agent::{ExecSpec, Leftovers};
use prost::Message as _;

use super::protocol::Launch;
use crate::accounts::Account;
use crate::errors::{AgentError, Reason};

const MAX_ID_BYTES: usize = 128;
const MAX_ARGUMENTS: usize = 4096;
const MAX_ARGUMENT_BYTES: usize = 2 * 1024 * 1024;
const MAX_CELLS: u32 = 65_535;
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_TERM: &[u8] = b"xterm-256color";
/// The variable by which the processes of a command are found when their
/// supervisor is gone.
pub(super) const TAG: &str = "COMPY_EXEC_ID";

/// Checks an id that a caller has chosen: 1 to 128 of `[A-Za-z0-9._-]`.
pub(crate) fn check_id(what: &str, id: &str) -> Result<(), AgentError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(legal) {
        return Ok(());
    }
    Err(AgentError::new(
        Reason::SpecInvalid,
        format!("{what} {id:?} is not valid: it takes 1 to 128 characters of A-Z a-z 0-9 . _ -"),
    ))
}

/// Refuses what no command could be started from.
pub(super) fn check(spec: &ExecSpec) -> Result<(), AgentError> {
    let refuse = |message: String| Err(AgentError::new(Reason::SpecInvalid, message));
    if !(1..=MAX_ARGUMENTS).contains(&spec.argv.len()) {
        return refuse(format!(
            "a command takes 1 to {MAX_ARGUMENTS} arguments, program included; this one has {}",
            spec.argv.len()
        ));
    }
    let bytes: usize = spec.argv.iter().map(|argument| argument.len()).sum();
    if bytes > MAX_ARGUMENT_BYTES {
        return refuse(format!(
            "the arguments have {bytes} bytes and may have {MAX_ARGUMENT_BYTES}; put the data into a file or into standard input"
        ));
    }
    if spec.argv[0].is_empty() || spec.argv.iter().any(|argument| argument.contains(&0)) {
        return refuse("the program's name is empty, or an argument holds a NUL byte".into());
    }
    if !spec.cwd.is_empty() && (!spec.cwd.starts_with('/') || spec.cwd.contains('\0')) {
        return refuse(format!(
            "the working directory {:?} is not an absolute path",
            spec.cwd
        ));
    }
    for variable in &spec.env {
        let name = &variable.name;
        if name.is_empty() || name.contains(['=', '\0']) || variable.value.contains(&0) {
            return refuse(format!(
                "environment variable {name:?} is not valid: its name is empty or holds '=', or name or value hold a NUL byte"
            ));
        }
    }
    if let Some(size) = &spec.pty {
        check_size(size)?;
    }
    if Leftovers::try_from(spec.leftovers).is_err() {
        return refuse(format!(
            "there is no way number {} to treat leftovers",
            spec.leftovers
        ));
    }
    Ok(())
}

/// Refuses a terminal without cells.
pub(super) fn check_size(size: &compyd_proto::agent::PtySize) -> Result<(), AgentError> {
    if (1..=MAX_CELLS).contains(&size.rows) && (1..=MAX_CELLS).contains(&size.cols) {
        return Ok(());
    }
    Err(AgentError::new(
        Reason::SpecInvalid,
        format!(
            "a terminal has 1 to {MAX_CELLS} rows and columns, not {} by {}",
            size.rows, size.cols
        ),
    ))
}

/// Copies the bytes out of the message that brought them: a slice would keep
/// the whole message in memory for as long as the command is known.
pub(super) fn detach(spec: &mut ExecSpec) {
    let values = spec.env.iter_mut().map(|variable| &mut variable.value);
    for bytes in spec.argv.iter_mut().chain(values) {
        *bytes = bytes::Bytes::copy_from_slice(bytes);
    }
}

/// Two specifications are the same when their encodings are.
pub(super) fn fingerprint(spec: &ExecSpec) -> blake3::Hash {
    blake3::hash(&spec.encode_to_vec())
}

/// Where a command starts.
pub(super) fn directory(spec: &ExecSpec, work_dir: &Path) -> Result<PathBuf, AgentError> {
    let directory = if spec.cwd.is_empty() {
        work_dir.to_owned()
    } else {
        PathBuf::from(&spec.cwd)
    };
    if directory.is_dir() {
        return Ok(directory);
    }
    let why = if directory.exists() {
        "is not a directory"
    } else {
        "does not exist"
    };
    Err(AgentError::new(
        Reason::CwdMissing,
        format!(
            "the working directory {} {why}; make it first or name another one",
            directory.display()
        ),
    ))
}

/// The launch of a checked specification. `given` is what the container has, and
/// credentials.
pub(super) fn launch(
    exec_id: &str,
    spec: &ExecSpec,
    account: &Account,
    directory: &Path,
    given: [&[(Vec<u8>, Vec<u8>)]; 2],
    set_account: bool,
) -> Launch {
    let environment = environment(exec_id, spec, account, given);
    let path = environment
        .iter()
        .find(|(name, _)| name == b"PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value.as_slice());
    let candidates = candidates(&spec.argv[0], path);
    Launch {
        argv: spec.argv.iter().map(|argument| argument.to_vec()).collect(),
        candidates,
        environment: environment
            .into_iter()
            .map(|(name, value)| [name.as_slice(), b"=", &value].concat())
            .collect(),
        directory: directory.as_os_str().as_encoded_bytes().to_vec(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        set_account,
        terminal: spec.pty.is_some(),
        kill_leftovers: spec.leftovers() == Leftovers::Kill,
    }
}

/// The container's own variables, then the account's, then credentials, then the
/// caller's.
fn environment(
    exec_id: &str,
    spec: &ExecSpec,
    account: &Account,
    [inherited, secrets]: [&[(Vec<u8>, Vec<u8>)]; 2],
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut variables = inherited.to_vec();
    let mut set =
        |name: &[u8], value: &[u8]| match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_vec(),
            None => variables.push((name.to_vec(), value.to_vec())),
        };
    set(b"HOME", account.home.as_os_str().as_encoded_bytes());
    set(b"USER", account.name.as_bytes());
    set(b"LOGNAME", account.name.as_bytes());
    set(b"SHELL", account.shell.as_bytes());
    if spec.pty.is_some() {
        set(b"TERM", DEFAULT_TERM);
    }
    for (name, value) in secrets {
        set(name, value);
    }
    for variable in &spec.env {
        set(variable.name.as_bytes(), &variable.value);
    }
    set(TAG.as_bytes(), exec_id.as_bytes());
    for (name, value) in [(b"PATH".as_slice(), DEFAULT_PATH), (b"LANG", b"C.UTF-8")] {
        if !variables.iter().any(|(known, _)| known == name) {
            variables.push((name.to_vec(), value.to_vec()));
        }
    }
    variables
}

fn candidates(program: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    path.split(|byte| *byte == b':')
        .map(|directory| {
            // An empty entry is the working directory, as in every shell.
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            [directory, b"/", program].concat()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use compyd_proto::agent::{EnvVar, PtySize};

    fn spec(argv: &[&str]) -> ExecSpec {
        ExecSpec {
            argv: argv
                .iter()
                .map(|argument| Bytes::copy_from_slice(argument.as_bytes()))
                .collect(),
            ..ExecSpec::default()
        }
    }

    fn account() -> Account {
        Account {
            name: "dev".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/dev".into(),
            shell: "/bin/zsh".into(),
            groups: vec![1000],
        }
    }

    #[test]
    fn ids_are_checked_at_their_limits() {
        for good in ["a", ".", "..", "A-b_c.9", &"x".repeat(128)] {
            assert!(check_id("exec id", good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert_eq!(
                check_id("exec id", bad).unwrap_err().reason(),
                Reason::SpecInvalid,
                "{bad}"
            );
        }
    }

    #[test]
    fn specifications_that_cannot_work_are_refused() {
        let with = |change: &dyn Fn(&mut ExecSpec)| {
            let mut spec = spec(&["true"]);
            change(&mut spec);
            check(&spec).map_err(|error| error.reason())
        };
        assert_eq!(with(&|_| ()), Ok(()));
        let refused = Err(Reason::SpecInvalid);
        assert_eq!(with(&|spec| spec.argv.clear()), refused);
        assert_eq!(with(&|spec| spec.argv[0] = Bytes::new()), refused);
        assert_eq!(
            with(&|spec| spec.argv.push(Bytes::from_static(b"a\0b"))),
            refused
        );
        assert_eq!(
            with(&|spec| spec.argv = vec![Bytes::from_static(b"x"); 4097]),
            refused
        );
        assert_eq!(
            with(&|spec| spec.argv.push(vec![b'x'; MAX_ARGUMENT_BYTES].into())),
            refused
        );
        assert_eq!(with(&|spec| spec.cwd = "relative".into()), refused);
        assert_eq!(
            with(&|spec| spec.pty = Some(PtySize { rows: 0, cols: 80 })),
            refused
        );
        assert_eq!(
            with(&|spec| spec.pty = Some(PtySize {
                rows: 1,
                cols: 65_536
            })),
            refused
        );
        assert_eq!(with(&|spec| spec.leftovers = 9), refused);
        for name in ["", "a=b", "a\0"] {
            let env = EnvVar {
                name: name.into(),
                value: Bytes::new(),
            };
            assert_eq!(with(&|spec| spec.env.push(env.clone())), refused);
        }
    }

    #[test]
    fn later_variables_win_and_the_tag_cannot_be_replaced() {
        let mut spec = spec(&["true"]);
        for (name, value) in [
            ("A", "1"),
            ("HOME", "/elsewhere"),
            ("A", "2"),
            ("TOKEN", "the caller's"),
            (TAG, "other"),
        ] {
            spec.env.push(EnvVar {
                name: name.into(),
                value: Bytes::copy_from_slice(value.as_bytes()),
            });
        }
        let inherited = [
            (b"JAVA_HOME".to_vec(), b"/jdk".to_vec()),
            (b"PATH".to_vec(), b"/p".to_vec()),
        ];
        let secrets = [
            (b"TOKEN".to_vec(), b"hidden".to_vec()),
            (b"KEY".to_vec(), b"k".to_vec()),
        ];
        let given: [&[_]; 2] = [&inherited, &secrets];
        let launch = launch("id", &spec, &account(), Path::new("/"), given, true);
        let mut environment: Vec<String> = launch
            .environment
            .iter()
            .map(|variable| String::from_utf8_lossy(variable).into_owned())
            .collect();
        environment.sort();
        assert_eq!(
            environment,
            [
                "A=2",
                "COMPY_EXEC_ID=id",
                "HOME=/elsewhere",
                "JAVA_HOME=/jdk",
                "KEY=k",
                "LANG=C.UTF-8",
                "LOGNAME=dev",
                "PATH=/p",
                "SHELL=/bin/zsh",
                "TOKEN=the caller's",
                "USER=dev",
            ]
        );
    }

    #[test]
    fn programs_are_looked_up_in_the_commands_own_path() {
        assert_eq!(candidates(b"./a", b"/bin"), [b"./a".to_vec()]);
        assert_eq!(
            candidates(b"a", b"/x::/y"),
            [b"/x/a".to_vec(), b"./a".to_vec(), b"/y/a".to_vec()]
        );
    }
}
