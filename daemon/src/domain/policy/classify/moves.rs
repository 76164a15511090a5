//! Programs that delete, copy, move and change files.

use super::{
    super::{
        risk::RiskKind,
        shell::{SimpleCommand, Word},
    },
    Act, Line, files, has, operands,
    paths::{Place, is_credential, is_system, place},
    value_of,
};

pub(super) fn delete(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let valued = ["-n", "--iterations", "-s", "--size", "--random-source"];
    let valued = if command.program() == Some("shred") {
        &valued[..]
    } else {
        &[]
    };
    for word in operands(command.arguments(), valued) {
        files::delete_word(act, word, &command.directories, line);
    }
    if has(command.arguments(), &["--no-preserve-root"]) {
        act.find(RiskKind::DeleteOutside, "/");
    }
}

pub(super) fn find(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let words = command.arguments();
    for (at, word) in words.iter().enumerate() {
        if matches!(
            word.text.as_str(),
            "-fprint" | "-fprintf" | "-fls" | "-fprint0"
        ) && let Some(target) = words.get(at + 1)
        {
            files::write_word(act, target, &command.directories, line);
        }
    }
    if !words.iter().any(|word| word.text == "-delete") {
        return;
    }
    let mut roots: Vec<&Word> = words
        .iter()
        .skip_while(|word| matches!(word.text.as_str(), "-L" | "-P" | "-H"))
        .take_while(|word| !word.text.starts_with(['-', '(', '!']))
        .collect();
    let here = Word::exact(".");
    if roots.is_empty() {
        roots.push(&here);
    }
    let narrowed = words.iter().any(|word| {
        matches!(
            word.text.as_str(),
            "-name"
                | "-iname"
                | "-path"
                | "-regex"
                | "-empty"
                | "-newer"
                | "-mtime"
                | "-size"
                | "-ipath"
                | "-mmin"
        )
    });
    for root in roots {
        match (narrowed, root.known()) {
            // Of what lies below it, some.
            (true, Some(text)) => {
                let below = Word::exact(format!("{}/?", text.trim_end_matches('/')));
                files::delete_word(act, &below, &command.directories, line);
            }
            _ => files::delete_word(act, root, &command.directories, line),
        }
    }
}

pub(super) fn copy(act: &mut Act, command: &SimpleCommand, line: &mut Line<'_>) {
    let words = command.arguments();
    let program = command.program().unwrap_or_default().to_owned();
    let valued = [
        "-t",
        "--target-directory",
        "-S",
        "--suffix",
        "-m",
        "--mode",
        "-o",
        "--owner",
        "-g",
        "--group",
    ];
    let mut given = operands(words, &valued);
    let target = match value_of(words, &["-t", "--target-directory"]) {
        Some(directory) => Some(Word::exact(directory)),
        None if given.len() > 1 => given.pop().cloned(),
        // `ln -s ../x` makes `x` here.
        None => None,
    };
    if program == "mv" {
        for word in &given {
            if target
                .as_ref()
                .is_some_and(|target| target.text == "/dev/null")
            {
                files::delete_word(act, word, &command.directories, line);
            } else {
                moved(act, word, &command.directories, line);
            }
        }
    }
    let Some(target) = target else {
        return;
    };
    files::write_word(act, &target, &command.directories, line);
    // Into a directory, files keep their names.
    if matches!(program.as_str(), "cp" | "mv" | "install") {
        for word in given.iter().filter(|word| word.exact) {
            let name = word
                .text
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or("");
            if target.text.ends_with('/') || target.text == "." {
                let inside = Word {
                    text: format!("{}/{name}", target.text),
                    ..target.clone()
                };
                files::write_word(act, &inside, &command.directories, line);
            }
        }
    }
    if program == "ln" {
        for word in given {
            for source in files::places(word, &command.directories) {
                let outside = source
                    .as_deref()
                    .is_none_or(|source| place(source, line.repository) == Place::Outside);
                if outside && has(words, &["-s", "--symbolic"]) {
                    for link in files::places(&target, &command.directories)
                        .into_iter()
                        .flatten()
                    {
                        line.links.insert(link);
                    }
                    if source.as_deref().is_none_or(|source| {
                        is_credential(source) || source == "/" || source == "~"
                    }) {
                        act.find(RiskKind::WriteSystem, format!("a link to {}", word.text));
                    }
                }
            }
        }
    }
}

/// What is moved away is gone from where it was.
fn moved(act: &mut Act, word: &Word, directories: &[String], line: &Line<'_>) {
    for path in files::places(word, directories) {
        match path {
            Some(path) => match place(&path, line.repository) {
                Place::WholeRepository | Place::GitInternals => {
                    act.find(RiskKind::DeleteRepository, path)
                }
                Place::Repository(_) | Place::Scratch => {}
                Place::Outside => act.find(RiskKind::DeleteOutside, path),
            },
            None => act.find(RiskKind::WriteOutside, &word.text),
        }
    }
}

/// Programs whose operands are files that they change.
pub(super) fn change(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let words = command.arguments();
    let program = command.program().unwrap_or_default();
    let valued: &[&str] = match program {
        "touch" => &["-d", "-r", "-t", "--date", "--reference"],
        "mkdir" | "mkfifo" => &["-m", "--mode"],
        "truncate" => &["-s", "--size", "-r", "--reference"],
        "patch" => &["-p", "-i", "-d", "--input", "--directory"],
        _ => &["--reference"],
    };
    let skip = usize::from(matches!(
        program,
        "chmod" | "chown" | "chgrp" | "setfacl" | "chattr"
    ));
    // `chmod +x file` of the repository changes nothing that is asked about.
    let is_mode = skip > 0;
    for word in operands(words, valued).into_iter().skip(skip) {
        if !is_mode && program != "mkdir" {
            files::write_word(act, word, &command.directories, line);
            continue;
        }
        for path in files::places(word, &command.directories) {
            match path
                .as_deref()
                .map(|path| (path, place(path, line.repository)))
            {
                Some((path, Place::Outside)) if is_system(path) => {
                    act.find(RiskKind::WriteSystem, path)
                }
                Some((path, Place::Outside)) => act.find(RiskKind::WriteOutside, path),
                Some((path, Place::GitInternals)) => act.find(RiskKind::GitInternals, path),
                Some(_) => {}
                None => act.find(RiskKind::WriteOutside, &word.text),
            }
        }
    }
    if program == "chmod"
        && words.iter().any(|word| {
            word.text.contains("+s") || word.text.starts_with("4") && word.text.len() == 4
        })
    {
        act.find(RiskKind::WriteSystem, "set-user-id");
    }
}
