//! Programs that run what follows them, as tables.

/// How a program is told to run another one.
pub(super) struct Wrapper {
    /// Its name.
    pub(super) name: &'static str,
    /// Options that have a value of their own after them.
    pub(super) valued: &'static [&'static str],
    /// Words before the command.
    pub(super) operands: usize,
}

const fn wrapper(name: &'static str, valued: &'static [&'static str], operands: usize) -> Wrapper {
    Wrapper {
        name,
        valued,
        operands,
    }
}

/// Programs whose last words are a command.
pub(super) const WRAPPERS: &[Wrapper] = &[
    wrapper(
        "sudo",
        &[
            "-u", "-g", "-h", "-p", "-C", "-r", "-t", "-U", "-D", "-R", "-T", "--user", "--group",
            "--chdir",
        ],
        0,
    ),
    wrapper("doas", &["-u", "-C"], 0),
    wrapper("nice", &["-n", "--adjustment"], 0),
    wrapper("ionice", &["-c", "-n", "-p", "--class", "--classdata"], 0),
    wrapper("chrt", &["-T", "-P", "-D"], 1),
    wrapper("taskset", &[], 1),
    wrapper("timeout", &["-k", "-s", "--kill-after", "--signal"], 1),
    wrapper("gtimeout", &["-k", "-s"], 1),
    wrapper("nohup", &[], 0),
    wrapper("setsid", &[], 0),
    wrapper("stdbuf", &["-i", "-o", "-e"], 0),
    wrapper("unbuffer", &[], 0),
    wrapper("time", &["-f", "-o", "--format", "--output"], 0),
    wrapper("command", &[], 0),
    wrapper("builtin", &[], 0),
    wrapper("exec", &["-a"], 0),
    wrapper("busybox", &[], 0),
    wrapper("toybox", &[], 0),
    wrapper("strace", &["-o", "-e", "-p", "-s", "-u"], 0),
    wrapper("ltrace", &["-o", "-e"], 0),
    wrapper("chroot", &["--userspec", "--groups"], 1),
    wrapper("unshare", &["-S", "-G", "-R", "-w"], 0),
    wrapper("nsenter", &["-t", "-S", "-G"], 0),
    wrapper("fakeroot", &["-l", "-s", "-i"], 0),
    wrapper("proot", &["-r", "-b", "-w"], 0),
    wrapper("firejail", &[], 0),
    wrapper("xvfb-run", &["-n", "-s", "-e", "-f", "-w"], 0),
    wrapper("dbus-run-session", &[], 0),
    wrapper("faketime", &[], 1),
    wrapper("setpriv", &["--reuid", "--regid", "--groups"], 0),
    wrapper("runuser", &["-u", "-g"], 0),
    wrapper("ssh-agent", &["-a", "-t", "-E"], 0),
    wrapper("catchsegv", &[], 0),
    wrapper("chronic", &[], 0),
    wrapper("entr", &[], 0),
    wrapper("rlwrap", &[], 0),
    wrapper("winpty", &[], 0),
    wrapper("direnv", &[], 2),
    wrapper("coproc", &[], 0),
    wrapper("caffeinate", &["-t", "-w"], 0),
    wrapper("retry", &["-t", "-d"], 0),
    wrapper("perf", &[], 1),
    wrapper("hyperfine", &["-w", "-r", "-n"], 0),
    wrapper("cross-env", &[], 0),
    wrapper("dotenv", &["-f", "-e"], 0),
    wrapper("npx", &["-p", "--package", "-w", "-c", "--call"], 0),
    wrapper("bunx", &[], 0),
    wrapper("pnpx", &[], 0),
    wrapper("uvx", &["--from", "--with"], 0),
    wrapper("setarch", &[], 1),
    wrapper("linux32", &[], 0),
    wrapper("linux64", &[], 0),
    wrapper("i386", &[], 0),
    wrapper("x86_64", &[], 0),
    wrapper("prlimit", &["-p", "--pid", "-o"], 0),
    wrapper("choom", &["-n", "-p"], 0),
    wrapper("numactl", &["-N", "-m", "-C", "-i", "-p", "-P", "-l"], 0),
    wrapper("gosu", &[], 1),
    wrapper("su-exec", &[], 1),
    wrapper("setuidgid", &[], 1),
    wrapper("cgexec", &["-g"], 0),
    wrapper("pkexec", &["-u", "--user"], 0),
    wrapper("tini", &["-e", "-p"], 0),
    wrapper("dumb-init", &["-r"], 0),
    wrapper("torsocks", &[], 0),
    wrapper("valgrind", &[], 0),
    wrapper("ccache", &[], 0),
    wrapper("sccache", &[], 0),
];

/// Two words that a command follows.
pub(super) const RUNNERS: &[(&str, &str)] = &[
    ("poetry", "run"),
    ("uv", "run"),
    ("pipenv", "run"),
    ("pdm", "run"),
    ("hatch", "run"),
    ("rye", "run"),
    ("conda", "run"),
    ("bundle", "exec"),
    ("npm", "exec"),
    ("yarn", "exec"),
    ("pnpm", "exec"),
    ("pnpm", "dlx"),
    ("yarn", "dlx"),
    ("mise", "exec"),
    ("asdf", "exec"),
    ("rbenv", "exec"),
    ("pyenv", "exec"),
    ("nix", "run"),
    ("docker", "run"),
];

/// Shells that read scripts.
pub(super) const SHELLS: &[&str] = &[
    "sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "rbash", "csh", "tcsh", "pwsh",
];
