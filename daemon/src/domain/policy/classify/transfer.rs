//! Programs that fetch, send and unpack.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{SimpleCommand, Word, program_name},
    },
    Act, Line, files, forge, has, operands, value_of,
};

pub(super) fn unpack(act: &mut Act, program: &str, command: &SimpleCommand, line: &Line<'_>) {
    let words = command.arguments();
    let runs = words.iter().any(|word| {
        let text = &word.text;
        text.starts_with("--to-command")
            || text.starts_with("--checkpoint-action")
            || text.starts_with("--use-compress-program")
            || text.starts_with("--info-script")
            || text.starts_with("--new-volume-script")
            || text == "-I"
            || text.starts_with("--rsh-command")
    });
    if runs {
        act.find(
            RiskKind::NotUnderstood,
            format!("{program}: it runs other programs"),
        );
    }
    let mode = words.first().map_or("", |word| word.text.as_str());
    let target = match program {
        "unzip" => value_of(words, &["-d"]),
        "7z" => None,
        _ => value_of(words, &["-C", "--directory"]),
    };
    let extracts = program != "tar" || mode.contains('x') || has(words, &["--extract", "-x"]);
    if extracts {
        if let Some(path) = target {
            files::write_tree(act, &Word::exact(path), &command.directories, line);
        }
        if has(words, &["-P", "--absolute-names"]) && mode.contains('x') {
            act.find(RiskKind::WriteSystem, "names from the root");
        }
    }
    if has(words, &["--remove-files"]) {
        for word in operands(words, &["-f", "-C"]).into_iter().skip(2) {
            files::delete_word(act, word, &command.directories, line);
        }
    }
}

pub(super) fn fetch(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let words = command.arguments();
    act.level = act.level.max(Level::Write);
    let request = forge::Request::of(command);
    let goes_out = !request.stays_here();
    if goes_out && let Some(what) = request.merges() {
        act.find(RiskKind::Merge, what);
    }
    for options in [&["-o", "--output"][..], &["-O", "--output-document"][..]] {
        let is_curl = command.program() == Some("curl");
        if is_curl != (options[0] == "-o") {
            continue;
        }
        if let Some(path) = value_of(words, options).filter(|path| *path != "-") {
            files::write_word(act, &Word::exact(path), &command.directories, line);
        }
    }
    for (at, word) in words.iter().enumerate() {
        let text = word.text.as_str();
        let next = words.get(at + 1).map_or("", |word| word.text.as_str());
        let sends = match text {
            "-T" | "--upload-file" | "--post-file" | "--body-file" => true,
            "-d" | "--data" | "--data-binary" | "--data-raw" | "--data-urlencode" | "-F"
            | "--form" => {
                next.contains('@') && !next.contains("://")
                    || !words.get(at + 1).is_some_and(|word| word.exact)
            }
            text => {
                text.starts_with("-d@")
                    || text.starts_with("--post-file=")
                    || text.starts_with("--data-binary=@")
            }
        };
        if sends && goes_out {
            act.find(RiskKind::SendOut, text);
        }
        if matches!(
            text,
            "-u" | "--user" | "--netrc" | "-n" | "--netrc-file" | "-b" | "--cert" | "--key"
        ) && text != "-b"
            && goes_out
        {
            act.find(RiskKind::Credentials, text);
        }
        if text == "-K" || text == "--config" {
            act.find(RiskKind::NotUnderstood, "curl --config");
        }
        if !word.exact && text.contains("$(") && goes_out {
            act.find(RiskKind::SendOut, text);
        }
    }
    if goes_out && let Some(method) = request.writing_method() {
        act.find(RiskKind::SendOut, method);
    }
    if has(
        words,
        &[
            "-x",
            "--proxy",
            "--socks5",
            "--noproxy",
            "--unix-socket",
            "--preproxy",
        ],
    ) {
        act.find(RiskKind::Egress, "another proxy");
    }
}

pub(super) fn send(act: &mut Act, words: &[Word]) {
    let program = act.argv.first().cloned().unwrap_or_default();
    act.find(RiskKind::SendOut, program);
    if words.iter().any(|word| word.text.contains("ProxyCommand")) {
        act.find(RiskKind::NotUnderstood, "scp");
    }
}

pub(super) fn rsync(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let words = command.arguments();
    let mut given = operands(
        words,
        &[
            "-e",
            "--rsh",
            "--exclude",
            "--include",
            "-f",
            "--filter",
            "--exclude-from",
            "--files-from",
        ],
    );
    if let Some(shell) = value_of(words, &["-e", "--rsh"])
        && program_name(shell.split(' ').next().unwrap_or("")) != "ssh"
    {
        act.find(RiskKind::NotUnderstood, "rsync -e");
    }
    let Some(target) = given.pop() else {
        return;
    };
    let is_remote = |word: &Word| {
        word.text.contains("::")
            || word
                .text
                .split('/')
                .next()
                .is_some_and(|head| head.contains(':'))
    };
    if is_remote(target) {
        act.find(RiskKind::SendOut, "rsync");
        return;
    }
    if words.iter().any(|word| word.text.starts_with("--del")) {
        files::delete_word(act, target, &command.directories, line);
    }
    files::write_tree(act, target, &command.directories, line);
    if has(words, &["--remove-source-files"]) {
        for word in given {
            files::delete_word(act, word, &command.directories, line);
        }
    }
}
