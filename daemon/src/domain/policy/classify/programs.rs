//! Programs by name: what each does to files, machines and the world.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{SimpleCommand, Word},
    },
    Act, Line, cloud, files, git,
    given::{Given, Names},
    has, inline, moves, operands,
    paths::{Place, place},
    transfer, value_of,
};

/// Programs that only look, whatever their arguments.
pub(super) const LOOKS: &[&str] = &[
    "ls",
    "cat",
    "head",
    "tail",
    "grep",
    "egrep",
    "fgrep",
    "rg",
    "wc",
    "cut",
    "tr",
    "diff",
    "cmp",
    "comm",
    "file",
    "stat",
    "du",
    "df",
    "pwd",
    "echo",
    "printf",
    "true",
    "false",
    "test",
    "[",
    "[[",
    "which",
    "type",
    "whereis",
    "date",
    "whoami",
    "id",
    "uname",
    "ps",
    "tree",
    "jq",
    "basename",
    "dirname",
    "realpath",
    "readlink",
    "nl",
    "od",
    "xxd",
    "hexdump",
    "md5sum",
    "sha1sum",
    "sha256sum",
    "b3sum",
    "seq",
    "sleep",
    "cd",
    "pushd",
    "popd",
    "export",
    "set",
    "shift",
    "exit",
    "return",
    "break",
    "continue",
    "local",
    "read",
    "wait",
    "jobs",
    "tac",
    "rev",
    "column",
    "fold",
    "paste",
    "join",
    "expr",
    "bc",
    "nproc",
    "free",
    "uptime",
    "lscpu",
    "arch",
    "locale",
    "tput",
    "stty",
    "command",
    "builtin",
    "hash",
    "let",
    "shopt",
    "ulimit",
    "umask",
    "unset",
    "alias",
    "unalias",
    "getopts",
    "printenv",
    "hostname",
    "less",
    "more",
    "man",
    "top",
    "env",
    "xargs",
    "time",
    "timeout",
    "nice",
    "nohup",
    "ionice",
    "stdbuf",
    "sort",
    "uniq",
    "yes",
    "strings",
    "nm",
    "objdump",
    "ldd",
    "lsof",
    "pgrep",
    "tokei",
    "cloc",
    "fd",
    "fdfind",
    "bat",
    "mktemp",
    ":",
    "awk",
    "gawk",
    "sed",
    "find",
    "exec",
    "trap",
    "eval",
    "declare",
    "typeset",
    "readonly",
    "mapfile",
    "readarray",
    "getconf",
    "groups",
    "zcat",
    "base64",
    "dig",
    "host",
    "nslookup",
    "ping",
    "traceroute",
    "factor",
    "numfmt",
    "pr",
    "fmt",
    "expand",
    "unexpand",
    "cal",
    "apropos",
];

