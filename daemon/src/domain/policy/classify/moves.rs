//! Programs that delete, copy, move and change files.

use super::{
    super::{
        risk::RiskKind,
        shell::{SimpleCommand, Word, absolute, narrows, program_name, starting_points},
    },
    Act, Line, files,
    guarded::{Extent, is_credential, is_git, kind_below, kind_of_file},
    has, named, operands,
    paths::{Place, is_system, place},
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
    let deletes = words.iter().any(|word| word.text == "-delete");
    if deletes || changes_what_it_finds(words) {
        wanted_names(act, words);
    }
    if !deletes {
        return;
    }
    let mut roots = starting_points(words);
    let here = Word::exact(".");
    if roots.is_empty() {
        roots.push(&here);
    }
    let narrowed = narrows(words);
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

/// Whether `find` starts what deletes, moves or changes files.
fn changes_what_it_finds(words: &[Word]) -> bool {
    let mut starts = words.windows(2).filter(|pair| {
        let option = pair[0].text.as_str();
        matches!(option, "-exec" | "-execdir" | "-ok" | "-okdir")
    });
    let in_place = words.iter().any(|word| word.text.starts_with("-i"));
    starts.any(|pair| match program_name(&pair[1].text) {
        "rm" | "mv" | "shred" | "unlink" | "truncate" => true,
        "sed" | "perl" => in_place,
        _ => false,
    })
}

/// The names and paths that `find` looks for.
fn wanted_names(act: &mut Act, words: &[Word]) {
    for (at, pair) in words.windows(2).enumerate() {
        let negated = at > 0 && matches!(words[at - 1].text.as_str(), "!" | "-not");
        let wanted = pair[1].text.as_str();
        let kind = match pair[0].text.as_str() {
            _ if negated => None,
            "-name" | "-iname" => kind_of_file(wanted),
            "-path" | "-ipath" | "-wholename" | "-iwholename" => {
                let below = wanted.trim_start_matches("./").trim_start_matches("*/");
                match below.split('/').next().is_some_and(is_git) {
                    true => Some(RiskKind::GitInternals),
                    false => kind_below(below, Extent::Some),
                }
            }
            _ => None,
        };
        if let Some(kind) = kind {
            act.find(kind, wanted);
        }
    }
}

pub(super) fn copy(act: &mut Act, command: &SimpleCommand, line: &mut Line<'_>) {
    let words = command.arguments();
    let here = &command.directories;
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
    let makes_links = matches!(program.as_str(), "ln" | "link")
        || program == "cp" && has(words, &["-s", "-l", "--symbolic-link", "--link"]);
    let target = match value_of(words, &["-t", "--target-directory"]) {
        Some(directory) => Some(Word::exact(format!("{directory}/"))),
        None if given.len() > 1 => given.pop().cloned(),
        // `ln -s ../x` makes `x` here.
        None => makes_links.then(|| Word::exact(".")),
    };
    if program == "mv" {
        for word in &given {
            if target
                .as_ref()
                .is_some_and(|target| target.text == "/dev/null")
            {
                files::delete_word(act, word, here, line);
            } else {
                moved(act, word, here, line);
            }
        }
    }
    let Some(target) = target else {
        return;
    };
    let recursive = ["-r", "-R", "-a", "--recursive", "--archive"];
    match program == "mv" || makes_links || program == "cp" && has(words, &recursive) {
        true => files::write_tree(act, &target, here, line),
        false => files::write_word(act, &target, here, line),
    }
    // Into a directory, files keep their names.
    if matches!(program.as_str(), "cp" | "mv" | "install") {
        let name_of = |text: &str| {
            let text = text.trim_end_matches('/');
            text.rsplit('/').next().unwrap_or("").to_owned()
        };
        let is_directory = target.text.ends_with(['/', '.'])
            || given.len() > 1
            || !name_of(&target.text).contains('.');
        let keeps_names = is_directory && target.exact;
        for word in given.iter().filter(|word| word.exact && keeps_names) {
            let inside = Word {
                text: format!("{}/{}", target.text, name_of(&word.text)),
                ..target.clone()
            };
            files::write_tree(act, &inside, here, line);
        }
    }
    if makes_links {
        let symbolic = has(words, &["-s", "--symbolic", "--symbolic-link"]);
        for word in given {
            linked(act, word, &target, symbolic, here, line);
        }
    }
}

/// What a link leads to is changed through it later, under another name.
fn linked(
    act: &mut Act,
    source: &Word,
    target: &Word,
    symbolic: bool,
    here: &[String],
    line: &mut Line<'_>,
) {
    let links: Vec<String> = files::places(target, here).into_iter().flatten().collect();
    // A symbolic link starts where it lies: inside a directory that is named, or
    // beside its own name.
    let is_directory = target.text.ends_with(['/', '.']);
    let beside = links.iter().filter(|_| !is_directory);
    let beside = beside.map(|link| absolute("..", link));
    let from: Vec<String> = match symbolic {
        true => beside.chain(links.iter().cloned()).collect(),
        false => here.to_vec(),
    };
    let subject = format!("a link to {}", source.text);
    for path in files::places(source, &from) {
        let Some(path) = path else {
            act.find(RiskKind::NotUnderstood, &subject);
            continue;
        };
        match place(&path, line.repository) {
            Place::Scratch => {}
            Place::GitInternals => act.find(RiskKind::GitInternals, &subject),
            Place::WholeRepository => act.find(RiskKind::NotUnderstood, &subject),
            Place::Repository(relative) => {
                if let Some(kind) = kind_below(&relative, Extent::Whole) {
                    act.find(kind, relative);
                }
            }
            Place::Outside => {
                let kind = if is_credential(&path) {
                    RiskKind::Credentials
                } else if is_system(&path) {
                    RiskKind::WriteSystem
                } else {
                    RiskKind::NotUnderstood
                };
                act.find(kind, &subject);
                line.links.extend(links.iter().cloned());
            }
        }
    }
}

/// What is moved away is gone from where it was.
pub(super) fn moved(act: &mut Act, word: &Word, directories: &[String], line: &Line<'_>) {
    for path in files::places(word, directories) {
        let Some(path) = path else {
            act.find(RiskKind::WriteOutside, &word.text);
            continue;
        };
        act.paths.push(named(&path, line.repository));
        match place(&path, line.repository) {
            Place::WholeRepository | Place::GitInternals => {
                act.find(RiskKind::DeleteRepository, path)
            }
            Place::Repository(relative) => files::gone(act, relative),
            Place::Scratch => {}
            Place::Outside => act.find(RiskKind::DeleteOutside, path),
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