/// Judges a command by its program.
pub(super) fn judge(act: &mut Act, command: &SimpleCommand, line: &mut Line<'_>) {
    let Some(program) = command.program().map(str::to_owned) else {
        act.level = Level::Write;
        return;
    };
    if !LOOKS.contains(&program.as_str()) && program != "git" {
        act.level = act.level.max(Level::Write);
    }
    let words = command.arguments();
    inline::judge(act, command, line);
    inline::judge_text_tools(act, command, line);
    cloud::judge(act, &program, words);
    match program.as_str() {
        "git" => git::judge(act, command, line),
        "rm" | "rmdir" | "unlink" | "shred" | "trash" | "srm" | "wipe" | "rimraf" | "del-cli" => {
            moves::delete(act, command, line)
        }
        "find" | "fd" | "fdfind" => moves::find(act, command, line),
        "rsync" => transfer::rsync(act, command, line),
        "mv" | "cp" | "install" | "ln" | "link" => moves::copy(act, command, line),
        "tee" | "touch" | "mkdir" | "truncate" | "mkfifo" | "patch" | "chmod" | "chown"
        | "chgrp" | "setfacl" | "chattr" => {
            moves::change(act, command, line);
        }
        "sed" | "gsed" => {
            let valued = ["-e", "-f", "-l", "--expression", "--file", "--line-length"];
            let given = Given::read(words, &valued, Names::Shortened);
            let in_place = |name: &str| name == "-i" || name.starts_with("--in");
            if given.options.iter().any(|(name, _)| in_place(name)) {
                let has_script = given.has(&["-e", "-f", "--expression", "--file"]);
                for word in given.operands.iter().skip(usize::from(!has_script)) {
                    files::write_word(act, word, &command.directories, line);
                }
            }
        }
        "perl" | "ruby" => {
            for word in inline::edited_in_place(command) {
                files::write_word(act, word, &command.directories, line);
            }
        }
        "awk" | "gawk" if words.windows(2).any(|pair| pair[0].text == "-i") => {
            for word in operands(words, &["-i", "-v", "-f", "-F"]) {
                files::write_word(act, word, &command.directories, line);
            }
        }
        "ed" | "ex" | "vi" | "vim" | "nvim" | "sponge" | "dos2unix" | "unix2dos" => {
            for word in operands(words, &["-c", "--cmd", "-S", "-u"]) {
                files::write_word(act, word, &command.directories, line);
            }
        }
        "yq" if has(words, &["-i", "--inplace", "--in-place"]) => {
            for word in operands(words, &[]) {
                files::write_word(act, word, &command.directories, line);
            }
        }
        "sort" => {
            if let Some(path) = value_of(words, &["-o", "--output"]) {
                files::write_word(act, &Word::exact(path), &command.directories, line);
            }
        }
        "dd" => {
            for word in words {
                if let Some(path) = word.text.strip_prefix("of=") {
                    let target = Word {
                        text: path.to_owned(),
                        ..word.clone()
                    };
                    files::write_word(act, &target, &command.directories, line);
                }
            }
        }
        "tar" | "bsdtar" | "unzip" | "7z" | "cpio" => {
            transfer::unpack(act, &program, command, line)
        }
        "curl" | "wget" | "http" | "https" | "aria2c" => transfer::fetch(act, command, line),
        "scp" | "sftp" | "ftp" | "rcp" | "rclone" => transfer::send(act, words),
        "ssh" | "mosh" | "telnet" | "autossh" | "sshuttle" => {
            let tunnels = program != "ssh" || has(words, &["-R", "-L", "-D", "-w"]);
            let runs = words.iter().any(|word| {
                word.text.contains("ProxyCommand") || word.text.contains("LocalCommand")
            });
            if tunnels {
                act.find(RiskKind::Egress, program.as_str());
            } else if runs {
                act.find(RiskKind::NotUnderstood, "ssh");
            } else {
                act.find(RiskKind::SendOut, program.as_str());
            }
        }
        "nc" | "ncat" | "netcat" | "socat" | "ngrok" | "cloudflared" | "chisel" | "frpc"
        | "localtunnel" | "tailscale" | "wg" | "wg-quick" | "openvpn" | "bore" | "iptables"
        | "nft" | "ip6tables" | "tor" | "proxychains" | "proxychains4" => {
            let checks = has(words, &["-z"])
                || words
                    .iter()
                    .any(|word| word.text == "--version" || word.text == "--help");
            if !checks {
                act.find(RiskKind::Egress, program.as_str());
            }
        }
        "compyctl" | "compyd" => act.find(RiskKind::Egress, program.as_str()),
        "sudo" | "doas" | "su" | "runuser" | "setpriv" | "pkexec" => {
            act.level = act.level.max(Level::Write)
        }
        "passwd" | "chpasswd" | "useradd" | "usermod" | "userdel" | "groupadd" | "adduser"
        | "deluser" | "visudo" | "htpasswd" | "ssh-keygen" | "ssh-add" | "ssh-copy-id" | "gpg"
        | "pass" | "security" | "secret-tool" | "keyctl" | "op" | "vault" | "bw" => {
            let looks = ["--version", "--help", "--list-keys", "--verify"];
            let kind = (!has(words, &looks)).then_some(RiskKind::Credentials);
            found(act, kind, &program);
        }
        "shutdown" | "reboot" | "halt" | "poweroff" | "init" | "telinit" | "mkfs" | "fdisk"
        | "parted" | "mount" | "umount" | "losetup" | "modprobe" | "insmod" | "rmmod"
        | "sysctl" | "swapoff" | "swapon" | "kexec" | "wipefs" | "blkdiscard" | "debugfs"
        | "nsenter" | "chroot" | "pivot_root" | "setcap" | "unshare" => {
            act.find(RiskKind::Machine, program.as_str());
        }
        mkfs if mkfs.starts_with("mkfs.") => act.find(RiskKind::Machine, program.as_str()),
        "crontab" if !has(words, &["-l"]) => act.find(RiskKind::Schedule, "crontab"),
        "at" | "batch" | "systemd-run" | "atd" | "crond" => {
            act.find(RiskKind::Schedule, program.as_str())
        }
        "systemctl" | "service" | "launchctl" | "rc-service" | "update-rc.d" | "supervisorctl" => {
            let looks = ["status", "list-units", "is-active", "show", "--status-all"];
            let only_looks = words.iter().any(|word| looks.contains(&word.text.as_str()));
            found(act, (!only_looks).then_some(RiskKind::Machine), &program);
        }
        "kill"
            if words
                .iter()
                .any(|word| matches!(word.text.as_str(), "-1" | "1" | "0"))
                && words.len() > 1
                || words.first().is_some_and(|word| word.text == "1") && program == "kill" =>
        {
            act.find(RiskKind::Machine, "kill");
        }
        "pkill" | "killall" | "fuser" if !has(words, &["-l"]) => {
            act.find(RiskKind::EndProcesses, program.as_str())
        }
        "apt" | "apt-get" | "dpkg" | "yum" | "dnf" | "apk" | "pacman" | "zypper" | "brew"
        | "snap" | "rpm" | "port" => {
            const CHANGES: [&str; 14] = [
                "install",
                "remove",
                "purge",
                "add",
                "del",
                "upgrade",
                "dist-upgrade",
                "-i",
                "-S",
                "-U",
                "-e",
                "erase",
                "autoremove",
                "uninstall",
            ];
            let changes = words
                .iter()
                .any(|word| CHANGES.contains(&word.text.as_str()));
            found(act, changes.then_some(RiskKind::Install), &program);
        }
        "psql" | "mysql" | "mariadb" | "mongosh" | "mongo" | "redis-cli" | "sqlplus"
        | "clickhouse-client" | "cqlsh" | "sqlcmd" => {
            database(act, &program, command);
        }
        "dropdb" | "createdb" | "pg_restore" | "mysqladmin" | "mongorestore" | "flyway"
        | "liquibase" | "dbmate" | "goose" | "sqitch" => {
            act.find(RiskKind::Database, program.as_str());
        }
        "set" | "shopt" | "ulimit" => {}
        program if program.starts_with('/') || program.starts_with('~') => {
            let place = place(program, line.repository);
            if place == Place::Scratch && command.runs.is_none() && !program.contains("venv") {
                act.find(RiskKind::Install, program);
            }
        }
        _ => {}
    }
    if has_fork_bomb(command) {
        act.find(RiskKind::Machine, "it starts itself without end");
    }
}

fn found(act: &mut Act, kind: Option<RiskKind>, program: &str) {
    if let Some(kind) = kind {
        act.find(kind, program);
    }
}

fn has_fork_bomb(command: &SimpleCommand) -> bool {
    command.program() == Some(":")
        && !command.arguments().is_empty()
        && command.arguments()[0].text == "|"
}

fn database(act: &mut Act, program: &str, command: &SimpleCommand) {
    const CHANGES: [&str; 14] = [
        "drop ",
        "delete ",
        "truncate",
        "alter ",
        "update ",
        "insert ",
        "create ",
        "grant ",
        "flushall",
        "flushdb",
        "dropdatabase",
        "deletemany",
        "remove(",
        "config set",
    ];
    let words = command.arguments();
    let mut texts: Vec<String> = words
        .iter()
        .map(|word| word.text.to_ascii_lowercase())
        .collect();
    let unknown = match &command.input {
        super::super::shell::Input::Text(text) => {
            texts.push(text.to_ascii_lowercase());
            false
        }
        super::super::shell::Input::None => has(words, &["-f", "--file"]),
        _ => true,
    };
    let changes = texts
        .iter()
        .any(|text| CHANGES.iter().any(|word| format!("{text} ").contains(word)));
    if changes
        || unknown
        || words
            .iter()
            .any(|word| !word.exact && word.text.contains(' '))
    {
        act.find(RiskKind::Database, program);
    }
}
